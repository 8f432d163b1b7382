"""What the page shows of the whole engine: read from the process itself when somebody asks."""

import itertools
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.page import words
from quantum_ai_engine.daemon.page.history import History
from quantum_ai_engine.daemon.page.ring import Ring
from quantum_ai_engine.daemon.page.wrong import wrong
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.events import Bar, Change, Signal
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.breakers import MEANINGS, BreakerName
from quantum_ai_engine.risk.policy import Mode
from quantum_ai_engine.state.judgement import Judgement

LATEST = 16
TIMELINE = 100
SERIES_SHOWN = 100
MODES = tuple(Mode)  # from the strictest

Facts = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Sources:
    """All that the page reads; it changes none of it. `in_force` gives the settings of now."""

    in_force: Callable[[], Settings]
    status: Status
    metrics: Metrics
    ring: Ring
    history: History
    engines: Callable[[], Mapping[int, Engine]]

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.in_force()

    @property
    def identity(self) -> Identity:
        """Whose signals these are."""
        runs = self.status.in_force
        return Identity(self.settings.engine.environment, runs.engine, runs.config_hash)

    def judgements(self) -> dict[int, Judgement]:
        """The judgement of each partition that is served here."""
        return {p: engine.state.judgement for p, engine in self.engines().items()}


def now_ms() -> float:
    """The wall clock, in ms."""
    return time.time() * 1000


def strip(sources: Sources) -> Facts:
    """What every page shows at its top."""
    status, judgements = sources.status, sources.judgements()
    risks = [judgement.rulings[-1].risk for judgement in judgements.values()]
    modes = [judgement.policy.get().mode for judgement in judgements.values()]
    return {
        "state": status.state(),
        "reason": status.reason(),
        "risk": max((risk.state for risk in risks), key=_strictness, default=words.NO_DATA),
        "mode": min(modes, key=MODES.index).value if modes else words.NO_DATA,
        "bar": last_bar(sources),
        "problems": len(wrong(status, judgements)),
    }


def last_bar(sources: Sources) -> Facts:
    """When the last bar was dealt with and when it closed, and whether the next one is overdue.

    Under `engine.clock = bars` a close says nothing of how late it is.
    """
    status = sources.status
    age_s = None if status.worked_at is None else time.monotonic() - status.worked_at
    received = None if age_s is None else now_ms() - age_s * 1000
    word = words.NO_DATA
    if received is not None:
        word = "stale" if status.overdue_s() > 0.0 else "fresh"
    return {
        "word": word,
        "tone": {"stale": "bad", "fresh": "good"}.get(word, "none"),
        "received_at": received,
        "close_time": status.last_close_time,
        "is_wall": sources.settings.engine.clock == "wall",
        "patience_s": status.patience_s or None,
    }


def overview(sources: Sources) -> Facts:
    """Is it alive, what did it last say, how late is it, and what is wrong."""
    status, judgements = sources.status, sources.judgements()
    last = next(sources.ring.signals(), None)
    return {
        "wrong": wrong(status, judgements),
        "health": status,
        "recent": sources.history.recent(time.monotonic()),
        "bar": last_bar(sources),
        "last": last,
        "last_latency_s": sum(last.latency_us.values()) / 1e6 if last and last.latency_us else None,
        "policies": {p: judgement.policy.get() for p, judgement in judgements.items()},
        "risks": {p: judgement.rulings[-1].risk for p, judgement in judgements.items()},
        "open": [name for name, _ in _open_breakers(judgements)],
        "agents": brief(sources),
        "latest": list(itertools.islice(sources.ring.signals(), LATEST)),
        "is_lagging": status.lag_ms > sources.settings.ingest.lagging_ms,
        "uptime_s": time.time() - status.started_at,
        "identity": sources.identity,
    }


def brief(sources: Sources) -> list[Facts]:
    """One line of each agent."""
    rows: list[Facts] = []
    for partition, judgement in sources.judgements().items():
        weights = judgement.trust.weights.tolist()
        agents = zip(judgement.agents, judgement.states, weights, strict=False)
        for column, ((name, bundle), state, weight) in enumerate(agents):
            score = judgement.scores.pooled(column)
            rows.append(
                {
                    "partition": partition,
                    "name": name,
                    "bundle": bundle,
                    "standing": state.value,
                    "trust": weight,
                    "status": sources.status.agents[name],
                    "score": score,
                    "base": score.brier - score.paired if score else None,
                }
            )
    return rows


def risk(sources: Sources) -> Facts:
    """What may be held, each breaker against its limits, and what changed, newest first."""
    return {
        "rulings": [_ruled(p, judgement) for p, judgement in sources.judgements().items()],
        "breakers": [
            _breakers(sources, p, judgement) for p, judgement in sources.judgements().items()
        ],
        "timeline": timeline(sources),
    }


def timeline(sources: Sources) -> list[Change]:
    """The newest changes of state, mode and standing."""
    return list(itertools.islice(sources.ring.changes(), TIMELINE))


def _ruled(partition: int, judgement: Judgement) -> Facts:
    ruling, paper = judgement.rulings[-1], judgement.portfolio.get()
    return {
        "partition": partition,
        "as_of": ruling.at_ms or None,
        "risk": ruling.risk,
        "policy": judgement.policy.get(),
        "paper": paper if judgement.rulings[-1].at_ms else None,
    }


def _breakers(sources: Sources, partition: int, judgement: Judgement) -> Facts:
    limits = sources.settings.risk.breaker_limits()
    rows = [
        {
            "state": breaker,
            "meaning": MEANINGS[breaker.name],
            "limits": limits.get(breaker.name.value),
            "is_age": breaker.name is BreakerName.PNL_STALE,
        }
        for breaker in judgement.brain.breakers()
    ]
    return {"partition": partition, "rows": rows}


def _open_breakers(judgements: Mapping[int, Judgement]) -> list[tuple[str, int]]:
    """Name and partition of each breaker that is open."""
    return [
        (words.word(breaker.name.value), partition)
        for partition, judgement in judgements.items()
        for breaker in judgement.brain.breakers()
        if breaker.is_open
    ]


def _strictness(state: str) -> int:
    return list(State).index(State(state))


def series(sources: Sources, wanted: str = "") -> Facts:
    """The known series whose names hold `wanted`: the newest bar of each; some, if too many."""
    stale, named = set(sources.status.stale), list[tuple[bool, str, str, int]]()
    for partition, engine in sources.engines().items():
        for symbol, interval in engine.state.names():
            if wanted.lower() in symbol.lower():
                is_fresh = f"{symbol} {interval}" not in stale
                named.append((is_fresh, symbol, interval, partition))
    rows = [_row(sources, *one) for one in sorted(named)[:SERIES_SHOWN]]
    return {"rows": rows, "total": len(named), "wanted": wanted}


def _row(sources: Sources, is_fresh: bool, symbol: str, interval: str, partition: int) -> Facts:
    state = sources.engines()[partition].state
    at = state.at(symbol, interval)
    newest = state.newest(at)
    return {
        "partition": partition,
        "symbol": symbol,
        "interval": interval,
        "bars": state.features.count(at),
        "close_time": newest.close_time if newest else None,
        "is_stale": not is_fresh,
    }


def symbol(sources: Sources, engine: Engine, symbol: str, interval: str) -> Facts:
    """One series: its bars, what was said of it lately and why, what is wanted and held."""
    at = engine.state.at(symbol, interval)
    judgement, newest = engine.state.judgement, engine.state.newest(at)
    held = judgement.portfolio.exposures()
    said = list(itertools.islice(sources.ring.signals(of_series(symbol, interval)), LATEST))
    return {
        "symbol": symbol,
        "interval": interval,
        "intervals": sorted(i for s, i in engine.state.names() if s == symbol),
        "bars_seen": engine.state.features.count(at),
        "bar": newest,
        "close_time": newest.close_time if newest else None,
        "is_stale": f"{symbol} {interval}" in sources.status.stale,
        "signal": said[0] if said else None,
        "is_expired": bool(said) and is_expired(sources, said[0], newest),
        "said": said,
        "exposure": float(held[at]) if at < len(held) and judgement.rulings[-1].at_ms else None,
        "volatility": _volatility(judgement, at),
        "burn_in": sources.settings.engine.burn_in_bars,
    }


def is_expired(sources: Sources, signal: Signal, newest: Bar | None) -> bool:
    """Whether a signal means nothing any more, by the clock of the engine."""
    if sources.settings.engine.clock == "wall":
        return now_ms() > signal.valid_until
    return newest is not None and newest.close_time > signal.valid_until


def of_series(symbol: str, interval: str) -> Callable[[Signal], bool]:
    """Whether a signal is of a series."""
    return lambda signal: signal.symbol == symbol and signal.interval == interval


def _volatility(judgement: Judgement, at: int) -> float | None:
    """Annualised; None while it is not known."""
    values = judgement.rulings[-1].volatility
    return float(values[at]) if at < len(values) and math.isfinite(values[at]) else None
