"""The last bars and fills of some instruments, so that people can look at trades one by one."""

from collections import deque

import msgspec

from quantum_ai_engine.events import Bar
from quantum_ai_engine.replay.account import Fill

BARS = 240
LINES = 16  # of the first instruments alone: memory does not grow with them


class Taped(msgspec.Struct, frozen=True):
    """One instrument at the end of the run: its bars, and what was filled at their opens.

    Each bar is (open time, open, high, low, close), each fill (open time, price, units).
    """

    instrument: str
    interval: str
    bars: tuple[tuple[int, float, float, float, float], ...]
    fills: tuple[tuple[int, float, float], ...]


class Tape:
    """Keeps the last bars of the first instruments, and their fills."""

    def __init__(self) -> None:
        self._bars: dict[tuple[str, str], deque[Bar]] = {}
        self._fills: dict[tuple[str, str], deque[Fill]] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def update(self, bars: tuple[Bar, ...], fills: tuple[Fill, ...]) -> None:
        """Take the bars of a step and what was filled at their opens."""
        for bar in bars:
            kept = self._bars.get((bar.symbol, bar.interval))
            if kept is None:
                if len(self._bars) >= LINES:
                    continue
                key = bar.symbol, bar.interval
                kept = self._bars[key] = deque(maxlen=BARS)
                self._fills[key], self._counts[key] = deque(maxlen=BARS), 0
            kept.append(bar)
        for fill in fills:
            key = fill.instrument, fill.interval
            if key in self._fills:
                self._fills[key].append(fill)
                self._counts[key] += 1

    def get(self) -> Taped | None:
        """The most often traded of them; None before the first bar."""
        if not self._bars:
            return None
        key = max(self._counts, key=self._counts.__getitem__)
        bars = [(b.open_time, b.open, b.high, b.low, b.close) for b in self._bars[key]]
        fills = [
            (fill.open_time_ms, fill.price, fill.units)
            for fill in self._fills[key]
            if fill.open_time_ms >= bars[0][0]
        ]
        return Taped(*key, tuple(bars), tuple(fills))
