"""When a bar is final: by the bars' own time, never by when they came."""

from collections.abc import Iterable
from typing import NamedTuple

from quantum_ai_engine.events import INTERVAL_MS, Bar


class Moment(NamedTuple):
    """Bars that became final together, by symbol and interval, each with the place of its series.

    `at_ms` is the time of the bars' own clock from which on they are; `intervals_ms` are those of
    all series that were known by then.
    """

    at_ms: int
    bars: tuple[tuple[int, Bar], ...]
    intervals_ms: tuple[int, ...]


class Finality:
    """Holds each bar back until it can no longer be amended: `late_bars` + 1 intervals.

    What is judged is judged in moments: each is the same, and comes at the same place among the
    bars that follow, in whatever order bars came within `late_bars` intervals of their time. A bar
    that comes later than that teaches features, but is in no moment.

    >>> first, later = (Bar("A", "1m", 60_000 * k, 1.0, 1.0, 1.0, 1.0, 1.0) for k in (0, 2))
    >>> finality = Finality(late_bars=1)
    >>> finality.update(0, first)
    >>> [moment.at_ms for moment in finality.advance(later.close_time)]
    [180000]
    """

    def __init__(self, late_bars: int) -> None:
        self._after = late_bars + 2  # intervals from the opening of a bar on, it is final
        self._clock = 0
        self._waiting: dict[int, dict[int, Bar]] = {}  # when final → series → bar
        self._intervals_ms: tuple[int, ...] = ()

    def update(self, series: int, bar: Bar) -> None:
        """Take a bar, or what it turned out to be; one that comes too late is left out."""
        interval_ms = bar.interval_ms
        if interval_ms not in self._intervals_ms:
            self._intervals_ms = tuple(sorted({*self._intervals_ms, interval_ms}))
        final_at = self._final_at(bar)
        if final_at > self._clock:
            self._waiting.setdefault(final_at, {})[series] = bar

    def is_final(self, bar: Bar) -> bool:
        """Whether a bar of this time can no longer be amended."""
        return self._final_at(bar) <= self._clock

    def was_final(self, bar: Bar, clock_ms: int) -> bool:
        """Whether it could no longer be amended when that was the newest close time."""
        return self._final_at(bar) <= clock_ms

    def advance(self, clock_ms: int) -> list[Moment]:
        """The moments up to this close time, oldest first; each is given once."""
        if clock_ms <= self._clock:
            return []
        self._clock = clock_ms
        due = sorted(at_ms for at_ms in self._waiting if at_ms <= clock_ms)
        return [
            Moment(at_ms, _in_order(self._waiting.pop(at_ms).items()), self._intervals_ms)
            for at_ms in due
        ]

    def restore(self, clock_ms: int, intervals_ms: Iterable[int]) -> None:
        """Begin at a close time: moments up to it have been given; bars are told by `update`."""
        self._clock = clock_ms
        self._intervals_ms = tuple(sorted(set(intervals_ms)))

    def _final_at(self, bar: Bar) -> int:
        return bar.open_time + self._after * INTERVAL_MS[bar.interval]


def _in_order(bars: Iterable[tuple[int, Bar]]) -> tuple[tuple[int, Bar], ...]:
    return tuple(sorted(bars, key=lambda one: (one[1].symbol, one[1].interval)))
