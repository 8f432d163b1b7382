"""The order of bars: what a bar is to the recent ones of its series, and what is missing."""

from enum import StrEnum
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.store import FILLED, VERSION

_OPEN_TIME = 5  # the column of a recent bar


class Arrival(StrEnum):
    """What a bar is to its series."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"
    REVISION = "revision"


class Place(NamedTuple):
    """What a bar is to its series, and where it belongs among the recent bars.

    `at` is the bar whose place it takes, if `takes_place`, or before which it belongs.
    """

    arrival: Arrival
    at: int
    takes_place: bool


def place_of(recent: NDArray[np.float64], bar: Bar) -> Place:
    """The place of a bar among recent ones [m, RECENT_WIDTH], oldest first.

    A bar that was filled in has not come yet: the one that does is late, not a revision. An earlier
    version of a known bar is a duplicate, whatever its values.
    """
    at = int(np.searchsorted(recent[:, _OPEN_TIME], bar.open_time))
    if at == len(recent):
        return Place(Arrival.NEW, at, takes_place=False)
    if recent[at, _OPEN_TIME] != bar.open_time:
        return Place(Arrival.LATE, at, takes_place=False)
    version = recent[at, VERSION]
    if version == FILLED:
        return Place(Arrival.LATE, at, takes_place=True)
    same = version == bar.revision and tuple(recent[at, :5].tolist()) == bar.ohlcv
    is_known = same or bar.revision < version
    return Place(Arrival.DUPLICATE if is_known else Arrival.REVISION, at, takes_place=True)


def whole_runs(holes: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many bars in a row there are up to each [n], given before which some are missing.

    >>> whole_runs(np.array([False, False, True, False])).tolist()
    [1, 2, 1, 2]
    """
    at = np.arange(len(holes))
    return at - np.maximum.accumulate(np.where(holes, at, 0)) + 1


def bar_of(symbol: str, interval: str, row: NDArray[np.float64]) -> Bar:
    """The bar of a recent row, without its version."""
    opened, high, low, close, volume, open_time = row[:6].tolist()
    return Bar(symbol, interval, int(open_time), opened, high, low, close, volume)
