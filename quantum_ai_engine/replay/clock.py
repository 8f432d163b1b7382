"""How many bars a year has, counted from the bars."""

import math

from quantum_ai_engine.risk.sizing import YEAR_MS

_DAY_MS = 86_400_000
_WEEK_MS = 7 * _DAY_MS
_SESSION_COVER = 0.75  # of the time between first and last bar: below it the market has sessions


class Clock:
    """How many bars a year has, by the bars themselves: round the clock, or in sessions.

    Between sessions nothing trades, so that the time from the first bar to the last says too
    little of a short record: then whole weeks are counted.

    >>> clock, minute = Clock(has_sessions=False), 60_000
    >>> for k in range(1_440):
    ...     clock.update(k * minute, minute)
    >>> clock.bars_per_year()
    525600.0
    """

    def __init__(self, has_sessions: bool) -> None:
        self._told = has_sessions
        self.bars = self._days = 0
        self._day = -1
        self.first_ms = self.last_ms = self.end_ms = -1

    def update(self, open_time_ms: int, interval_ms: int) -> None:
        """Take an open time; the same one again counts once."""
        if open_time_ms <= self.last_ms:
            return
        if self.first_ms < 0:
            self.first_ms = open_time_ms
        self.bars += 1
        self.last_ms, self.end_ms = open_time_ms, open_time_ms + interval_ms
        if (day := open_time_ms // _DAY_MS) != self._day:
            self._day = day
            self._days += 1

    @property
    def has_sessions(self) -> bool:
        """As told, or where bars cover too little of five days or more."""
        if self._told or self._days < 5:
            return self._told
        cover = self.bars * (self.end_ms - self.last_ms) / (self.end_ms - self.first_ms)
        return cover < _SESSION_COVER

    def bars_per_year(self) -> float:
        """0 before the first bar."""
        if not self.bars:
            return 0.0
        span_ms = self.end_ms - self.first_ms
        if not self.has_sessions:
            return self.bars * YEAR_MS / span_ms
        weeks_ms = math.ceil(span_ms / _WEEK_MS) * _WEEK_MS
        return self.bars / self._days * min(self._days * YEAR_MS / weeks_ms, 365.0)
