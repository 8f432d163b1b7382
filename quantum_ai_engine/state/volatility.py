"""How far the close of each series moves from bar to bar, of late and for long."""

import math
from collections.abc import Iterator, Sequence

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.order import bar_of
from quantum_ai_engine.risk.sizing import YEAR_MS

SHORT_BARS, LONG_BARS = 12, 288  # over which a move fades to 1/e
KNOWN_BARS = 32  # moves before a volatility is told …
RATIO_BARS = 100  # … and before that of late is compared with that for long
_Floats = NDArray[np.float64]
# Of one series: moves seen, their mean square of late and for long, and the newest final bar.
_SEEN, _SHORT, _LONG, _BAR = 0, 1, 2, 3
_WIDTH = 10
_OPEN_TIME, _INTERVAL = 8, 9
_CLOSE = 6
_YEAR_MS = float(YEAR_MS)


class Volatilities:
    """Exponentially weighted volatility of the close of each series (RiskMetrics 1996).

    The first moves count alike until there are as many as the memory is long.
    """

    def __init__(self) -> None:
        self._names: list[tuple[str, str]] = []
        self._state = np.zeros((0, _WIDTH))
        # What follows from it: annualised, and of late over for long; NaN where it is not known.
        self._told = np.full((2, 0), np.nan)

    def reserve(self, series: int) -> None:
        """Make room for `series` series that have not moved."""
        missing = series - len(self._state)
        if missing > 0:
            self._state = np.concatenate((self._state, np.zeros((missing, _WIDTH))))
            self._told = np.concatenate((self._told, np.full((2, missing), np.nan)), axis=1)
            self._names += [("", "")] * missing

    def update(self, series: NDArray[np.int64], bars: Sequence[tuple[int, Bar]]) -> None:
        """Take the final bars of a moment, one of each of these series."""
        now = np.array([(*bar.ohlcv, bar.open_time, bar.interval_ms) for _, bar in bars])
        before, close = self._state[series, _CLOSE], now[:, _CLOSE - _BAR]
        moves = np.log(close / np.where(before > 0.0, before, close))
        _move(self._state, series, now, moves)
        _tell(self._state, series, self._told)
        for place, bar in bars:
            self._names[place] = bar.symbol, bar.interval

    @property
    def known(self) -> NDArray[np.bool_]:
        """Which series [series] have had a final bar."""
        return self._state[:, _INTERVAL] > 0.0

    def annualised(self) -> _Floats:
        """The larger of both, of a year of 365 days [series]; NaN where it is not known."""
        yearly: _Floats = self._told[0].copy()
        return yearly

    def ratio(self) -> float | None:
        """The median over series of that of late over that for long; None while none is known."""
        ratios = np.sort(self._told[1])  # NaN comes last
        known = int(np.count_nonzero(ratios == ratios))  # noqa: PLR0124 (NaN ≠ NaN)
        return float(ratios[(known - 1) // 2] + ratios[known // 2]) / 2.0 if known else None

    def newest(self, places: Sequence[int]) -> Iterator[Bar]:
        """The newest final bars of the series at these places."""
        for place in places:
            yield bar_of(*self._names[place], self._state[place, _BAR:_INTERVAL])

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
        _tell(self._state, np.array(at, dtype=np.int64), self._told)
        for place, name in zip(at, names, strict=True):
            self._names[place] = name


def _move_all(state, series, now, moves):  # type: ignore[no-untyped-def]  # it is compiled
    """Take bars [n, 7] of these series; `moves` are the ln of each close over the one before."""
    for i in range(series.shape[0]):
        row = state[series[i]]
        if row[_CLOSE] > 0.0:
            square = moves[i] * moves[i]
            row[_SEEN] += 1.0
            row[_SHORT] += 1.0 / min(row[_SEEN], SHORT_BARS) * (square - row[_SHORT])
            row[_LONG] += 1.0 / min(row[_SEEN], LONG_BARS) * (square - row[_LONG])
        for j in range(now.shape[1]):
            row[_BAR + j] = now[i, j]


def _tell_all(state, series, told):  # type: ignore[no-untyped-def]
    """What follows from the state of these series."""
    for place in series:
        row = state[place]
        told[0, place] = told[1, place] = np.nan
        if row[_SEEN] >= KNOWN_BARS:
            square = max(row[_SHORT], row[_LONG])
            told[0, place] = math.sqrt(square * (_YEAR_MS / row[_INTERVAL]))
        if row[_SEEN] >= RATIO_BARS and row[_LONG] > 0.0:
            told[1, place] = math.sqrt(row[_SHORT] / row[_LONG])


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_move = njit(
    "void(float64[:, ::1], int64[::1], float64[:, ::1], float64[::1])",
    cache=True,
    error_model="numpy",
)(_move_all)
_tell = njit("void(float64[:, ::1], int64[::1], float64[:, ::1])", cache=True, error_model="numpy")(
    _tell_all
)
