"""What goes into the state and what comes out, part by part, and what is kept of a series."""

from collections.abc import Iterator
from dataclasses import dataclass, field

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar, Refused
from quantum_ai_engine.state.finality import Moment


class Due(msgspec.Struct, frozen=True, gc=False):
    """A bar that may be asked about, with what its series was right after it.

    `row` [columns] is the kernel's, `seen` the bars of its series, `whole` those in a row without
    a hole (at most `LOOKBACK`), `filled` those in the longest window that were missing,
    `newest_close` the newest close time seen by then. `is_arrival` tells the bar that came from
    later ones of its series that are looked at again because it came late.
    """

    bar: Bar
    series: int
    row: NDArray[np.float64]
    seen: int
    whole: int
    filled: int
    newest_close: int
    is_arrival: bool


@dataclass(slots=True)
class Part:
    """Bars stepped together; their windows can be read until the next part is asked for.

    `too_old` of the arrivals lie so far back that nothing is to be said of them any more. Each of
    `moments` comes before the bar of `due` at its place.
    """

    due: list[Due]
    is_last: bool
    too_old: int = 0
    moments: list[tuple[int, Moment]] = field(default_factory=list)

    def steps(self) -> Iterator[Due | Moment]:
        """Bars and moments in their order."""
        start = 0
        for place, moment in self.moments:
            yield from self.due[start:place]
            yield moment
            start = place
        yield from self.due[start:]


@dataclass(slots=True)
class Taken:
    """What became of the bars of a batch, counted.

    `refused` holds (position in the batch, why). Every bar is in exactly one of processed,
    duplicates and refused; late bars and revisions are among the processed. `filled` bars were
    put in the place of missing ones.
    """

    processed: int = 0
    late: int = 0
    revised: int = 0
    duplicates: int = 0
    gaps: int = 0
    filled: int = 0
    longest_interval_ms: int = 0
    refused: list[tuple[int, Refused]] = field(default_factory=list)


@dataclass(slots=True)
class Pending:
    """Bars that have been put in order and are yet to be stepped together."""

    bars: list[Bar] = field(default_factory=list)
    series: list[int] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    versions: list[float] = field(default_factory=list)
    newest_close: list[int] = field(default_factory=list)
    count: dict[int, int] = field(default_factory=dict)
    moments: list[tuple[int, Moment]] = field(default_factory=list)

    def add(self, bar: Bar, series: int, whole: int, newest_close: int, version: float) -> None:
        """Put a bar behind the others."""
        self.bars.append(bar)
        self.series.append(series)
        self.whole.append(whole)
        self.versions.append(version)
        self.newest_close.append(newest_close)
        self.count[series] = self.count.get(series, 0) + 1


@dataclass(slots=True)
class Series:
    """One series: its newest bar, bars in a row up to it, and its count at the last filled one."""

    symbol: str
    interval: str
    newest: Bar | None = None
    whole: int = 0
    filled_at: int | None = None
