"""Rows larger than memory: written to a temporary file part by part, then read as one array."""

import mmap
import os
import tempfile
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.training.options import TrainingError

PART_BARS = 4_096  # rows made or measured at a time: some megabytes of the widest set
ON_DISK = "/var/tmp"  # noqa: S108 (a file there has no name that could be guessed)

_Float = TypeVar("_Float", np.float32, np.float64)


def mapped(
    parts: Iterable[NDArray[_Float]], shape: tuple[int, int], dtype: type[_Float]
) -> NDArray[_Float]:
    """The parts, one after the other, as one read-only array of that shape over a file.

    The file lies where `TMPDIR` says, else in /var/tmp, since /tmp is often memory. It has no name:
    whatever ends the process, it is gone with the array. Raises `TrainingError` when it does not
    fit.
    """
    directory = _directory()
    try:
        # Written as a file, not through the map: a full disk is then an error, not a dead process.
        with tempfile.TemporaryFile(dir=directory) as file:
            for part in parts:
                file.write(np.ascontiguousarray(part, dtype=dtype).data)
            file.flush()
            view = mmap.mmap(file.fileno(), file.tell(), access=mmap.ACCESS_READ)
    except OSError as error:
        size = shape[0] * shape[1] * np.dtype(dtype).itemsize
        raise TrainingError(
            f"cannot keep {size / 1e6:.0f} MB of rows in {directory}: {error.strerror}; set TMPDIR "
            "to a directory that has room for them"
        ) from error
    return np.frombuffer(view, dtype=dtype).reshape(shape)


def _directory() -> str:
    if "TMPDIR" in os.environ or not os.access(ON_DISK, os.W_OK):
        return tempfile.gettempdir()
    return ON_DISK


class Moments:
    """Mean and spread (population deviation) of columns whose rows come in parts.

    Each part is measured around its own mean and then merged, so that nothing cancels. Source:
    Chan, Golub and LeVeque 1983.

    >>> moments = Moments(1)
    >>> moments.update(np.array([[1.0], [2.0]]))
    >>> moments.update(np.array([[6.0]]))
    >>> moments.mean, moments.spread.round(3)
    (array([3.]), array([2.16]))
    """

    def __init__(self, columns: int) -> None:
        self.mean = np.zeros(columns)
        self._count = 0
        self._squares = np.zeros(columns)

    def update(self, rows: NDArray[np.float64]) -> None:
        """Add rows [n, columns], at least one."""
        count = self._count + len(rows)
        mean = rows.mean(axis=0)
        apart = mean - self.mean
        self._squares += ((rows - mean) ** 2).sum(axis=0)
        self._squares += apart**2 * (self._count * len(rows) / count)
        self.mean = self.mean + apart * (len(rows) / count)
        self._count = count

    @property
    def spread(self) -> NDArray[np.float64]:
        """The population deviation [columns]."""
        return np.sqrt(self._squares / self._count)
