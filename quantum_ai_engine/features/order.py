"""The order of bars: which are new, which were seen, which come too late, and where holes are."""

from enum import StrEnum

import numpy as np

from quantum_ai_engine.events import Bar

MEMORY = 64  # recent bars per series by which a repeat is told from a revision


class Arrival(StrEnum):
    """What a bar is to its series."""

    NEW = "new"
    DUPLICATE = "duplicate"
    LATE = "late"
    REVISION = "revision"


class Sequencer:
    """Sorts bars by what they are to their series: new, duplicate, late or a revision.

    A series remembers its last open time and, for `MEMORY` intervals back, which bars it has seen
    and a digest of their values. A bar that is not after the newest and was never seen is late.

    >>> order = Sequencer()
    >>> bar = Bar("BTCUSDT", "1m", 60_000, 1.0, 1.0, 1.0, 1.0, 1.0)
    >>> order.update(0, bar), order.update(0, bar)
    (<Arrival.NEW: 'new'>, <Arrival.DUPLICATE: 'duplicate'>)
    """

    def __init__(self, capacity: int = 16) -> None:
        self.gaps = 0
        self._last_open = np.full(capacity, -1, dtype=np.int64)
        self._times = np.full((capacity, MEMORY), -1, dtype=np.int64)
        self._digests = np.zeros((capacity, MEMORY), dtype=np.int64)

    def reserve(self, series: int) -> None:
        """Make room for `series` series, keeping what is there."""
        while len(self._last_open) < series:
            self._last_open = np.concatenate([self._last_open, np.full_like(self._last_open, -1)])
            self._times = np.concatenate([self._times, np.full_like(self._times, -1)])
            self._digests = np.concatenate([self._digests, np.zeros_like(self._digests)])

    def update(self, series: int, bar: Bar) -> Arrival:
        """Take note of a bar and say what it is; a hole before it adds one to `gaps`."""
        last = int(self._last_open[series])
        slot = bar.open_time // bar.interval_ms % MEMORY
        digest = hash((bar.open, bar.high, bar.low, bar.close, bar.volume))
        if bar.open_time <= last:
            if self._times[series, slot] != bar.open_time:
                return Arrival.LATE
            same = int(self._digests[series, slot]) == digest
            return Arrival.DUPLICATE if same else Arrival.REVISION
        if last >= 0 and bar.open_time != last + bar.interval_ms:
            self.gaps += 1
        self._last_open[series] = bar.open_time
        self._times[series, slot] = bar.open_time
        self._digests[series, slot] = digest
        return Arrival.NEW

    def last_close(self, series: int, interval_ms: int) -> int | None:
        """The close time of the newest bar of a series, or None before the first."""
        last = int(self._last_open[series])
        return None if last < 0 else last + interval_ms
