"""Bars for a replay: from a file of any size, of some symbols, in a span or in the last blocks."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar, Refused
from quantum_ai_engine.features.sessions import Calendar
from quantum_ai_engine.market.files import BarFileError
from quantum_ai_engine.market.stream import columns_in, stream_bars
from quantum_ai_engine.market.table import BarTable

BLOCK_BARS = 1_000  # of time, where no symbol has sessions
WARM_UP_MOST = 4  # times as many open times as bars: a symbol that hardly trades has fewer
FOREVER_MS = 2**62


class Slice(NamedTuple):
    """The bars of one open time, in the order of the record, and what it has there that is none.

    `rows` of the record were read for it.
    """

    open_time_ms: int
    bars: list[Bar]
    refused: Counter[str]
    rows: int


class History(Protocol):
    """Bars in the order in which a live engine would have had them."""

    @property
    def start_ms(self) -> int:
        """From which open time on it is told what the engine says; before is warm-up."""

    @property
    def rows(self) -> int:
        """How many rows there are in all, with those that are no bars."""

    def slices(self, after: int = 0) -> Iterator[Slice]:
        """The bars by open time; the first `after` rows, which end with a slice, are skipped."""


@dataclass(frozen=True)
class Wanted:
    """What of a record is to be replayed.

    `symbols`, or all; either open times from `start_ms` up to, and without, `end_ms`, or the last
    `blocks`, of `block_bars` bars of time each, where None is the size that is usual there.
    `interval` is as for `stream_bars`.
    """

    symbols: tuple[str, ...] = ()
    start_ms: int = 0
    end_ms: int = FOREVER_MS
    blocks: int | None = None
    block_bars: int | None = None
    interval: str | None = None


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
        """Take the open time of a bar; they never fall."""
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


@dataclass(frozen=True)
class FileHistory:
    """Part of a file in time order, read anew each time, some ten thousand rows at once.

    The first bar that is read opens at `warm_from_ms`; `blocks` are the open times with which the
    blocks begin, where blocks were asked for, and `notes` what should be said of the choice.
    """

    path: Path
    symbols: tuple[str, ...]
    interval: str
    warm_from_ms: int
    start_ms: int
    end_ms: int
    rows: int
    blocks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()
    named: str | None = None  # where the file itself names no symbol

    def slices(self, after: int = 0) -> Iterator[Slice]:
        """The bars by open time."""
        open_time, bars, refused, rows = -1, list[Bar](), Counter[str](), 0
        for table in self._tables(after):
            for at_ms, bar in zip(table.open_time.tolist(), _bars(table), strict=True):
                if at_ms != open_time and rows:
                    yield Slice(open_time, bars, refused, rows)
                    bars, refused, rows = [], Counter(), 0
                open_time, rows = at_ms, rows + 1
                if isinstance(bar, Bar):
                    bars.append(bar)
                else:
                    refused[bar.reason.value] += 1
        if rows:
            yield Slice(open_time, bars, refused, rows)

    def _tables(self, after: int) -> Iterator[BarTable]:
        """What was chosen of each part of the file, without the first rows of it."""
        parts = _chosen(self.path, self.symbols, self.interval, self.named)
        for part in parts:
            times = part.open_time
            if len(times) and times[0] >= self.end_ms:
                return
            first, last = np.searchsorted(times, (self.warm_from_ms, self.end_ms)).tolist()
            skipped = min(after, last - first)
            after -= skipped
            if first + skipped < last:
                yield part.rows(first + skipped, last)


def open_history(
    path: Path, wanted: Wanted, venues: Mapping[str, Venue], warm_up_bars: int
) -> FileHistory:
    """Look a file through, so that it can be replayed; it is read twice, never held as a whole.

    `warm_up_bars` of each symbol come before what is told of. Raises `BarFileError`.
    """
    named = _name_of(path, wanted.symbols)
    outline = _outline(path, wanted, venues, named)
    start_ms, blocks, notes = wanted.start_ms, tuple[int, ...](), list[str]()
    if wanted.blocks is not None:
        blocks = tuple(time for time, before in outline.blocks if before >= warm_up_bars)
        notes = _shortened(path, wanted.blocks, len(blocks), outline, warm_up_bars)
        start_ms = blocks[0]
    tail = _Tail(start_ms, wanted.end_ms, warm_up_bars)
    for part in _chosen(path, outline.symbols, outline.interval, named):
        tail.update(part)
    if not tail.told:
        raise BarFileError(f"{path} has no bars from --from to --to; it has {outline.span}")
    return FileHistory(
        path,
        outline.symbols,
        outline.interval,
        tail.warm_from_ms,
        start_ms or tail.warm_from_ms,
        wanted.end_ms,
        tail.rows,
        blocks,
        (*notes, *tail.notes()),
        named,
    )


class _Outline(NamedTuple):
    """What a file has of what is wanted; of the last blocks when each begins, and after how many
    open times.
    """

    symbols: tuple[str, ...]
    interval: str
    first_ms: int
    last_ms: int
    times: int
    blocks: list[tuple[int, int]]

    @property
    def span(self) -> str:
        return f"bars from {_iso(self.first_ms)} to {_iso(self.last_ms)}"


def _outline(
    path: Path, wanted: Wanted, venues: Mapping[str, Venue], named: str | None
) -> _Outline:
    """Look for the symbols of a file and for its last blocks."""
    symbols, interval = dict[str, None](), ""
    first_ms, last_ms, times = -1, -1, 0
    ends: _Ends | None = None
    for part in _chosen(path, wanted.symbols, wanted.interval, named):
        interval = part.interval
        symbols |= dict.fromkeys(part.symbols)
        new = np.unique(part.open_time)
        new = new[(new > last_ms) & (new < wanted.end_ms)]
        if not len(new):
            continue
        if wanted.blocks is not None:
            ends = ends or _Ends(wanted, venues, part.symbols)
            ends.update(new, times)
        first_ms = first_ms if times else int(new[0])
        last_ms, times = int(new[-1]), times + len(new)
    if missing := [name for name in wanted.symbols if name not in symbols]:
        raise BarFileError(
            f"{path} has no bars of {missing[0]}, which --symbols names; leave it out"
        )
    if not times:
        raise BarFileError(f"{path} has no bars before --to")
    blocks = ends.get(times) if ends else []
    return _Outline(tuple(sorted(symbols)), interval, first_ms, last_ms, times, blocks)


class _Ends:
    """Where the last blocks begin; it keeps no more open times than these blocks have."""

    def __init__(self, wanted: Wanted, venues: Mapping[str, Venue], symbols: Sequence[str]) -> None:
        assert wanted.blocks is not None
        self._count = wanted.blocks
        self._bars, self._calendar = block_size(
            wanted.symbols or symbols, venues, wanted.block_bars
        )
        self._newest = np.empty(0, dtype=np.int64)
        self._sessions = deque[tuple[int, int]](maxlen=wanted.blocks)
        self._session = -1

    def update(self, times: NDArray[np.int64], before: int) -> None:
        """Take the next open times; `before` came earlier."""
        if self._calendar is None:
            self._newest = np.concatenate([self._newest, times])[-self._count * self._bars :]
            return
        for i, time in enumerate(times.tolist()):
            if (session := self._calendar.of(time)[0]) != self._session:
                self._session = session
                self._sessions.append((time, before + i))

    def get(self, times: int) -> list[tuple[int, int]]:
        """Each block's first open time, and how many of all `times` come before it."""
        if self._calendar is not None:
            return list(self._sessions)
        held = len(self._newest)
        firsts = range(held % self._bars, held, self._bars)
        return [(int(self._newest[i]), times - held + i) for i in firsts]


def _shortened(
    path: Path, wanted: int, found: int, outline: _Outline, warm_up_bars: int
) -> list[str]:
    """What is to be said where a file has fewer blocks than wanted; raises where it has none."""
    if not found:
        raise BarFileError(
            f"{path} has {outline.times} open times, too few for a block after a warm-up of "
            f"{warm_up_bars}; give more bars, or a smaller --block-size"
        )
    if found == wanted:
        return []
    return [
        f"only the last {found} of {wanted} blocks are replayed: before them {path} has no "
        f"warm-up of {warm_up_bars} bars"
    ]


class _Tail:
    """Of what comes before a span as much as warms up, and how many rows there are from there.

    It keeps the last open times of each symbol, and how many rows each of the last of all has.
    """

    def __init__(self, start_ms: int, end_ms: int, warm_up_bars: int) -> None:
        self._start_ms, self._end_ms, self._warm_up_bars = start_ms, end_ms, warm_up_bars
        self._before: dict[str, deque[int]] = {}
        self._counts = deque[tuple[int, int]](maxlen=WARM_UP_MOST * warm_up_bars or 1)
        self._first_ms = -1
        self.told = 0

    def update(self, part: BarTable) -> None:
        """Take the next part of the file."""
        first, last = np.searchsorted(part.open_time, (self._start_ms, self._end_ms)).tolist()
        if self._first_ms < 0 and last > first:
            self._first_ms = int(part.open_time[first])
        self.told += last - first
        before = part.rows(0, first)
        for place, name in enumerate(part.symbols):
            times = before.open_time[before.symbol_index == place]
            held = self._before.setdefault(name, deque(maxlen=self._warm_up_bars or 1))
            held.extend(times[-self._warm_up_bars :].tolist())
        for time, rows in zip(*np.unique(before.open_time, return_counts=True), strict=True):
            is_known = self._counts and self._counts[-1][0] == time
            known = self._counts.pop()[1] if is_known else 0
            self._counts.append((int(time), int(rows) + known))

    @property
    def warm_from_ms(self) -> int:
        """When the first bar opens that is read."""
        if not self._warm_up_bars or not self._counts:
            return max(self._first_ms, 0)
        return max(self._counts[0][0], min(held[0] for held in self._before.values() if held))

    @property
    def rows(self) -> int:
        """How many rows there are from there to the end."""
        if not self._warm_up_bars:
            return self.told
        return self.told + sum(rows for time, rows in self._counts if time >= self.warm_from_ms)

    def notes(self) -> Iterator[str]:
        """How long the warm-up is, and who has none."""
        if not self._start_ms:
            yield (
                f"nothing comes before the first bar: the first {self._warm_up_bars} of each "
                "symbol warm up, and many of them have no signal"
            )
            return
        yield (
            f"warm-up: {self.rows - self.told} bars from {_iso(self.warm_from_ms)} on come before "
            f"the first that counts, at {_iso(self._first_ms)}"
        )
        for name, held in sorted(self._before.items()):
            seen = sum(time >= self.warm_from_ms for time in held)
            if seen < self._warm_up_bars:
                yield (
                    f"{name} has {seen} bars of the {self._warm_up_bars} that warm up before the "
                    "first that counts: its first signals come later"
                )


def _chosen(
    path: Path, symbols: Sequence[str], interval: str | None, named: str | None
) -> Iterator[BarTable]:
    """The bars of these symbols, or of all, part by part."""
    for part in stream_bars(path, symbol=named, interval=interval):
        yield part.only(name for name in symbols if name in part.symbols) if symbols else part


def _name_of(path: Path, symbols: Sequence[str]) -> str | None:
    """The symbol of a file that names none."""
    if "symbol" in columns_in(path):
        return None
    if len(symbols) != 1:
        raise BarFileError(f"{path} has no column symbol; name the one it has with --symbols")
    return symbols[0]


def _bars(table: BarTable) -> Iterator[Bar | Refused]:
    """Each bar of a table, or why there is none."""
    names, interval = table.symbols, table.interval
    rows = zip(
        table.symbol_index.tolist(), table.open_time.tolist(), table.ohlcv.tolist(), strict=True
    )
    for index, open_time, ohlcv in rows:
        try:
            yield Bar(names[index], interval, open_time, *ohlcv)
        except Refused as refused:
            yield refused


def _iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
