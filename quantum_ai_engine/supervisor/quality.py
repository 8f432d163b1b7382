"""Data quality: feeds that are not to be believed.

An alarm of the data puts the feed of a symbol into quarantine, never a model: an agent that is fed
nonsense has not become worse.
"""

import math
from collections.abc import Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantum_ai_engine.config import QualitySettings

COLUMNS = ("open", "high", "low", "close", "volume")
_CLOSE, _VOLUME = 3, 4
MOVE_BARS = 64  # that the recent move of a series remembers
WARM_BARS = 32  # before a jump can be judged by it
LOG_TEN = float(np.log(10.0))
POWER_TOLERANCE = 0.1  # in ln: a price that jumps by 10 moves by itself, too

Vector = NDArray[np.float64]
Flags = NDArray[np.bool_]
Places = NDArray[np.int64]


class Fault(StrEnum):
    """What can be wrong with the feed of a symbol."""

    OUTSIDE_TRAINING = "outside_training"
    CONSTANT = "constant"
    JUMP = "jump"


FAULTS = tuple(Fault)


class DataAlarm(msgspec.Struct, frozen=True):
    """One fault of one feed, with its reason in words."""

    fault: Fault
    reason: str


class SavedQuality(msgspec.Struct, frozen=True, array_like=True):
    """The state of some series as little-endian float64, for `Quality.restore`."""

    series: int
    state: bytes


# The state of one series: a row of float64. Runs are bars in a row.
_LAST = slice(0, 5)  # the values of the newest bar; NaN before the first
_SAME = 5  # … to 9: how long each of them is what it is
_CLAMPED = 10  # run of rows too far outside of training
_MOVE, _MOVES = 11, 12  # recent mean of |ln close / close before|, and bars it has seen
_FROM, _JUMP, _STAYED = 13, 14, 15  # close before a jump, its ln, bars since; 0 of none
_OPEN = 16  # … to 18: whether each fault is in alarm
_WELL = 19  # … to 21: how many bars in a row it was well
_SHOWN = 22  # … to 24: what its reason names: share, column, factor
_WIDTH = 25
_FAULTS_OPEN, _FAULTS_SHOWN = slice(_OPEN, _WELL), slice(_SHOWN, _WIDTH)
_BEFORE = np.array([_CLOSE, _FROM])  # what a close is compared with
_NO_PRICE, _NO_SHARE = 1, 2  # why bars are refused


class Quality:
    """Alarms of the data of all series; each trips at once and clears after bars that were well.

    *Outside of training*: at least `clamped_frac` of a row was clamped, `clamped_bars` bars in a
    row; well again below half of that. *Constant*: a price, or a volume above 0, was the same for
    `constant_bars` bars; well again when all have been for less than half as long. *Jump*: the
    close went to a power of ten of the one before, or went by more than `jump_frac` and
    `jump_times` the recent mean move, and stayed `stay_bars` bars beyond half the way; well again
    from the next bar on, but for `settle_bars` bars. The others clear after `clear_bars`.

    >>> quality = Quality(QualitySettings())
    >>> quality.reserve(1)
    >>> for price in (100.0, 101.0, 10100.0):
    ...     bar = np.array([[price, price, price, price, 1.0]])
    ...     quality.update(np.array([0]), bar, np.array([0.0]))
    >>> [alarm.reason for alarm in quality.alarms(0)]
    ['the close jumped by a factor of 100: a unit may have changed']
    """

    def __init__(self, settings: QualitySettings) -> None:
        self._settings = settings
        self._limits = (
            settings.clamped_frac,
            float(settings.clamped_bars),
            float(settings.constant_bars),
            float(np.log1p(settings.jump_frac)),
            settings.jump_times,
            float(settings.stay_bars),
            float(settings.clear_bars),
            float(settings.settle_bars),
        )
        self._series = 0
        self._state = np.zeros((0, _WIDTH))  # with room to grow, as has
        self._ill = np.zeros(0, dtype=np.bool_)  # whether any fault is in alarm

    def reserve(self, series: int) -> None:
        """Make room for `series` series; those that are there stay as they are."""
        missing = series - len(self._state)
        if missing > 0:
            room = np.zeros((max(missing, len(self._state)), _WIDTH))
            room[:, _LAST] = np.nan
            self._state = np.concatenate((self._state, room))
            self._ill = np.concatenate((self._ill, np.zeros(len(room), dtype=np.bool_)))
        self._series = max(self._series, series)

    def update(self, series: Places, bars: Vector, clamped_frac: Vector) -> None:
        """Judge the bars of one moment, at most one of each series, in the order of time.

        `bars` [n, 5] are open, high, low, close and volume of the `series` [n]; `clamped_frac` [n]
        is the share of their rows that lay beyond the clamps of training, NaN where no agent has
        read them. Raises ValueError.
        """
        self._check(series, bars, clamped_frac)
        close = bars[:, _CLOSE, np.newaxis]
        before = self._state[series[:, np.newaxis], _BEFORE]
        moves = np.log(close / np.where(before > 0.0, before, close))
        refused = _judge((self._state, self._ill), series, bars, clamped_frac, moves, self._limits)
        if refused == _NO_PRICE:
            raise ValueError("a price is not positive, or a value of a bar is not finite")
        if refused == _NO_SHARE:
            raise ValueError("a share of clamped values is outside 0 to 1")

    @property
    def quarantined(self) -> Flags:
        """Which series [S] have a fault."""
        return self._ill[: self._series].copy()

    def alarms(self, series: int) -> tuple[DataAlarm, ...]:
        """What is wrong with a series; nothing, if it is well."""
        row = self._state[series]
        return tuple(
            DataAlarm(fault, _reason(fault, shown, self._settings))
            for fault, is_open, shown in zip(
                FAULTS, row[_FAULTS_OPEN].tolist(), row[_FAULTS_SHOWN].tolist(), strict=True
            )
            if is_open
        )

    def saved(self, series: Sequence[int] | None = None) -> SavedQuality:
        """The state of these series in this order, or of all."""
        at = list(range(self._series) if series is None else series)
        return SavedQuality(len(at), self._state[at].astype("<f8").tobytes())

    def restore(self, saved: SavedQuality, series: Sequence[int] | None = None) -> None:
        """Give the series at these places what was saved."""
        at = list(range(saved.series) if series is None else series)
        if len(at) != saved.series:
            raise ValueError(f"{len(at)} places for the state of {saved.series} series")
        self.reserve(max(at, default=-1) + 1)
        rows = np.frombuffer(saved.state, dtype="<f8").reshape(saved.series, _WIDTH)
        self._state[at] = rows
        self._ill[at] = (rows[:, _FAULTS_OPEN] > 0.0).any(axis=1)

    def _check(self, series: Places, bars: Vector, clamped_frac: Vector) -> None:
        count = len(series)
        if bars.shape != (count, len(COLUMNS)) or clamped_frac.shape != (count,):
            raise ValueError(
                f"bars {bars.shape} and clamps {clamped_frac.shape} are not [{count}, 5], [{count}]"
            )
        places = series.tolist()
        if len(set(places)) < count:
            raise ValueError("a series has two bars in one moment")
        if places and not 0 <= min(places) <= max(places) < self._series:
            raise ValueError(f"a series is outside the {self._series} for which there is room")


_jit = njit(error_model="numpy", inline="always")


@_jit
def _outside(row, share, limits):  # type: ignore[no-untyped-def]
    """A row far outside the training range; NaN changes nothing."""
    clamped_frac, clamped_bars = limits[0], limits[1]
    is_far = share >= clamped_frac
    if is_far:
        # No run is counted beyond what it is compared with.
        row[_CLAMPED] = min(row[_CLAMPED] + 1.0, clamped_bars)
    elif share < clamped_frac:
        row[_CLAMPED] = 0.0
    is_bad = is_far and row[_CLAMPED] >= clamped_bars
    if is_bad:
        row[_SHOWN] = share
    return is_bad, share < clamped_frac / 2.0


@_jit
def _constant(row, bar, limits):  # type: ignore[no-untyped-def]
    """Values that do not change. A volume of 0 says that a venue reports none."""
    constant_bars, longest, column = limits[2], 0.0, 0
    for j in range(5):
        is_same = bar[j] == row[j] and (j < _VOLUME or bar[j] > 0.0)
        row[_SAME + j] = min(row[_SAME + j] + 1.0 if is_same else 1.0, constant_bars)
        if row[_SAME + j] > longest:
            longest, column = row[_SAME + j], j
    is_bad = longest >= constant_bars
    if is_bad:
        # The close before the others: when all stand still it is what a person looks at.
        row[_SHOWN + 1] = _CLOSE if row[_SAME + _CLOSE] >= longest else column
    return is_bad, longest < constant_bars / 2.0


@_jit
def _jumped(row, move, gone, limits):  # type: ignore[no-untyped-def]
    """Jumps to another unit, and jumps beyond a market's own that stay.

    A jump is not learned from: the recent move is that of the bars around it.
    """
    size = abs(move)
    tens = math.floor(size / LOG_TEN + 0.5)
    is_power = tens >= 1.0 and abs(size - tens * LOG_TEN) <= POWER_TOLERANCE
    is_far = row[_MOVES] >= WARM_BARS and size > max(limits[3], limits[4] * row[_MOVE])
    if is_far and row[_STAYED] == 0.0:
        row[_FROM], row[_JUMP], gone = row[_CLOSE], move, move
    elif not is_far and not is_power and row[_CLOSE] > 0.0:
        _note_move(row, size)
    has_stayed = _stay(row, gone, limits[5])
    if is_power:
        row[_SHOWN + 2] = move
    is_bad = is_power or has_stayed
    return is_bad, not is_bad and not is_far


@_jit
def _note_move(row, size):  # type: ignore[no-untyped-def]
    """Let a move count in the recent mean: an average at first, then fading."""
    row[_MOVES] = min(row[_MOVES] + 1.0, MOVE_BARS)
    row[_MOVE] += (size - row[_MOVE]) / row[_MOVES]


@_jit
def _stay(row, gone, stay_bars):  # type: ignore[no-untyped-def]
    """Whether a jump has been beyond half its way for long enough; one that has not is dropped."""
    jump = row[_JUMP]
    is_beyond = jump != 0.0 and (gone if jump > 0.0 else -gone) > abs(jump) / 2.0
    row[_STAYED] = row[_STAYED] + 1.0 if is_beyond else 0.0
    has_stayed = row[_STAYED] >= stay_bars
    if has_stayed:
        row[_SHOWN + 2] = jump
    if has_stayed or not is_beyond:
        row[_JUMP] = row[_STAYED] = 0.0
    return has_stayed


@_jit
def _settle(row, fault, is_bad, is_well, is_known, need):  # type: ignore[no-untyped-def]
    """Trip what is ill; clear what has been well for long enough; leave what is not known."""
    at_open, at_well, at_shown = _OPEN + fault, _WELL + fault, _SHOWN + fault
    runs = row[at_well]
    if is_known:
        runs = runs + 1.0 if is_well else 0.0
    is_open = is_bad or (row[at_open] > 0.0 and runs < need)
    row[at_open] = 1.0 if is_open else 0.0
    row[at_well] = runs if is_open else 0.0
    if not is_open:
        row[at_shown] = 0.0
    return is_open


def _one_pass(told, series, bars, clamped_frac, moves, limits):  # type: ignore[no-untyped-def]  # it is compiled
    """Judge bars [n, 5] by the rows of their series; gives why not, if all are refused.

    `moves` [n, 2] are the ln of each close over the one before and over that before a jump, by
    NumPy: the compiler's logarithm has other bits.
    """
    state, ill = told
    for i in range(series.shape[0]):
        for j in range(5):
            if not math.isfinite(bars[i, j]) or (j < _VOLUME and bars[i, j] <= 0.0):
                return _NO_PRICE
    for i in range(series.shape[0]):
        if clamped_frac[i] < 0.0 or clamped_frac[i] > 1.0:
            return _NO_SHARE
    clear_bars, settle_bars = limits[6], limits[7]
    for i in range(series.shape[0]):
        row = state[series[i]]
        share = clamped_frac[i]
        is_bad, is_well = _outside(row, share, limits)
        any_open = _settle(row, 0, is_bad, is_well, not math.isnan(share), clear_bars)
        is_bad, is_well = _constant(row, bars[i], limits)
        any_open |= _settle(row, 1, is_bad, is_well, True, clear_bars)
        is_bad, is_well = _jumped(row, moves[i, 0], moves[i, 1], limits)
        any_open |= _settle(row, 2, is_bad, is_well, True, settle_bars)
        for j in range(5):
            row[j] = bars[i, j]
        ill[series[i]] = any_open
    return 0


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_judge = njit(
    "int64(Tuple((float64[:, ::1], boolean[::1])), int64[::1], float64[:, :], float64[:], "
    "float64[:, ::1], UniTuple(float64, 8))",
    cache=True,
    error_model="numpy",
)(_one_pass)


def _reason(fault: Fault, shown: float, settings: QualitySettings) -> str:
    if fault is Fault.OUTSIDE_TRAINING:
        return (
            f"{shown:.2f} of a row lay beyond the training range, {settings.clamped_bars} or more "
            "bars in a row"
        )
    if fault is Fault.CONSTANT:
        return f"the {COLUMNS[int(shown)]} was the same for {settings.constant_bars} or more bars"
    factor = f"the close jumped by a factor of {np.exp(shown):.3g}"
    tens = abs(shown) / np.log(10.0)
    if round(tens) >= 1 and abs(tens - round(tens)) * np.log(10.0) <= POWER_TOLERANCE:
        return f"{factor}: a unit may have changed"
    return f"{factor} and stayed there: far beyond its recent moves"
