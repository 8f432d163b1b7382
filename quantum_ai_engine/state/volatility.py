"""How far the close of each series moves from bar to bar, of late and for long."""

from collections.abc import Iterator, Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.order import bar_of
from quantum_ai_engine.risk.sizing import YEAR_MS

SHORT_BARS, LONG_BARS = 12, 288  # over which a move fades to 1/e
KNOWN_BARS = 32  # moves before a volatility is told …
RATIO_BARS = 100  # … and before that of late is compared with that for long
_Floats = NDArray[np.float64]
# Of one series: moves seen, their mean square of late and for long, and the newest final bar.
_SEEN, _SHORT, _LONG, _BAR = 0, 1, 2, slice(3, 9)
_WIDTH = 10
_OPEN_TIME, _INTERVAL = 8, 9


class Volatilities:
    """Exponentially weighted volatility of the close of each series (RiskMetrics 1996).

    The first moves count alike until there are as many as the memory is long.
    """

    def __init__(self) -> None:
        self._names: list[tuple[str, str]] = []
        self._state = np.zeros((0, _WIDTH))

    def reserve(self, series: int) -> None:
        """Make room for `series` series that have not moved."""
        missing = series - len(self._state)
        if missing > 0:
            self._state = np.concatenate((self._state, np.zeros((missing, _WIDTH))))
            self._names += [("", "")] * missing

    def update(self, series: NDArray[np.int64], bars: Sequence[tuple[int, Bar]]) -> None:
        """Take the final bars of a moment, one of each of these series."""
        state = self._state[series]
        values = [(b.open, b.high, b.low, b.close, b.volume, b.open_time) for _, b in bars]
        before, now = state[:, 6].copy(), np.array(values, dtype=np.float64)
        moved = before > 0.0
        squares = np.log(now[:, 3] / np.where(moved, before, now[:, 3])) ** 2
        seen = state[:, _SEEN] + moved
        for part, memory in ((_SHORT, SHORT_BARS), (_LONG, LONG_BARS)):
            weight = np.where(moved, 1.0 / np.clip(seen, 1.0, memory), 0.0)
            state[:, part] += weight * (squares - state[:, part])
        state[:, _SEEN], state[:, _BAR] = seen, now
        for i, (place, bar) in enumerate(bars):
            state[i, _INTERVAL] = bar.interval_ms
            self._names[place] = (bar.symbol, bar.interval)
        self._state[series] = state

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which series [series] have had a final bar."""
        return self._state[:, _INTERVAL] > 0.0

    def annualised(self) -> _Floats:
        """The larger of both, of a year of 365 days [series]; NaN where it is not known."""
        state = self._state
        is_known = state[:, _SEEN] >= KNOWN_BARS
        interval = np.where(is_known, state[:, _INTERVAL], 1.0)
        yearly = np.maximum(state[:, _SHORT], state[:, _LONG]) * (YEAR_MS / interval)
        return np.where(is_known, np.sqrt(yearly), np.nan)

    def ratio(self) -> float | None:
        """The median over series of that of late over that for long; None while none is known."""
        state = self._state
        told = (state[:, _SEEN] >= RATIO_BARS) & (state[:, _LONG] > 0.0)
        if not told.any():
            return None
        return float(median(np.sqrt(state[told, _SHORT] / state[told, _LONG]).tolist()))

    def overdue(self, newest_close: int, intervals: float) -> Iterator[Bar]:
        """The newest final bars of the series that have had none for so many intervals."""
        for place in np.flatnonzero(self.is_late(newest_close, intervals)).tolist():
            yield bar_of(*self._names[place], self._state[place, _BAR])

    def is_late(self, newest_close: int, intervals: float) -> NDArray[np.bool_]:
        """Which series [series] have had no final bar for so many intervals, open or closed."""
        state = self._state
        closed = state[:, _OPEN_TIME] + state[:, _INTERVAL]
        return self.known & (newest_close > closed + intervals * state[:, _INTERVAL])

    def saved(self, at: Sequence[int]) -> bytes:
        """The state of these series, for `restore`."""
        return self._state[list(at)].astype("<f8").tobytes()

    def restore(self, at: Sequence[int], names: Sequence[tuple[str, str]], saved: bytes) -> None:
        """Give the series at these places what was saved."""
        rows = np.frombuffer(saved, dtype="<f8").reshape(-1, _WIDTH)
        if len(rows) != len(at):
            raise ValueError(f"{len(at)} places for the volatility of {len(rows)} series")
        self._state[list(at)] = rows
        for place, name in zip(at, names, strict=True):
            self._names[place] = name
