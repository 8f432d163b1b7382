"""Steps made by hand, for tests of those who follow a replay."""

from collections.abc import Sequence
from typing import Any

from quantum_ai_engine.engine import Round
from quantum_ai_engine.events import Bar, Policy, Signal, Stance, Vote
from quantum_ai_engine.replay.step import Step

from ..following import signal

MINUTE = 60_000
AAA = "AAA"


def bar(minute: int, open_: float = 100.0, close: float | None = None, symbol: str = AAA) -> Bar:
    """A bar that opens at a minute."""
    close = open_ if close is None else close
    low, high = min(open_, close), max(open_, close)
    return Bar(symbol, "1m", minute * MINUTE, open_, high, low, close, 1.0)


def told(minute: int, target: float, symbol: str = AAA, **more: Any) -> Signal:
    """What is told of the bar that opens at a minute."""
    stance = Stance.LONG if target > 0.0 else Stance.SHORT if target < 0.0 else Stance.FLAT
    fields: dict[str, Any] = {
        "confidence": 1.0,
        "policy": Policy("NORMAL", 1.0),
        "stance": stance,
        "abstained": (),
    }
    return signal(symbol, minute + 1, target=target, **(fields | more))


def said(minute: int, p: float, *votes: tuple[str, float], symbol: str = AAA) -> Signal:
    """A flat signal of the bar that opens at a minute: its forecast, and votes of agents."""
    given = votes or (("another", p),)
    all_votes = tuple(Vote(name, name, own, 1.0 / len(given)) for name, own in given)
    return told(minute, 0.0, symbol, probability=p, votes=all_votes)


def step(bars: Sequence[Bar] | Bar, signals: Sequence[Signal] = ()) -> Step:
    bars = (bars,) if isinstance(bars, Bar) else tuple(bars)
    return Step(bars, Round(signals=list(signals)))
