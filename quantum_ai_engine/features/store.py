"""The feature state of every series, and the recent rows that agents and readers look back on."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from hashlib import blake2b
from operator import or_
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.schema import KERNEL_HASH, SETS, FeatureSet

LOOKBACK = max(feature_set.window for feature_set in SETS.values())
DEPTH = 64  # bars of one series that may be stepped before the windows of the first are read
SNAPSHOT_MAGIC, SNAPSHOT_VERSION = b"qae-features", 2
_BAR_COLUMNS = np.arange(len(kernel.FIELDS), dtype=np.int64)


class SnapshotError(ValueError):
    """Bytes that are not a snapshot of this kernel and layout, or not any more."""


class _Header(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is of."""

    kernel: str
    layout: str
    series: int


class Rows(NamedTuple):
    """What a burst of n bars gave, in the order of the bars.

    `values` [n, columns] are the kernel's rows, in which columns of no set may be NaN; `counts`
    [n] the bars seen by each series then.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]


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

    Every series has one state row, one ring of its recent bars, and one ring of rows for all
    feature sets of the same columns. Memory is fixed per series, however long it runs.
    """

    def __init__(self, sets: tuple[FeatureSet, ...], capacity: int = 16) -> None:
        self.sets = {s.name: s for s in sets}
        self._states = kernel.new_states(capacity)
        self._bars = _new_rings(capacity, LOOKBACK, len(kernel.FIELDS))
        self._rings = {
            s.hash: _new_rings(capacity, _rows_held(s.hash, sets), len(s.columns)) for s in sets
        }
        self._indices = {s.hash: s.indices for s in sets}
        self._asked = reduce(or_, (s.asked for s in sets), 0)

    def reserve(self, series: int) -> None:
        """Make room for `series` series, keeping what is there."""
        while len(self._states) < series:
            self._states = _doubled(self._states)
            self._bars = _doubled(self._bars)
            self._rings = {name: _doubled(ring) for name, ring in self._rings.items()}

    def step(self, series: NDArray[np.int64], bars: NDArray[np.float64]) -> Rows:
        """Advance `series[i]` by bar i of `bars` [n, BAR_WIDTH], in order.

        A series may come repeatedly.
        """
        n = len(bars)
        values = np.full((n, kernel.COLUMN_COUNT), np.nan)
        counts = np.empty(n, dtype=np.int64)
        kernel.burst(self._states, series, bars, values, counts, self._asked)
        kernel.push(self._bars, series, counts, bars, _BAR_COLUMNS)
        for columns, rings in self._rings.items():
            kernel.push(rings, series, counts, values, self._indices[columns])
        return Rows(values, counts)

    def windows(self, name: str, series: NDArray[np.int64], counts: NDArray[np.int64]) -> Windows:
        """The windows of a set that end with bar `counts[i]` of `series[i]`; views, not copies.

        They stay what they are until their series have seen `DEPTH` more bars than that.
        """
        s = self.sets[name]
        rings = self._rings[s.hash]
        length = rings.shape[1] // 2
        seen = kernel.bars_seen(self._states[series])
        if not ((counts <= seen) & (seen - counts <= length - s.window)).all():
            raise ValueError(f"a window of {name} has been overwritten: read windows sooner")
        return Windows(rings, series, (counts - 1) % length + length + 1, s.window)

    def count(self, series: int) -> int:
        """Bars seen by a series."""
        return int(kernel.bars_seen(self._states[series : series + 1])[0])

    def settled(self, series: int) -> bool:
        """Whether a series' state has the bits of a process that never stopped."""
        return bool(kernel.settled(self._states[series : series + 1])[0])

    def recent_bars(self, series: int, length: int) -> NDArray[np.float64]:
        """The newest `length` bars [length, 5], oldest first (at most `LOOKBACK`)."""
        return self._latest(self._bars, series, length)

    def recent_column(
        self, series: int, name: str, column: str, length: int
    ) -> NDArray[np.float64]:
        """The newest `length` values of a set's column (at most `LOOKBACK`), oldest first."""
        s = self.sets[name]
        return self._latest(self._rings[s.hash], series, length)[:, s.columns.index(column)]

    def snapshot(self, series: Sequence[int]) -> bytes:
        """The whole state of these series, versioned and with a checksum, for `restore`."""
        at = np.asarray(series, dtype=np.int64)
        body = b"".join(array[at].tobytes() for array in self._arrays())
        return _sealed(_Header(KERNEL_HASH, self._layout(), len(at)), body)

    def restore(self, series: Sequence[int], snapshot: bytes) -> None:
        """Give these series the states of a snapshot, in its order. Raises `SnapshotError`.

        Refused whole, with nothing changed, when it is damaged or of another kernel or layout.
        """
        header, body = _opened(snapshot)
        expected = _Header(KERNEL_HASH, self._layout(), len(series))
        if header != expected:
            raise SnapshotError(f"the snapshot is of {header}, this store is {expected}")
        self.reserve(max(series, default=-1) + 1)
        at, start = np.asarray(series, dtype=np.int64), 0
        for array in self._arrays():
            shape = (len(at), *array.shape[1:])
            end = start + math.prod(shape) * array.itemsize
            array[at] = np.frombuffer(body[start:end], dtype=array.dtype).reshape(shape)
            start = end

    def _arrays(self) -> list[NDArray[np.float64]]:
        return [self._states, self._bars, *self._rings.values()]

    def _layout(self) -> str:
        """What decides the meaning of a snapshot's bytes, beside the kernel."""
        rings = " ".join(f"{columns}×{r.shape[1]}" for columns, r in self._rings.items())
        return f"{sys.byteorder} {LOOKBACK} {rings}"

    def _latest(self, rings: NDArray[np.float64], series: int, most: int) -> NDArray[np.float64]:
        """The newest rows of a ring: at most `most`, `LOOKBACK` and what is there."""
        length, count = rings.shape[1] // 2, self.count(series)
        end = (count - 1) % length + length + 1
        return rings[series, end - min(most, LOOKBACK, count) : end]


def _sealed(header: _Header, body: bytes) -> bytes:
    content = msgspec.msgpack.encode((SNAPSHOT_VERSION, header, body))
    return SNAPSHOT_MAGIC + blake2b(content, digest_size=16).digest() + content


def _opened(snapshot: bytes) -> tuple[_Header, bytes]:
    mark, digest = len(SNAPSHOT_MAGIC), len(SNAPSHOT_MAGIC) + 16
    content = snapshot[digest:]
    if snapshot[:mark] != SNAPSHOT_MAGIC:
        raise SnapshotError("these bytes are no snapshot of feature state")
    if blake2b(content, digest_size=16).digest() != snapshot[mark:digest]:
        raise SnapshotError("the snapshot is damaged: its checksum differs")
    version, header, body = msgspec.msgpack.decode(content, type=tuple[int, msgspec.Raw, bytes])
    if version != SNAPSHOT_VERSION:
        raise SnapshotError(f"snapshot version {version} is not {SNAPSHOT_VERSION}")
    return msgspec.msgpack.decode(header, type=_Header), body


def _rows_held(columns: str, sets: Sequence[FeatureSet]) -> int:
    """How many rows of these columns are kept: for the longest window, and for who looks back."""
    return max(LOOKBACK, *(s.window + DEPTH for s in sets if s.hash == columns))


def _new_rings(capacity: int, length: int, columns: int) -> NDArray[np.float64]:
    """Rings [capacity, 2·length, columns] of NaN: an unfilled window is NaN by itself."""
    return np.full((capacity, 2 * length, columns), np.nan)


def _doubled(array: NDArray[np.float64]) -> NDArray[np.float64]:
    fill = 0.0 if array.ndim == 2 else np.nan
    return np.concatenate([array, np.full_like(array, fill)])
