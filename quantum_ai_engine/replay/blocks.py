"""Blocks of time, by which a replay is cut and judged: sessions, or so many bars."""

from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.sessions import Calendar

BLOCK_BARS = 1_000  # of time, where no symbol has sessions


class Blocks:
    """Cuts time into blocks of `bars` open times each, or into the sessions of a calendar.

    >>> blocks = Blocks(2)
    >>> for open_time_ms in (0, 60_000, 60_000, 120_000):
    ...     blocks.update(open_time_ms)
    >>> blocks.get()
    1
    """

    def __init__(self, bars: int, calendar: Calendar | None = None) -> None:
        self._bars = bars
        self._calendar = calendar
        self._times = 0
        self._newest = self._session = -1
        self._block = -1

    def update(self, open_time_ms: int) -> None:
        """Take the open time of a bar; one that is older than the newest changes nothing."""
        if open_time_ms <= self._newest:
            return
        self._newest = open_time_ms
        if self._calendar is None:
            self._block = self._times // self._bars
            self._times += 1
        elif (session := self._calendar.of(open_time_ms)[0]) != self._session:
            self._session = session
            self._block += 1

    def get(self) -> int | None:
        """Which block the newest bar is in, counted from 0; None before the first."""
        return self._block if self._block >= 0 else None


def block_size(
    symbols: Sequence[str], venues: Mapping[str, Venue], bars: int | None
) -> tuple[int, Calendar | None]:
    """How many bars of time a block has, or whose sessions are the blocks.

    Without `bars` these are the sessions of a venue that all symbols share, else 1,000 bars.

    >>> block_size(["BTCUSDT"], {}, None)
    (1000, None)
    """
    homes = {venues.get(symbol) for symbol in symbols}
    home = homes.pop() if len(homes) == 1 else None
    if bars is not None or home is None or home == Venue():
        return bars or BLOCK_BARS, None
    return 0, Calendar(home)


class LastBlocks:
    """Where the last `count` blocks begin; it keeps no more open times than these have.

    >>> last = LastBlocks(2, (2, None))
    >>> last.update(np.array([0, 1, 2, 3, 4]))
    >>> last.get()
    [(1, 1), (3, 3)]
    """

    def __init__(self, count: int, size: tuple[int, Calendar | None]) -> None:
        self._count = count
        self._bars, self._calendar = size
        self._newest = np.empty(0, dtype=np.int64)
        self._sessions = deque[tuple[int, int]](maxlen=count)
        self._session = -1
        self._times = 0

    def update(self, times: NDArray[np.int64]) -> None:
        """Take the next open times, each of them once, and later than all before."""
        if self._calendar is None:
            self._newest = np.concatenate([self._newest, times])[-self._count * self._bars :]
        else:
            for i, time in enumerate(times.tolist()):
                if (session := self._calendar.of(time)[0]) != self._session:
                    self._session = session
                    self._sessions.append((time, self._times + i))
        self._times += len(times)

    def get(self) -> list[tuple[int, int]]:
        """Of each block the first open time, and how many of all come before it."""
        if self._calendar is not None:
            return list(self._sessions)
        held = len(self._newest)
        firsts = range(held % self._bars, held, self._bars)
        return [(int(self._newest[i]), self._times - held + i) for i in firsts]
