"""The feature state of every series, and the recent rows that agents and readers look back on."""

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.schema import KERNEL_HASH, SETS, FeatureSet

LOOKBACK = max(feature_set.window for feature_set in SETS.values())
SNAPSHOT_MAGIC, SNAPSHOT_VERSION = b"qae-features", 1
_BAR_COLUMNS = np.arange(len(kernel.FIELDS), dtype=np.int64)


class SnapshotError(ValueError):
    """Bytes that are not a snapshot of this kernel and layout, or not any more."""


class _Header(msgspec.Struct, frozen=True, array_like=True):
    """What a snapshot is of."""

    kernel: str
    layout: str
    series: int


@dataclass(frozen=True, slots=True)
class Rows:
    """What a burst of n bars gave, in the order of the bars.

    `values` [n, columns] are the kernel's rows, `counts` [n] the bars seen by each series then,
    and `windows[name]` [n, window, columns of the set] the window that ends with each row.
    """

    values: NDArray[np.float64]
    counts: NDArray[np.int64]
    windows: dict[str, NDArray[np.float64]]


class FeatureStore:
    """Feature state for many series, addressed by a small integer, growing by doubling.

    Every series has one state row, one ring of its recent bars, and for each feature set one
    ring of rows. Memory is fixed per series and independent of how long it runs.
    """

    def __init__(self, sets: tuple[FeatureSet, ...], capacity: int = 16) -> None:
        self.sets = sets
        self._states = kernel.new_states(capacity)
        self._bars = _new_rings(capacity, len(kernel.FIELDS))
        self._rings = {s.name: _new_rings(capacity, len(s.columns)) for s in sets}
        self._indices = {s.name: s.indices for s in sets}

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
        values = np.empty((n, kernel.COLUMN_COUNT))
        counts = np.empty(n, dtype=np.int64)
        kernel.burst(self._states, series, bars, values, counts)
        recent = np.empty((n, 1, len(kernel.FIELDS)))
        kernel.push(self._bars, series, counts, bars, _BAR_COLUMNS, recent)
        windows = {}
        for s in self.sets:
            windows[s.name] = np.empty((n, s.window, len(s.columns)))
            kernel.push(
                self._rings[s.name], series, counts, values, self._indices[s.name], windows[s.name]
            )
        return Rows(values, counts, windows)

    def count(self, series: int) -> int:
        """Bars seen by a series."""
        return int(kernel.bars_seen(self._states[series : series + 1])[0])

    def settled(self, series: int) -> bool:
        """Whether a series' state has the bits of a process that never stopped."""
        return bool(kernel.settled(self._states[series : series + 1])[0])

    def window(self, series: int, name: str) -> NDArray[np.float64]:
        """The newest window [window, columns] of a set, oldest row first; a view, not a copy."""
        length = next(s.window for s in self.sets if s.name == name)
        return self._latest(self._rings[name], series, length)

    def recent_bars(self, series: int, length: int) -> NDArray[np.float64]:
        """The newest `length` bars [length, 5], oldest first (at most `LOOKBACK`)."""
        return self._latest(self._bars, series, self._held(series, length))

    def recent_column(
        self, series: int, name: str, column: str, length: int
    ) -> NDArray[np.float64]:
        """The newest `length` values of a set's column (at most `LOOKBACK`), oldest first."""
        columns = next(s.columns for s in self.sets if s.name == name)
        rows = self._latest(self._rings[name], series, self._held(series, length))
        return rows[:, columns.index(column)]

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
        rings = " ".join(f"{s.name}:{s.hash}" for s in self.sets)
        return f"{sys.byteorder} {LOOKBACK} {rings}"

    def _held(self, series: int, length: int) -> int:
        """How many of the newest `length` bars are there."""
        return min(length, self.count(series), LOOKBACK)

    def _latest(self, rings: NDArray[np.float64], series: int, length: int) -> NDArray[np.float64]:
        end = (self.count(series) - 1) % LOOKBACK + LOOKBACK + 1
        return rings[series, end - length : end]


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


def _new_rings(capacity: int, columns: int) -> NDArray[np.float64]:
    """Rings [capacity, 2·LOOKBACK, columns] of NaN: an unfilled window is NaN by itself."""
    return np.full((capacity, 2 * LOOKBACK, columns), np.nan)


def _doubled(array: NDArray[np.float64]) -> NDArray[np.float64]:
    fill = 0.0 if array.ndim == 2 else np.nan
    return np.concatenate([array, np.full_like(array, fill)])
