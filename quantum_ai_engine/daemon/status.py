"""What the daemon has done lately: the one source of health, heartbeat and status line.

Everything here is written where the work happens; nothing is derived from what exists or is
configured.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.daemon.answers import (
    BarCounts,
    ConfigHealth,
    EnsembleHealth,
    Health,
    LastBar,
    ModelHealth,
)
from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import FAILURES, Abstained, Abstention

OVERDUE_INTERVALS = 2.5
STATES = ("ok", "idle", "warming_up", "standby", "degraded", "stopping")
STALE_NAMED = 20  # of the stale series, in a heartbeat


@dataclass(slots=True)
class AgentStatus:
    """The last work of one agent; `unavailable` says why it can do none on this machine."""

    votes: int = 0
    last_vote_close_time: int | None = None
    abstentions: int = 0
    reason: Abstained | None = None
    unavailable: str | None = None

    def state(self) -> str:
        """`active` when its latest answer was a vote, else why it was not."""
        if self.reason is None:
            return "active" if self.votes else "warming_up"
        return "warming_up" if self.reason is Abstained.WARMING_UP else self.reason.value


@dataclass(slots=True, kw_only=True)
class Work:
    """Counts and moments of completed work.

    `expired` says that the last bars came too late for a signal; `worked_at` is when they were
    dealt with, by the monotonic clock, and `patience_s` after how long the next one is overdue.
    """

    processed: int = 0
    refused: int = 0
    duplicates: int = 0
    signals: int = 0
    last_close_time: int | None = None
    effective_votes: float | None = None
    expired: bool = False
    worked_at: float | None = None
    patience_s: float = 0.0

    @property
    def seen(self) -> int:
        """Entries that have been dealt with, one way or another."""
        return self.processed + self.duplicates + self.refused

    def overdue_s(self) -> float:
        """For how long the next bar has been overdue; 0 when it is not."""
        if self.worked_at is None or not self.patience_s:
            return 0.0
        return max(0.0, time.monotonic() - self.worked_at - self.patience_s)

    def word(self) -> str:
        """How it goes where nothing is wrong: warming_up, idle or ok."""
        if not self.effective_votes:
            return "warming_up"
        return "idle" if self.overdue_s() > 0.0 or self.expired else "ok"

    def add(self, done: Round, refused: int) -> None:
        """Take note of a committed round."""
        self.processed += done.processed
        self.duplicates += done.duplicates
        self.refused += refused
        self.signals += len(done.signals)
        if done.processed:
            self.worked_at = time.monotonic()
            self.patience_s = OVERDUE_INTERVALS * done.longest_interval_ms / 1000
            self.expired = not done.signals and done.silent["expired"] > 0
        if done.signals:
            self.effective_votes = done.signals[-1].effective_votes
        elif any(abstention.reason in FAILURES for abstention in done.unheard):
            self.effective_votes = 0.0


@dataclass(slots=True)
class PartitionStatus(Work):
    """Where one partition stands, and the work done for it.

    `position` is None while there is no state that belongs to one. `turns` counts the turns of its
    loop, `held_by` names who owns it while we wait, `stale` the series whose bars have stopped.
    """

    partition: int = 0
    position: str | None = None
    turns: int = 0
    lag_ms: int = 0
    lag_bars: int = 0
    redis_error: str | None = "not connected yet"
    held_by: str | None = None
    stale: tuple[str, ...] = ()

    def hindrance(self) -> str | None:
        """Why it is not served, in a sentence; None when it is."""
        if self.redis_error is not None:
            return f"Redis cannot serve: {self.redis_error}"
        if self.held_by is not None:
            return f"partition {self.partition} is owned by {self.held_by}"
        return f"the state of partition {self.partition} is rebuilt" if not self.position else None


@dataclass(slots=True)
class InForce:
    """What runs: the engine's version and build, and the settings, counted since the start.

    `refused` is why the settings that were read last are not in force; None when they are.
    """

    engine: str = ""
    config_hash: str = ""
    generation: int = 1
    refused: str | None = None


@dataclass(slots=True)
class Status(Work):
    """The work done for all partitions, and where each of them and each agent stands."""

    agents: dict[str, AgentStatus]
    partitions: dict[int, PartitionStatus]
    in_force: InForce = field(default_factory=InForce)
    started_at: float = field(default_factory=time.time)
    loop_lag_s: float = 0.0
    stopping: bool = False

    @classmethod
    def of(cls, agents: Sequence[Agent], partitions: Iterable[int] = (0,)) -> "Status":
        named = {
            agent.name: AgentStatus(
                reason=Abstained.UNAVAILABLE if agent.unavailable else None,
                unavailable=agent.unavailable,
            )
            for agent in agents
        }
        return cls(named, {p: PartitionStatus(partition=p) for p in partitions})

    @property
    def turns(self) -> int:
        """How often the loop that has turned the least has turned."""
        return min(one.turns for one in self.partitions.values())

    @property
    def lag_ms(self) -> int:
        """How far the partition that is furthest behind is behind."""
        return max(one.lag_ms for one in self.partitions.values())

    @property
    def lag_bars(self) -> int:
        """How many entries all partitions have yet to read."""
        return sum(one.lag_bars for one in self.partitions.values())

    @property
    def stale(self) -> list[str]:
        """The series of all partitions whose bars have stopped."""
        return [series for one in self.partitions.values() for series in one.stale]

    @property
    def ready(self) -> bool:
        """Whether all partitions are served."""
        return not self.stopping and self._hindered() is None

    def state(self) -> str:
        """One word of `STATES`."""
        hindered = self._hindered()
        if self.stopping:
            return "stopping"
        if (hindered and hindered.redis_error is not None) or self._all_failed():
            return "degraded"
        if hindered:
            return "standby" if hindered.held_by else "warming_up"
        return self.word()

    def reason(self) -> str | None:
        """Why the state is not ok, in a sentence."""
        state, hindered = self.state(), self._hindered()
        if state == "stopping":
            return "the daemon is stopping"
        if hindered and (hindered.redis_error is not None or state != "degraded"):
            return hindered.hindrance()
        if state in ("idle", "warming_up") and self.expired:
            return "bars come too late to be valid (recorded bars need engine.clock = bars)"
        return {
            "degraded": "no agent gives a prediction",
            "idle": f"no bar has come for {self.overdue_s() + self.patience_s:.0f} s",
            "warming_up": "no bar has had a forecast yet: series need their burn-in first",
        }.get(state)

    def update(self, done: Round, refused: int, partition: int = 0) -> None:
        """Take note of a committed round of a partition."""
        self.add(done, refused)
        self.partitions[partition].add(done, refused)
        for abstention in done.unheard:
            self._abstained(abstention)
        for signal in done.signals:
            for vote in signal.votes:
                agent = self.agents[vote.agent]
                agent.votes += 1
                agent.last_vote_close_time = signal.close_time
                agent.reason = None
            for abstention in signal.abstained:
                self._abstained(abstention)

    def note_newest(self, close_time: int, partition: int) -> None:
        """Take note of the newest close time of a partition."""
        for work in (self, self.partitions[partition]):
            work.last_close_time = max(close_time, work.last_close_time or 0)

    def _abstained(self, abstention: Abstention) -> None:
        """Count it; bars that an agent is not made for say nothing about the agent."""
        agent = self.agents[abstention.agent]
        agent.abstentions += 1
        if abstention.reason is not Abstained.OTHER_INTERVAL:
            agent.reason = abstention.reason

    def _hindered(self) -> PartitionStatus | None:
        """The partition that is not served; of several first one that Redis cannot serve."""
        hindered = [one for one in self.partitions.values() if one.hindrance() is not None]
        return min(
            hindered, key=lambda one: (one.redis_error is None, one.held_by is None), default=None
        )

    def heartbeat(self, partition: int = 0) -> dict[str, Any]:
        """The fields of the heartbeat of a partition that is served."""
        one = self.partitions[partition]
        is_degraded = self._all_failed() or one.redis_error is not None
        word = "degraded" if is_degraded else one.word()
        return {
            "state": "stopping" if self.stopping else word,
            "partition": partition,
            "last_bar_close_time": one.last_close_time,
            "bars": one.processed,
            "signals": one.signals,
            "effective_votes": one.effective_votes,
            "lag_ms": one.lag_ms,
            "lag_bars": one.lag_bars,
            "loop_lag_ms": round(self.loop_lag_s * 1000, 3),
            "stale": len(one.stale),
            "stale_series": one.stale[:STALE_NAMED],
            "engine": self.in_force.engine,
            "config_hash": self.in_force.config_hash,
            "config_generation": self.in_force.generation,
        }

    def health(self) -> Health:
        """The body of `/health`."""
        age_s = None if self.last_close_time is None else time.time() - self.last_close_time / 1000
        return Health(
            status=self.state(),
            reason=self.reason(),
            ready=self.ready,
            models={name: self._model(agent) for name, agent in self.agents.items()},
            ensemble=EnsembleHealth(self.effective_votes),
            last_bar=LastBar(self.last_close_time, age_s),
            bars=BarCounts(self.processed, self.duplicates, self.refused),
            signals=self.signals,
            lag_ms=self.lag_ms,
            lag_bars=self.lag_bars,
            stale_series=self.stale,
            loop_lag_ms=round(self.loop_lag_s * 1000, 3),
            engine=self.in_force.engine,
            config=ConfigHealth(
                self.in_force.generation, self.in_force.config_hash, self.in_force.refused
            ),
            uptime_s=round(time.time() - self.started_at, 3),
        )

    def line(self) -> str:
        """One line with numbers, for `systemctl status`."""
        votes = "none" if self.effective_votes is None else f"{self.effective_votes:.1f}"
        text = (
            f"{self.state()}: {self.processed} bars, {self.signals} signals, {self.refused} "
            f"refused, effective votes {votes}, lag {self.lag_ms} ms, "
            f"settings {self.in_force.generation}"
        )
        text += " (newer ones were refused)" if self.in_force.refused else ""
        return f"{text} ({self.reason()})" if self.reason() else text

    def _all_failed(self) -> bool:
        states = [agent.state() for agent in self.agents.values()]
        return all(state not in ("active", "warming_up") for state in states)

    @staticmethod
    def _model(agent: AgentStatus) -> ModelHealth:
        return ModelHealth(
            state=agent.state(),
            reason=agent.unavailable or agent.reason,
            votes=agent.votes,
            abstentions=agent.abstentions,
            last_vote_close_time=agent.last_vote_close_time,
        )
