"""Prometheus metrics: each is moved where the work it counts has been done."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily
from prometheus_client.registry import Collector

from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.daemon.client import KINDS
from quantum_ai_engine.daemon.commit import DeadLetter
from quantum_ai_engine.daemon.status import STATES, Status
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import FAILURES, Abstained, Abstention, Reason, Signal, Stance

# The moment at which each series began would double their number, for nothing.
disable_created_metrics()  # type: ignore[no-untyped-call]

_LATENCY_S = (
    0.0005, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.05, 0.075,
    0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.0, 5.0, 10.0,
)  # fmt: skip
OUTCOMES = ("processed", "duplicate", "dead")
SILENCES = ("burn_in", "expired", "lagging", "no_effective_vote", "unchanged")
REDIS_FAILURES = (*KINDS, "other", "publish")
SNAPSHOT_FAILURES = ("save", "refused")
ANSWERS = ("200", "400", "404", "429", "503", "504")


class LogCounts(Protocol):
    """What a log knows of lines that were not written."""

    @property
    def dropped(self) -> int: ...

    @property
    def suppressed(self) -> Mapping[str, int]: ...


class Metrics:
    """All metrics of one daemon, in a registry of its own.

    A counter whose labels are known stands at 0 from the start: where it first appeared at 1,
    `increase()` would not see that.
    """

    def __init__(self, version: str, build: str, config: str) -> None:
        self.registry = registry = CollectorRegistry()
        counter, gauge = _makers(registry)
        self.bars = counter("bars", "Bars by what became of them", "outcome")
        self.signals = counter("signals", "Signals committed", "stance")
        self.silent = counter("silent_bars", "Processed bars without a signal", "reason")
        self.bar_to_signal = Histogram(
            "qae_bar_to_signal_seconds",
            "From a bar's receipt out of Redis to its signal's commit",
            buckets=_LATENCY_S,
            registry=registry,
        )
        self.stages = _histogram(
            registry, "stage", "One stage of a round or of a part of it", "stage"
        )
        self.inference = _histogram(registry, "inference", "One batch of one agent", "agent")
        self.abstentions = counter("abstentions", "Abstentions", "agent", "reason")
        self.effective_votes = gauge("effective_votes", "Effective votes of the last bar")
        self.trust = gauge("trust", "Share of the last forecast", "agent")
        self.ready = gauge("ready", "1 when warmed up and Redis answers")
        self.states = gauge("state", "1 for the word that /health says", "state")
        self.last_close = gauge(
            "last_bar_close_timestamp_seconds", "Close time of the newest processed bar"
        )
        self.loop_lag = gauge("event_loop_lag_seconds", "Delay of the event loop, last measured")
        self.lag = gauge("lag_seconds", "How far the position is behind the newest entry")
        self.lag_bars = gauge("lag_bars", "Entries not read yet; counted up to 10,000 a partition")
        self.stale = gauge("stale_series", "Series whose bars have stopped")
        self.owner = gauge("owner", "1 where this process owns the partition", "partition")
        self.busy_workers = gauge("pool_busy_workers", "Agent threads at work")
        self.rested = counter("rest_seconds", "Rounds put off so that the CPU budget is kept")
        self.predictions = counter("predictions", "Predictions asked over HTTP", "status")
        self.waiting = gauge("waiting_predictions", "Predictions asked over HTTP, not answered yet")
        self.clamped = gauge("clamped_values", "Inputs clamped so far", "agent")
        self.conflicts = counter("commit_conflicts", "Commits refused by the script")
        self.dead = counter("dead_letters", "Refused entries", "reason")
        self.gaps = counter("gaps", "Holes in front of a bar")
        self.late = counter("late_bars", "Bars that came after newer ones and were put in order")
        self.revised = counter("revised_bars", "Bars that took the place of an earlier version")
        self.filled = counter("filled_bars", "Flat bars that were put in the place of missing ones")
        self.amended = counter("amended_signals", "Signals that took the place of an earlier one")
        self.trimmed = counter("position_trimmed", "Positions found trimmed out of the stream")
        self.state_lost = counter("state_lost", "Times that Redis had lost the committed position")
        self.ownership_lost = counter("ownership_lost", "Partitions lost to another process")
        self.snapshots = counter("snapshots", "Snapshots of the state saved")
        self.snapshot_bytes = gauge("snapshot_bytes", "Size of the newest snapshot")
        self.snapshot_failures = counter(
            "snapshot_failures", "Snapshots not saved, or of no use at a start", "kind"
        )
        self.bridged = counter("bridged_messages", "Messages copied from the bar channel")
        self.redis_failures = counter("redis_failures", "Commands Redis did not serve", "kind")
        self.generation = gauge("config_generation", "Settings in force since the start, counted")
        self.reload_successful = gauge(
            "config_last_reload_successful", "0 when the settings read last were refused"
        )
        self.dropped_logs = gauge("log_records_dropped", "Log records dropped, the queue was full")
        self.browsers = gauge("page_browsers", "Browsers that follow the live page")
        self.page_failures = counter("page_failures", "Times that the live page could not be built")
        self.build_info = gauge("build_info", "What runs", "version", "build", "config")
        self._version, self._build = version, build
        self.show_config(config, 1)
        ProcessCollector(namespace="qae", registry=registry)
        self._begin()

    def _begin(self) -> None:
        _begin(self.bars, OUTCOMES)
        _begin(self.signals, Stance)
        _begin(self.silent, SILENCES)
        _begin(self.dead, Reason)
        _begin(self.redis_failures, REDIS_FAILURES)
        _begin(self.predictions, ANSWERS)
        _begin(self.snapshot_failures, SNAPSHOT_FAILURES)

    def show_config(self, config: str, generation: int) -> None:
        """Show hash and count of the settings in force: they are those that were read last."""
        self.generation.set(generation)
        self.reload_successful.set(1)
        self.build_info.clear()
        self.build_info.labels(self._version, self._build, config).set(1)

    def update(self, done: Round, dead: Sequence[DeadLetter], seconds: float) -> None:
        """Count a committed round that took `seconds` from receipt to commit."""
        self.bars.labels("processed").inc(done.processed)
        self.bars.labels("duplicate").inc(done.duplicates)
        self.bars.labels("dead").inc(len(dead))
        self.gaps.inc(done.gaps)
        self.late.inc(done.late)
        self.revised.inc(done.revised)
        self.filled.inc(done.filled)
        for letter in dead:
            self.dead.labels(letter.refused.reason.value).inc()
        for reason, count in done.silent.items():
            self.silent.labels(reason).inc(count)
        self._count_abstentions(done.unheard)
        for signal in done.signals:
            self._count_signal(signal)
            self.bar_to_signal.observe(seconds)
        if done.signals:
            self._show_votes(done.signals[-1])
        elif any(abstention.reason in FAILURES for abstention in done.unheard):
            self.effective_votes.set(0)

    def observe_pool(self, pool: AgentPool) -> None:
        """Read the pool's own numbers whenever they are asked for."""
        self.busy_workers.set_function(lambda: pool.busy_workers)
        for agent in pool.agents:
            self.clamped.labels(agent.name).set_function(lambda a=agent: a.clamped)
            for reason in Abstained:
                self.abstentions.labels(agent.name, reason.value)

    def observe_log(self, log: LogCounts) -> None:
        """Read the log's own numbers whenever they are asked for."""
        self.dropped_logs.set_function(lambda: log.dropped)
        self.registry.register(_SuppressedLines(log))

    def show(self, status: Status) -> None:
        """Show how the engine is, and how far behind."""
        now = status.state()
        for state in STATES:
            self.states.labels(state).set(state == now)
        self.ready.set(status.ready)
        self.lag.set(status.lag_ms / 1000)
        self.lag_bars.set(status.lag_bars)
        self.stale.set(len(status.stale))

    def render(self) -> bytes:
        """The text format."""
        return generate_latest(self.registry)

    def _count_signal(self, signal: Signal) -> None:
        self.signals.labels(signal.stance.value).inc()
        self.amended.inc(signal.amends is not None)
        self._count_abstentions(signal.abstained)

    def _count_abstentions(self, abstained: Sequence[Abstention]) -> None:
        for abstention in abstained:
            self.abstentions.labels(abstention.agent, abstention.reason.value).inc()

    def _show_votes(self, signal: Signal) -> None:
        self.effective_votes.set(signal.effective_votes)
        for vote in signal.votes:
            self.trust.labels(vote.agent).set(vote.trust)
        for abstention in signal.abstained:
            self.trust.labels(abstention.agent).set(0)


class _SuppressedLines(Collector):
    def __init__(self, log: LogCounts) -> None:
        self._log = log

    def collect(self) -> Iterable[CounterMetricFamily]:
        family = CounterMetricFamily(
            "qae_log_lines_suppressed", "Log lines held back, too many alike", labels=["event"]
        )
        for event, lines in sorted(self._log.suppressed.items()):
            family.add_metric([event], lines)
        yield family


def _begin(counter: Counter, values: Iterable[str]) -> None:
    for value in values:
        counter.labels(str(value))


def _makers(registry: CollectorRegistry):  # type: ignore[no-untyped-def]  # two local short-hands
    def counter(name: str, text: str, *labels: str) -> Counter:
        return Counter(f"qae_{name}", text, labels, registry=registry)

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"qae_{name}", text, labels, registry=registry)

    return counter, gauge


def _histogram(registry: CollectorRegistry, name: str, text: str, label: str) -> Histogram:
    return Histogram(f"qae_{name}_seconds", text, [label], buckets=_LATENCY_S, registry=registry)
