"""The feature state of every series, and the recent rows that agents and readers look back on."""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from operator import or_
from typing import NamedTuple, TypeAlias, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.schema import KERNEL_HASH, SETS, FeatureSet

LOOKBACK = max(feature_set.window for feature_set in SETS.values())
DEPTH = 64  # bars of one series that may be stepped before the windows of the first are read
# A checkpoint is at least so many bars back: they fill every ring again.
KEPT = LOOKBACK + DEPTH
RECENT_WIDTH, VERSION = kernel.BAR_WIDTH + 1, kernel.BAR_WIDTH
FILLED = -1.0  # the version of a bar that stands for a missing one; of others their revision
SNAPSHOT_VERSION = 4
# Of bars: those kept, those until the checkpoint moves, those of a burst, one that comes late.
_ROOM = KEPT + 2 * DEPTH + 1
_SAVED = [0, 1, 2, 3, 4, 5, VERSION]  # of a recent bar: prices, volume, when it opened, version
_LAYOUT = f"{sys.byteorder} {LOOKBACK} {DEPTH} {len(_SAVED)} {kernel.PACKED_WIDTH}"
_RESTORED_AT_ONCE = 10_000  # bars

RowsOf: TypeAlias = Callable[[int, NDArray[np.int64], NDArray[np.float64]], NDArray[np.float64]]
_Number = TypeVar("_Number", np.float64, np.int64)


class SnapshotError(ValueError):
    """Bytes that are not a snapshot of this kernel and layout, or not any more."""


class SavedSeries(msgspec.Struct, frozen=True, array_like=True):
    """The state of some series, with what decides the meaning of its bytes.

    `held` says how many recent bars each has.
    """

    version: int
    kernel: str
    layout: str
    held: tuple[int, ...]
    body: bytes


class Rows(NamedTuple):
    """What a burst of n bars gave, in the order of the bars.

    `values` [n, columns] are the kernel's rows, in which columns of no set may be NaN; `counts`
    [n] the bars seen by each series then.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence["Rows"]) -> "Rows":
        """One after the other."""
        return cls(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))


@dataclass(frozen=True, eq=False, slots=True)
class Windows:
    """Windows of a feature set as views of rings: nothing is copied until `array` is called.

    Window i is the run of `length` rows that ends before row `ends[i]` of `rings[series[i]]`.
    """

    rings: NDArray[np.float64]
    series: NDArray[np.int64]
    ends: NDArray[np.int64]
    length: int

    @classmethod
    def of(cls, windows: NDArray[np.float64]) -> "Windows":
        """Windows [n, window, columns] that lie in an array of their own."""
        n, length, _ = windows.shape
        return cls(np.ascontiguousarray(windows), np.arange(n), np.full(n, length), length)

    @classmethod
    def joined(cls, parts: Sequence["Windows"]) -> "Windows":
        """One after the other; several parts must lie in arrays of their own."""
        if len(parts) == 1:
            return parts[0]
        return cls.of(np.concatenate([part.rings for part in parts]))

    def __len__(self) -> int:
        return len(self.series)

    def __getitem__(self, i: int) -> NDArray[np.float64]:
        """Window i [window, columns], oldest row first: a view, not a copy."""
        return self.rings[self.series[i], self.ends[i] - self.length : self.ends[i]]

    def take(self, some: slice | Sequence[int]) -> "Windows":
        """Some of the windows, in that order."""
        at = np.arange(len(self))[some] if isinstance(some, slice) else np.array(some, dtype=int)
        return Windows(self.rings, self.series[at], self.ends[at], self.length)

    def array(self) -> NDArray[np.float64]:
        """All windows side by side [n, window, columns]."""
        out = np.empty((len(self), self.length, self.rings.shape[2]))
        kernel.gather(self.rings, self.series, self.ends, out)
        return out


class FeatureStore:
    """Feature state for many series, addressed by a small integer, growing by doubling.

    Every series has one state row, one ring of rows for all feature sets of the same columns, and
    a checkpoint: its state some bars ago, with the bars since. From these two everything else
    follows, bit for bit, so they are what a snapshot holds and where a series goes on from when a
    bar comes late. Memory is fixed per series, however long it runs.
    """

    def __init__(self, sets: tuple[FeatureSet, ...], capacity: int = 16) -> None:
        self.sets = {s.name: s for s in sets}
        self._columns = {s.name: s.hash for s in sets}
        self._states = kernel.new_states(capacity)
        self._checkpoints = kernel.new_states(capacity)
        self._base = np.zeros(capacity, dtype=np.int64)  # bars seen at the checkpoint
        self._recent = np.zeros((capacity, _ROOM, RECENT_WIDTH))
        self._rings = {
            s.hash: _new_rings(capacity, _rows_held(s.hash, sets), len(s.columns)) for s in sets
        }
        self._indices = {s.hash: s.indices for s in sets}
        self._asked = reduce(or_, (s.asked for s in sets), 0)

    def reserve(self, series: int) -> None:
        """Make room for `series` series, keeping what is there."""
        while len(self._states) < series:
            self._states = _doubled(self._states)
            self._checkpoints = _doubled(self._checkpoints)
            self._base = _doubled(self._base)
            self._recent = _doubled(self._recent)
            self._rings = {name: _doubled(ring, np.nan) for name, ring in self._rings.items()}

    def step(
        self,
        series: NDArray[np.int64],
        bars: NDArray[np.float64],
        versions: NDArray[np.float64] | None = None,
    ) -> Rows:
        """Advance `series[i]` by bar i of `bars` [n, BAR_WIDTH], in order.

        A series may come repeatedly. `versions` are revisions, or `FILLED`; 0 without.
        """
        n = len(bars)
        versions = np.zeros(n) if versions is None else versions
        if n > DEPTH and np.bincount(series).max() > DEPTH:
            parts = [slice(i, i + DEPTH) for i in range(0, n, DEPTH)]
            return Rows.joined([self._step(series[p], bars[p], versions[p]) for p in parts])
        return self._step(series, bars, versions)

    def rewrite(self, series: int, recent: NDArray[np.float64]) -> Rows:
        """Let other bars have come since the checkpoint: [m, RECENT_WIDTH], as `recent` has them.

        They may be more than there were, never fewer. Rows of all of them come back.
        """
        self._states[series] = self._checkpoints[series]
        bars = np.ascontiguousarray(recent[:, : kernel.BAR_WIDTH])
        return self.step(np.full(len(bars), series), bars, recent[:, VERSION])

    def recent(self, series: int) -> NDArray[np.float64]:
        """The bars since the checkpoint [m, RECENT_WIDTH], oldest first: a view.

        `KEPT` or more, or all there were. A row is the bar as the kernel reads it, and its
        version.
        """
        return self._recent[series, : self.count(series) - self._base[series]]

    def windows(self, name: str, series: NDArray[np.int64], counts: NDArray[np.int64]) -> Windows:
        """The windows of a set that end with bar `counts[i]` of `series[i]`; views, not copies.

        They stay what they are until their series have seen `DEPTH` more bars than that.
        """
        window, rings = self.sets[name].window, self._rings[self._columns[name]]
        length = rings.shape[1] // 2
        seen = kernel.bars_seen(self._states, series)
        if not ((counts <= seen) & (seen - counts <= length - window)).all():
            raise ValueError(f"a window of {name} has been overwritten: read windows sooner")
        return Windows(rings, series, (counts - 1) % length + length + 1, window)

    def count(self, series: int) -> int:
        """Bars seen by a series."""
        return int(kernel.bars_seen(self._states[series : series + 1])[0])

    def settled(self, series: int) -> bool:
        """Whether a series' state has the bits of a process that never stopped."""
        return bool(kernel.settled(self._states[series : series + 1])[0])

    def recent_bars(self, series: int, length: int) -> NDArray[np.float64]:
        """The newest `length` bars [length, 5], oldest first (at most `LOOKBACK`)."""
        recent = self.recent(series)
        return recent[max(0, len(recent) - min(length, LOOKBACK)) :, : len(kernel.FIELDS)]

    def recent_column(
        self, series: int, name: str, column: str, length: int
    ) -> NDArray[np.float64]:
        """The newest `length` values of a set's column (at most `LOOKBACK`), oldest first."""
        s, rings, count = self.sets[name], self._rings[self._columns[name]], self.count(series)
        held = rings.shape[1] // 2
        end = (count - 1) % held + held + 1
        return rings[series, end - min(length, LOOKBACK, count) : end, s.columns.index(column)]

    def snapshot(self, series: Sequence[int]) -> SavedSeries:
        """The whole state of these series, for `restore`."""
        at = np.asarray(series, dtype=np.int64)
        recent = [self.recent(i)[:, _SAVED] for i in series]
        held = tuple(len(bars) for bars in recent)
        body = b"".join(part.tobytes() for part in (kernel.packed(self._checkpoints[at]), *recent))
        return SavedSeries(SNAPSHOT_VERSION, KERNEL_HASH, _LAYOUT, held, body)

    def restore(self, series: Sequence[int], saved: SavedSeries, rows: RowsOf) -> None:
        """Give these series the states of a snapshot, in its order. Raises `SnapshotError`.

        `rows(i, open_time, ohlcv)` makes the kernel's bars [n, BAR_WIDTH] of the i-th of them.
        Refused whole, with nothing changed, when it is of another kernel or layout.
        """
        _check(saved, len(series))
        held, body = saved.held, saved.body
        if not series:
            return
        at, end = np.asarray(series, dtype=np.int64), 8 * len(series) * kernel.PACKED_WIDTH
        states = np.frombuffer(body[:end]).reshape(len(series), kernel.PACKED_WIDTH)
        recent = np.frombuffer(body[end:]).reshape(-1, len(_SAVED))
        each = np.split(recent, np.cumsum(held)[:-1])
        bars = [rows(i, b[:, 5].astype(np.int64), b[:, :5]) for i, b in enumerate(each)]
        self.reserve(max(series, default=-1) + 1)
        self._checkpoints[at] = self._states[at] = kernel.unpacked(states)
        self._base[at] = kernel.bars_seen(states)
        for rings in self._rings.values():
            rings[at] = np.nan
        for some in _runs(held):
            owners = np.repeat(at[some], held[some])
            versions = np.concatenate([part[:, -1] for part in each[some]])
            self._step(owners, np.concatenate(bars[some]), versions)

    def digest(self, series: Sequence[int]) -> bytes:
        """A hash of what these series are; their rows follow from that, bit for bit."""
        at = np.asarray(series, dtype=np.int64)
        hashed = blake2b(digest_size=16)
        for array in (self._states, self._checkpoints, self._base):
            for i in at:
                hashed.update(array[i].tobytes())
        for i in series:
            hashed.update(self.recent(i).tobytes())
        return hashed.digest()

    def _step(
        self, series: NDArray[np.int64], bars: NDArray[np.float64], versions: NDArray[np.float64]
    ) -> Rows:
        """Advance at most DEPTH bars of a series beyond what was there, or since its checkpoint."""
        n = len(bars)
        values = np.full((n, kernel.COLUMN_COUNT), np.nan)
        counts = np.empty(n, dtype=np.int64)
        kernel.burst(self._states, series, bars, values, counts, self._asked)
        for columns, rings in self._rings.items():
            kernel.push(rings, series, counts, values, self._indices[columns])
        held = counts - self._base[series]
        self._recent[series, held - 1, : kernel.BAR_WIDTH] = bars
        self._recent[series, held - 1, VERSION] = versions
        if (full := held >= KEPT + DEPTH).any():
            for i in np.unique(series[full]):
                self._advance(int(i))
        return Rows(values, counts)

    def _advance(self, series: int) -> None:
        """Move a checkpoint, so that where it stands depends on the number of bars alone."""
        recent = self._recent[series]
        unread = np.empty((DEPTH, kernel.COLUMN_COUNT))
        while self.count(series) - self._base[series] >= KEPT + DEPTH:
            bars = np.ascontiguousarray(recent[:DEPTH, : kernel.BAR_WIDTH])
            kernel.history(self._checkpoints[series], bars, unread, 0)
            recent[:-DEPTH] = recent[DEPTH:].copy()
            self._base[series] += DEPTH


def _runs(held: Sequence[int]) -> Iterator[slice]:
    """Series whose bars together are few enough to be stepped at once."""
    start, bars = 0, 0
    for i, n in enumerate(held):
        if bars + n > _RESTORED_AT_ONCE and i > start:
            yield slice(start, i)
            start, bars = i, 0
        bars += n
    if start < len(held):
        yield slice(start, len(held))


def _check(saved: SavedSeries, series: int) -> None:
    """Raise `SnapshotError` unless it is of so many series, and of this program."""
    if saved.version != SNAPSHOT_VERSION:
        raise SnapshotError(f"snapshot version {saved.version} is not {SNAPSHOT_VERSION}")
    if saved.kernel != KERNEL_HASH or saved.layout != _LAYOUT:
        raise SnapshotError(
            f"the snapshot is of kernel {saved.kernel} and layout {saved.layout}, this program "
            f"has {KERNEL_HASH} and {_LAYOUT}"
        )
    if len(saved.held) != series:
        raise SnapshotError(f"the snapshot is of {len(saved.held)} series, not {series}")
    if len(saved.body) != 8 * (series * kernel.PACKED_WIDTH + sum(saved.held) * len(_SAVED)):
        raise SnapshotError("the snapshot is shorter or longer than it says")


def _rows_held(columns: str, sets: Sequence[FeatureSet]) -> int:
    """How many rows of these columns are kept: for the longest window, and for who looks back."""
    return max(LOOKBACK, *(s.window + DEPTH for s in sets if s.hash == columns))


def _new_rings(capacity: int, length: int, columns: int) -> NDArray[np.float64]:
    """Rings [capacity, 2·length, columns] of NaN: an unfilled window is NaN by itself."""
    return np.full((capacity, 2 * length, columns), np.nan)


def _doubled(array: NDArray[_Number], fill: float = 0.0) -> NDArray[_Number]:
    return np.concatenate([array, np.full_like(array, fill)])
