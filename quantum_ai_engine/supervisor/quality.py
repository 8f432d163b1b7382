"""Data quality: feeds that are not to be believed.

An alarm of the data puts the feed of a symbol into quarantine, never a model: an agent that is fed
nonsense has not become worse.
"""

from collections.abc import Sequence
from enum import StrEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import QualitySettings

COLUMNS = ("open", "high", "low", "close", "volume")
_CLOSE, _VOLUME = 3, 4
MOVE_BARS = 64  # that the recent move of a series remembers
WARM_BARS = 32  # before a jump can be judged by it
LOG_TEN = np.log(10.0)
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
_SAME = slice(5, 10)  # how long each of them is what it is
_CLAMPED = 10  # run of rows too far outside of training
_MOVE, _MOVES = 11, 12  # recent mean of |ln close / close before|, and bars it has seen
_FROM, _JUMP, _STAYED = 13, 14, 15  # close before a jump, its ln, bars since; 0 of none
_OPEN = slice(16, 19)  # whether each fault is in alarm
_WELL = slice(19, 22)  # … and how many bars in a row it was well
_SHOWN = slice(22, 25)  # what its reason names: share, column, factor
_WIDTH = 25


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
        self._series = 0
        self._state = np.zeros((0, _WIDTH))  # with room to grow

    def reserve(self, series: int) -> None:
        """Make room for `series` series; those that are there stay as they are."""
        missing = series - len(self._state)
        if missing > 0:
            room = np.zeros((max(missing, len(self._state)), _WIDTH))
            room[:, _LAST] = np.nan
            self._state = np.concatenate((self._state, room))
        self._series = max(self._series, series)

    def update(self, series: Places, bars: Vector, clamped_frac: Vector) -> None:
        """Judge the bars of one moment, at most one of each series, in the order of time.

        `bars` [n, 5] are open, high, low, close and volume of the `series` [n]; `clamped_frac` [n]
        is the share of their rows that lay beyond the clamps of training, NaN where no agent has
        read them. Raises ValueError.
        """
        self._check(series, bars, clamped_frac)
        state = self._state[series]
        ill = np.zeros((len(series), len(FAULTS)), dtype=bool)
        well = np.zeros_like(ill)
        ill[:, 0], well[:, 0] = _outside(state, clamped_frac, self._settings)
        ill[:, 1], well[:, 1] = _constant(state, bars, self._settings)
        ill[:, 2], well[:, 2] = _jumped(state, bars[:, _CLOSE], self._settings)
        state[:, _LAST] = bars
        known = np.ones_like(ill)
        known[:, 0] = ~np.isnan(clamped_frac)
        _settle(state, (ill, well, known), self._settings)
        self._state[series] = state

    @property
    def quarantined(self) -> Flags:
        """Which series [S] have a fault."""
        return np.asarray((self._state[: self._series, _OPEN] > 0.0).any(axis=1))

    def alarms(self, series: int) -> tuple[DataAlarm, ...]:
        """What is wrong with a series; nothing, if it is well."""
        row = self._state[series]
        return tuple(
            DataAlarm(fault, _reason(fault, shown, self._settings))
            for fault, is_open, shown in zip(
                FAULTS, row[_OPEN].tolist(), row[_SHOWN].tolist(), strict=True
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
        if not np.isfinite(bars).all() or (bars[:, :_VOLUME] <= 0.0).any():
            raise ValueError("a price is not positive, or a value of a bar is not finite")
        if not (np.isnan(clamped_frac) | ((clamped_frac >= 0.0) & (clamped_frac <= 1.0))).all():
            raise ValueError("a share of clamped values is outside 0 to 1")


def _outside(state: Vector, clamped_frac: Vector, settings: QualitySettings) -> tuple[Flags, Flags]:
    """Rows far outside the training range; NaN changes nothing."""
    is_far = clamped_frac >= settings.clamped_frac
    is_known = ~np.isnan(clamped_frac)
    run = np.where(is_far, state[:, _CLAMPED] + 1.0, 0.0)
    # No run is counted beyond what it is compared with.
    run = np.minimum(run, settings.clamped_bars)
    state[:, _CLAMPED] = np.where(is_known, run, state[:, _CLAMPED])
    ill = is_far & (state[:, _CLAMPED] >= settings.clamped_bars)
    if ill.any():
        state[ill, _SHOWN.start] = clamped_frac[ill]
    return ill, clamped_frac < settings.clamped_frac / 2.0


def _constant(state: Vector, bars: Vector, settings: QualitySettings) -> tuple[Flags, Flags]:
    """Values that do not change. A volume of 0 says that a venue reports none."""
    is_same = bars == state[:, _LAST]
    is_same[:, _VOLUME] &= bars[:, _VOLUME] > 0.0
    same = np.where(is_same, state[:, _SAME] + 1.0, 1.0)
    state[:, _SAME] = np.minimum(same, settings.constant_bars)
    longest = state[:, _SAME].max(axis=1)
    ill = longest >= settings.constant_bars
    if ill.any():
        # The close before the others: when all stand still it is what a person looks at.
        column = np.where(state[:, 8] >= longest, _CLOSE, state[:, _SAME].argmax(axis=1))
        state[ill, _SHOWN.start + 1] = column[ill]
    return ill, longest < settings.constant_bars / 2.0


def _jumped(state: Vector, close: Vector, settings: QualitySettings) -> tuple[Flags, Flags]:
    """Jumps to another unit, and jumps beyond a market's own that stay.

    A jump is not learned from: the recent move is that of the bars around it.
    """
    before = state[:, _CLOSE]
    move = np.where(np.isnan(before), 0.0, np.log(close / np.where(before > 0.0, before, close)))
    size = np.abs(move)
    tens = np.rint(size / LOG_TEN)
    is_power = (tens >= 1.0) & (np.abs(size - tens * LOG_TEN) <= POWER_TOLERANCE)
    is_warm = state[:, _MOVES] >= WARM_BARS
    least = np.maximum(np.log1p(settings.jump_frac), settings.jump_times * state[:, _MOVE])
    is_far = is_warm & (size > least)
    if is_far.any():
        _note_jump(state, np.where(is_far & (state[:, _STAYED] == 0.0), move, 0.0))
    _note_move(state, np.where(is_far | is_power, np.nan, size))
    has_stayed = _stay(state, close, settings)
    if is_power.any():
        state[is_power, _SHOWN.start + 2] = move[is_power]
    ill = is_power | has_stayed
    return ill, ~ill & ~is_far


def _note_jump(state: Vector, jump: Vector) -> None:
    """Remember the close before a jump; 0 is none."""
    is_new = jump != 0.0
    state[is_new, _FROM] = state[is_new, _CLOSE]
    state[is_new, _JUMP] = jump[is_new]


def _note_move(state: Vector, size: Vector) -> None:
    """Let a move count in the recent mean: an average at first, then fading; NaN does not."""
    counts = ~np.isnan(size) & ~np.isnan(state[:, _CLOSE])
    seen = np.minimum(state[:, _MOVES] + 1.0, MOVE_BARS)
    moved = state[:, _MOVE] + (size - state[:, _MOVE]) / seen
    state[:, _MOVE] = np.where(counts, moved, state[:, _MOVE])
    state[:, _MOVES] = np.where(counts, seen, state[:, _MOVES])


def _stay(state: Vector, close: Vector, settings: QualitySettings) -> Flags:
    """Whether a jump has been beyond half its way for long enough; one that has not is dropped."""
    jump = state[:, _JUMP]
    watched = jump != 0.0
    if not watched.any():  # as nearly always
        state[:, _STAYED] = 0.0
        return np.asarray(watched)
    start = np.where(watched, state[:, _FROM], close)
    is_beyond = watched & (np.log(close / start) * np.sign(jump) > np.abs(jump) / 2.0)
    state[:, _STAYED] = np.where(is_beyond, state[:, _STAYED] + 1.0, 0.0)
    has_stayed = state[:, _STAYED] >= settings.stay_bars
    state[has_stayed, _SHOWN.start + 2] = jump[has_stayed]
    is_over = has_stayed | ~is_beyond
    state[is_over, _JUMP] = state[is_over, _STAYED] = 0.0
    return np.asarray(has_stayed)


def _settle(state: Vector, judged: tuple[Flags, Flags, Flags], settings: QualitySettings) -> None:
    """Trip what is ill; clear what has been well for long enough; leave what is not known."""
    ill, well, known = judged
    if not ill.any() and not (state[:, _OPEN] > 0.0).any():  # as nearly always
        state[:, _OPEN] = state[:, _WELL] = state[:, _SHOWN] = 0.0
        return
    need = np.array([settings.clear_bars, settings.clear_bars, settings.settle_bars])
    runs = np.where(known, np.where(well, state[:, _WELL] + 1.0, 0.0), state[:, _WELL])
    is_open = ill | ((state[:, _OPEN] > 0.0) & (runs < need))
    state[:, _OPEN] = is_open
    state[:, _WELL] = np.where(is_open, runs, 0.0)
    state[:, _SHOWN] = np.where(is_open, state[:, _SHOWN], 0.0)


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
