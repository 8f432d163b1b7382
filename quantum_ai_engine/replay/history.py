"""Bars for a replay: what is chosen of a record, by open time, after what warms up."""

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple, Protocol

import numpy as np

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.files import BarFileError
from quantum_ai_engine.replay.blocks import LastBlocks, block_size
from quantum_ai_engine.replay.source import Rows, Source

FOREVER_MS = 2**62
WARM_UP_MOST = 4  # times as many open times as bars: a symbol that hardly trades has fewer


class Slice(NamedTuple):
    """The bars of one open time, in the order of the record, and what it has there that is none.

    `rows` of the record were read for it; `refused` counts those that are no bars by reason.
    """

    open_time_ms: int
    bars: list[Bar]
    refused: Counter[str]
    rows: int


class History(Protocol):
    """Bars in the order in which a live engine would have had them."""

    @property
    def start_ms(self) -> int:
        """From which open time on it counts what the engine says; before is warm-up."""

    @property
    def rows(self) -> int:
        """How many rows there are in all, with those that are no bars."""

    def slices(self, after: int = 0) -> Iterator[Slice]:
        """The bars by open time; the first `after` rows, which end with a slice, are skipped."""


@dataclass(frozen=True)
class Wanted:
    """Which part of a record is to be replayed.

    Either open times from `start_ms` up to, and without, `end_ms`, or the last `blocks` before
    `end_ms`, of `block_bars` bars of time each; None is the size that is usual there.
    """

    start_ms: int = 0
    end_ms: int = FOREVER_MS
    blocks: int | None = None
    block_bars: int | None = None


class WarmUp(NamedTuple):
    """What is to come before the first bar that counts.

    With `bars` of a symbol, over `span_ms` at least, its features have the bits of an engine that
    never stopped; with `least_bars` its agents can answer.
    """

    bars: int
    least_bars: int
    span_ms: int = 0


@dataclass(frozen=True)
class Selection:
    """Part of a record, read anew each time and never held as a whole.

    The first bar that is read opens at `warm_from_ms`; `blocks` are the open times with which the
    blocks begin, where blocks were asked for, and `notes` what should be said of the choice.
    """

    source: Source
    symbols: tuple[str, ...]
    warm_from_ms: int
    start_ms: int
    end_ms: int
    rows: int
    blocks: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    def slices(self, after: int = 0) -> Iterator[Slice]:
        """The bars by open time."""
        open_time, bars, refused, rows = -1, list[Bar](), Counter[str](), 0
        for part in self._parts(after):
            for at_ms, bar in zip(part.open_time.tolist(), part.bars(), strict=True):
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

    def _parts(self, after: int) -> Iterator[Rows]:
        """What was chosen of each part of the record, without the first rows of it."""
        for part in self.source.parts():
            kept = (part.open_time >= self.warm_from_ms) & (part.open_time < self.end_ms)
            chosen = np.flatnonzero(kept)
            kept[chosen[:after]] = False
            after -= min(after, len(chosen))
            if kept.any():
                yield part.where(kept)


def select(
    source: Source, wanted: Wanted, venues: Mapping[str, Venue], warm_up: WarmUp
) -> Selection:
    """Look a record through, so that part of it can be replayed.

    Raises `BarFileError` when there is nothing of what is wanted.
    """
    outline = _Outline.of(source, wanted, venues)
    start_ms, blocks, notes = wanted.start_ms, tuple[int, ...](), list[str]()
    if wanted.blocks is not None:
        blocks = tuple(time for time, before in outline.blocks if before >= warm_up.least_bars)
        notes = _shortened(wanted.blocks, len(blocks), outline, warm_up)
        start_ms = blocks[0]
    tail = _Tail(start_ms, wanted.end_ms, warm_up)
    for part in source.parts():
        tail.update(part)
    if not tail.told:
        raise BarFileError(f"{source.name} has no bars from --from to --to; it has {outline.span}")
    return Selection(
        source,
        outline.symbols,
        tail.warm_from_ms,
        start_ms or tail.warm_from_ms,
        wanted.end_ms,
        tail.rows,
        blocks,
        (*notes, *tail.notes()),
    )


class _Outline(NamedTuple):
    """What a record has of what is wanted, and of each of its last blocks the first open time and
    how many come before it.
    """

    name: str
    symbols: tuple[str, ...]
    first_ms: int
    last_ms: int
    times: int
    blocks: list[tuple[int, int]]

    @property
    def span(self) -> str:
        return f"bars from {_iso(self.first_ms)} to {_iso(self.last_ms)}"

    @classmethod
    def of(cls, source: Source, wanted: Wanted, venues: Mapping[str, Venue]) -> "_Outline":
        """Look for the symbols of a record and for its last blocks."""
        symbols, last = set[str](), None
        first_ms, last_ms, times = -1, -1, 0
        for part in source.parts():
            symbols |= set(part.symbol.tolist())
            new = np.unique(part.open_time)
            new = new[(new > last_ms) & (new < wanted.end_ms)]
            if not len(new):
                continue
            if wanted.blocks is not None:
                size = block_size(sorted(symbols), venues, wanted.block_bars)
                last = last or LastBlocks(wanted.blocks, size)
                last.update(new)
            first_ms = first_ms if times else int(new[0])
            last_ms, times = int(new[-1]), times + len(new)
        if missing := [name for name in source.symbols if name not in symbols]:
            raise BarFileError(
                f"{source.name} has no bars of {missing[0]}; leave it out of --symbols"
            )
        if not times:
            raise BarFileError(f"{source.name} has no bars before --to")
        blocks = last.get() if last else []
        return cls(source.name, tuple(sorted(symbols)), first_ms, last_ms, times, blocks)


def _shortened(wanted: int, found: int, outline: _Outline, warm_up: WarmUp) -> list[str]:
    """What is to be said where there are fewer blocks than wanted; raises where there is none."""
    if not found:
        raise BarFileError(
            f"{outline.name} has {outline.times} open times, too few for a block after a warm-up "
            f"of {warm_up.least_bars}; give more bars, or a smaller --block-size"
        )
    if found == wanted:
        return []
    return [
        f"only the last {found} of {wanted} blocks are replayed: before the others "
        f"{outline.name} has no warm-up of {warm_up.least_bars} bars"
    ]


class _Tail:
    """Of what comes before a span as much as warms up, and how many rows there are from there.

    It keeps the last open times of each symbol, and how many rows each of the last of all has.
    """

    def __init__(self, start_ms: int, end_ms: int, warm_up: WarmUp) -> None:
        self._start_ms, self._end_ms, self._warm_up = start_ms, end_ms, warm_up
        self._before: dict[str, deque[int]] = {}
        self._counts = deque[tuple[int, int]](maxlen=WARM_UP_MOST * max(1, warm_up.bars))
        self._first_ms = -1
        self.told = 0

    def update(self, part: Rows) -> None:
        """Take the next part of the record."""
        told = (part.open_time >= self._start_ms) & (part.open_time < self._end_ms)
        if self._first_ms < 0 and told.any():
            self._first_ms = int(part.open_time[told].min())
        self.told += int(told.sum())
        is_before = part.open_time < self._start_ms
        times, symbols = part.open_time[is_before], part.symbol[is_before]
        for name in set(part.symbol.tolist()):
            held = self._before.setdefault(name, deque(maxlen=max(1, self._warm_up.bars)))
            held.extend(times[symbols == name].tolist())
        for time, rows in zip(*np.unique(times, return_counts=True), strict=True):
            is_known = self._counts and self._counts[-1][0] == time
            known = self._counts.pop()[1] if is_known else 0
            self._counts.append((int(time), int(rows) + known))

    @property
    def warm_from_ms(self) -> int:
        """When the first bar opens that is read."""
        if not self._warm_up.bars or not self._counts:
            return max(self._first_ms, 0)
        enough = min(held[0] for held in self._before.values() if held)
        return max(self._counts[0][0], min(enough, self._start_ms - self._warm_up.span_ms))

    @property
    def rows(self) -> int:
        """How many rows there are from there to the end."""
        if not self._warm_up.bars:
            return self.told
        warm_from_ms = self.warm_from_ms
        return self.told + sum(rows for time, rows in self._counts if time >= warm_from_ms)

    def notes(self) -> Iterator[str]:
        """How long the warm-up is, and who lacks one."""
        if not self._start_ms:
            yield (
                f"nothing comes before the first bar: the first {self._warm_up.least_bars} of each "
                "symbol warm it up, and have no signal"
            )
            return
        yield (
            f"warm-up: {self.rows - self.told} bars from {_iso(self.warm_from_ms)} on come before "
            f"the first that counts, at {_iso(self._first_ms)}"
        )
        warm_from_ms, warm_up = self.warm_from_ms, self._warm_up
        for name, held in sorted(self._before.items()):
            seen = sum(time >= warm_from_ms for time in held)
            if seen < warm_up.bars:
                late = seen < warm_up.least_bars
                what = "its first signals come later" if late else "its features depend on that"
                yield f"{name} warms up with {seen} bars, not with {warm_up.bars}: {what}"


def _iso(time_ms: int) -> str:
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%d %H:%M}"
