"""What an engine makes of some bars: each bar's row of features, and the signals."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.engine import Engine, Now
from quantum_ai_engine.events import Bar, Signal
from quantum_ai_engine.replay.published import Key
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.state.batch import Due, Taken

BATCH = 1000  # as many bars as a live round has at most: what peeks must have something to see

Row: TypeAlias = NDArray[np.float64]
# Makes a new engine for a replay of these bars. An honest one makes the same for all.
Make: TypeAlias = Callable[[Sequence[Bar]], Engine]


def key_of(bar: Bar) -> Key:
    """By what a bar is known."""
    return bar.symbol, bar.interval, bar.close_time


def batches(bars: Sequence[Bar]) -> Iterator[Sequence[Bar]]:
    """Bars as rounds have them."""
    for start in range(0, len(bars), BATCH):
        yield bars[start : start + BATCH]


def rows_of(engine: Engine, bars: Sequence[Bar]) -> dict[Key, Row]:
    """Each bar's row [columns], as a new engine's state has it when the bar comes."""
    rows = {}
    for batch in batches(bars):
        for part in engine.state.take(batch, Taken()):
            for step in part.steps():
                if isinstance(step, Due) and step.is_arrival:
                    rows[key_of(step.bar)] = step.row.copy()
    return rows


async def signals_of(engine: Engine, bars: Sequence[Bar]) -> list[Signal]:
    """All that a new engine says of bars, by their own clock."""
    signals = []
    for batch in batches(bars):
        done = await engine.process(batch, Now(), lambda _: nullcontext())
        signals += done.signals
    return signals


def steps_of(bars: Sequence[Bar], signals: Sequence[Signal]) -> Iterator[Step]:
    """Bars that are in order of time, with what was said of them, by open time."""
    from quantum_ai_engine.engine import Round

    said: dict[int, list[Signal]] = {}
    for signal in signals:
        said.setdefault(signal.close_time, []).append(signal)
    start = 0
    for end in range(1, len(bars) + 1):
        if end == len(bars) or bars[end].open_time != bars[start].open_time:
            group = tuple(bars[start:end])
            told = Round(processed=len(group))
            for close_time in sorted({bar.close_time for bar in group}):
                told.signals += said.pop(close_time, [])
            yield Step(group, told)
            start = end


def plain(signal: Signal) -> Mapping[str, Any]:
    """A signal as fields."""
    fields: Mapping[str, Any] = msgspec.to_builtins(signal)
    return fields
