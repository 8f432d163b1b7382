"""When sessions open and close: by venue, in its own time zone, daylight saving included."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from itertools import chain
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
        self._venue = venue
        # Round the clock without a venue: there is no session between bars, only missing ones.
        self._is_continuous = venue == Venue()
        self._zone = ZoneInfo(venue.zone)
        self._opens, closes = venue.minutes()
        self._closes = closes if closes > self._opens else closes + 1440
        # A session that runs overnight is of the day on which most of it lies.
        self._days_ahead = (self._opens + self._closes) // 2 // 1440
        self._first = date.max  # the date of the first row of the tables
        self._openings: list[int] = []
        self._ends: list[int] = []
        self._midnights: list[int] = []
        self._last = 0, 0, (0, 0, 0)  # from when on, until when, and what `of` says of bars there
        self._tables: tuple[NDArray[np.int64], ...] = ()  # the same three, for many bars at once

    def apart(self) -> "Calendar":
        """The same calendar with nothing looked up yet: for another thread, or odd times."""
        return Calendar(self._venue)

    def of(self, open_time: int) -> tuple[int, int, int]:
        """Opening and close (ms) of the session of a bar, and the local weekday, Monday 0."""
        first, end, found = self._last
        if not first <= open_time < end:
            first, end, found = self._last = self._look_up(open_time)
        return found

    def _look_up(self, open_time: int) -> tuple[int, int, tuple[int, int, int]]:
        """What `of` says of a bar, and from when on until when it says the same."""
        self._cover(open_time, open_time)
        session = bisect_right(self._openings, open_time) - 1
        day = bisect_right(self._midnights, open_time) - 1
        weekday = (self._first.weekday() + day) % 7
        return (
            max(self._openings[session], self._midnights[day]),
            min(self._openings[session + 1], self._midnights[day + 1]),
            (self._openings[session], self._ends[session], weekday),
        )

    def rows(
        self, open_time: NDArray[np.int64], ohlcv: NDArray[np.float64], interval_ms: int
    ) -> NDArray[np.float64]:
        """Bars as the kernel reads them [n, BAR_WIDTH], from columns [n] and [n, 5]."""
        rows = np.empty((len(open_time), BAR_WIDTH))
        if not len(open_time):
            return rows
        self._cover(int(open_time.min()), int(open_time.max()))
        openings, ends, midnights = self._tables
        session = np.searchsorted(openings, open_time, side="right") - 1
        day = np.searchsorted(midnights, open_time, side="right") - 1
        rows[:, :5] = ohlcv
        rows[:, 5] = open_time
        rows[:, 6] = interval_ms
        rows[:, 7] = openings[session]
        rows[:, 8] = ends[session]
        rows[:, 9] = (self._first.weekday() + day) % 7
        return rows

    def missing(self, close_time: int, open_time: int, interval_ms: int) -> int:
        """How many bars are missing between a bar's close and the next one's opening.

        What lies outside of sessions is not missing. Nor are whole sessions: no calendar here knows
        the holidays, and a feed that stops in a session shows its hole at that session's end.

        >>> calendar, hour = Calendar(Venue("America/New_York", "09:30", "16:00")), 3_600_000
        >>> four_pm = 1_704_465_000_000 + 13 * hour // 2
        >>> calendar.missing(four_pm, four_pm + 65 * hour + hour // 2, hour // 2)  # to Monday 09:30
        0
        >>> calendar.missing(four_pm - hour, four_pm + 66 * hour, hour // 2)
        3
        """
        return sum(map(len, self.missed(close_time, open_time, interval_ms)))

    def missed(self, close_time: int, open_time: int, interval_ms: int) -> tuple[range, ...]:
        """When the missing bars open, in order: before the end of a session, and after a start."""
        if open_time == close_time:
            return ()
        if self._is_continuous:
            return (range(close_time, open_time, interval_ms),)
        opens, closes, _ = self.of(close_time - interval_ms)
        opened, ends, _ = self.of(open_time)
        before = max(0, min(open_time, closes) - close_time) // interval_ms
        is_begun = opened != opens and open_time < ends
        after = (open_time - opened) // interval_ms if is_begun else 0
        return (
            range(close_time, close_time + before * interval_ms, interval_ms),
            range(open_time - after * interval_ms, open_time, interval_ms),
        )

    def next_open(self, close_time: int) -> int:
        """When the bar after a close opens: at once, or with the next session of a weekday.

        >>> calendar, friday = Calendar(Venue("Asia/Tokyo", "09:00", "15:00")), 1_704_434_400_000
        >>> (calendar.next_open(friday) - friday) / 3_600_000  # until Monday at nine
        66.0
        """
        if self._is_continuous:
            return close_time
        self._cover(close_time, close_time + 7 * 86_400_000)
        session = bisect_right(self._openings, close_time - 1) - 1
        if close_time < self._ends[session]:
            return close_time
        weekday = (self._first.weekday() + session + self._days_ahead) % 7
        days = (1, 1, 1, 1, 3, 2, 1)[weekday]
        return self._openings[session + days]

    def holes(self, open_time: NDArray[np.int64], interval_ms: int) -> NDArray[np.bool_]:
        """Before which of the bars that open at these times [n], in order, bars are missing.

        What is before the first is not known, and counts as nothing.
        """
        holes = np.zeros(len(open_time), dtype=np.bool_)
        for i in np.flatnonzero(np.diff(open_time) != interval_ms) + 1:
            close_time = int(open_time[i - 1]) + interval_ms
            holes[i] = self.missing(close_time, int(open_time[i]), interval_ms) > 0
        return holes

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
        openings = [self._moment(day, self._opens) for day in days]
        ends = [self._moment(day, self._closes) for day in days]
        midnights = [self._moment(day, 0) for day in days]
        # All at once: a table that is half extended would be wrong for every later bar.
        self._first = first
        self._openings, self._ends, self._midnights = openings, ends, midnights
        self._tables = tuple(np.array(table) for table in (openings, ends, midnights))

    def _moment(self, day: date, minute: int) -> int:
        """A local time, `minute` minutes after midnight by the wall clock, in ms since 1970."""
        day += minute // 1440 * _DAY
        local = datetime(day.year, day.month, day.day, minute % 1440 // 60, minute % 60)
        return int(local.replace(tzinfo=self._zone).timestamp() * 1000)


class Calendars:
    """The calendars of all symbols: their venue's, or that of a day of 24 hours UTC.

    `lines` says which symbol is where, in one way only.
    """

    def __init__(self, venues: Mapping[str, Venue]) -> None:
        self._by_venue = {venue: Calendar(venue) for venue in {*venues.values(), Venue()}}
        self._by_symbol = {symbol: self._by_venue[venue] for symbol, venue in venues.items()}
        self._default = self._by_venue[Venue()]
        self.lines = tuple(f"{symbol} {venues[symbol].line()}" for symbol in sorted(venues))

    def of(self, symbol: str) -> Calendar:
        """The calendar of a symbol."""
        return self._by_symbol.get(symbol, self._default)

    def row(self, bar: Bar) -> tuple[float, ...]:
        """A bar as the kernel reads it [BAR_WIDTH]."""
        return (*bar.ohlcv, bar.open_time, bar.interval_ms, *self.of(bar.symbol).of(bar.open_time))

    def rows(self, bars: Sequence[Bar]) -> NDArray[np.float64]:
        """Bars as the kernel reads them [n, BAR_WIDTH]."""
        values = chain.from_iterable(map(self.row, bars))
        return np.fromiter(values, np.float64, len(bars) * BAR_WIDTH).reshape(-1, BAR_WIDTH)
