"""When sessions open and close: by venue, in its own time zone, daylight saving included."""

from bisect import bisect_right
from collections.abc import Mapping
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.kernel import BAR_WIDTH

_DAY = timedelta(days=1)
_MARGIN_DAYS = 370  # a table is extended by a year at a time


class Calendar:
    """The sessions of one venue.

    A session opens at each local opening time and takes every bar that opens before the next one;
    so a bar after the close belongs to the session opened last. Tables of openings, closes and
    local midnights grow with the dates that are asked for.

    >>> calendar = Calendar(Venue("America/New_York", "09:30", "16:00"))
    >>> opens, closes, weekday = calendar.of(1_704_465_000_000)  # Friday 2024-01-05, 14:30 UTC
    >>> opens, (closes - opens) / 3_600_000, weekday
    (1704465000000, 6.5, 4)
    """

    def __init__(self, venue: Venue) -> None:
        self._zone = ZoneInfo(venue.zone)
        self._opens, self._closes = venue.minutes()
        self._first = date.max  # the date of the first row of the tables
        self._openings: list[int] = []
        self._ends: list[int] = []
        self._midnights: list[int] = []

    def of(self, open_time: int) -> tuple[int, int, int]:
        """Opening and close (ms) of the session of a bar, and the local weekday, Monday 0."""
        self._cover(open_time, open_time)
        session = bisect_right(self._openings, open_time) - 1
        day = bisect_right(self._midnights, open_time) - 1
        weekday = (self._first.weekday() + day) % 7
        return self._openings[session], self._ends[session], weekday

    def rows(
        self, open_time: NDArray[np.int64], ohlcv: NDArray[np.float64], interval_ms: int
    ) -> NDArray[np.float64]:
        """Bars as the kernel reads them [n, BAR_WIDTH], from columns [n] and [n, 5]."""
        rows = np.empty((len(open_time), BAR_WIDTH))
        if not len(open_time):
            return rows
        self._cover(int(open_time.min()), int(open_time.max()))
        session = np.searchsorted(self._openings, open_time, side="right") - 1
        day = np.searchsorted(self._midnights, open_time, side="right") - 1
        rows[:, :5] = ohlcv
        rows[:, 5] = open_time
        rows[:, 6] = interval_ms
        rows[:, 7] = np.asarray(self._openings)[session]
        rows[:, 8] = np.asarray(self._ends)[session]
        rows[:, 9] = (self._first.weekday() + day) % 7
        return rows

    def _cover(self, first_ms: int, last_ms: int) -> None:
        """Extend the tables so that they hold both moments."""
        if self._openings and self._openings[1] <= first_ms and last_ms < self._openings[-2]:
            return
        margin = _MARGIN_DAYS * 86_400_000
        first = (
            datetime.fromtimestamp(max(first_ms - margin, 0) / 1000, self._zone).date() - 3 * _DAY
        )
        last = datetime.fromtimestamp((last_ms + margin) / 1000, self._zone).date()
        if self._openings:
            first = min(first, self._first)
            last = max(last, self._first + len(self._openings) * _DAY)
        days = [first + i * _DAY for i in range((last - first).days + 1)]
        overnight = 1440 if self._closes <= self._opens else 0
        openings = [self._moment(day, self._opens) for day in days]
        ends = [self._moment(day, self._closes + overnight) for day in days]
        midnights = [self._moment(day, 0) for day in days]
        # All at once: a table that is half extended would be wrong for every later bar.
        self._first = first
        self._openings, self._ends, self._midnights = openings, ends, midnights

    def _moment(self, day: date, minute: int) -> int:
        """A local time, `minute` minutes after midnight by the wall clock, in ms since 1970."""
        day += minute // 1440 * _DAY
        local = datetime(day.year, day.month, day.day, minute % 1440 // 60, minute % 60)
        return int(local.replace(tzinfo=self._zone).timestamp() * 1000)


class Calendars:
    """The calendars of all symbols: their venue's, or that of a day of 24 hours UTC."""

    def __init__(self, venues: Mapping[str, Venue]) -> None:
        self._by_venue = {venue: Calendar(venue) for venue in {*venues.values(), Venue()}}
        self._by_symbol = {symbol: self._by_venue[venue] for symbol, venue in venues.items()}
        self._default = self._by_venue[Venue()]

    def of(self, symbol: str) -> Calendar:
        """The calendar of a symbol."""
        return self._by_symbol.get(symbol, self._default)

    def row(self, bar: Bar) -> tuple[float, ...]:
        """A bar as the kernel reads it [BAR_WIDTH]."""
        return (*bar.ohlcv, bar.open_time, bar.interval_ms, *self.of(bar.symbol).of(bar.open_time))
