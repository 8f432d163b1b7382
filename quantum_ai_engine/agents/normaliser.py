"""The one normaliser: frozen statistics of the train span, applied once, clamped and counted."""

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray


class Normaliser(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Standardises raw columns: (x − mean) / scale, clamped at ±clamp.

    >>> Normaliser((1.0,), (2.0,), 3.0).apply(np.array([[[5.0]], [[99.0]]]))
    (array([[[2.]],
    <BLANKLINE>
           [[3.]]], dtype=float32), 1)
    """

    mean: tuple[float, ...]
    scale: tuple[float, ...]
    clamp: float

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.scale):
            raise ValueError(f"{len(self.mean)} means but {len(self.scale)} scales")
        if not np.isfinite([*self.mean, *self.scale, self.clamp]).all():
            raise ValueError("a statistic is not a finite number")
        if min([*self.scale, self.clamp]) <= 0.0:
            raise ValueError("a scale or the clamp is not positive")

    def apply(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float32], int]:
        """Windows [n, window, columns] as the model reads them, and how many were clamped."""
        normal = np.empty(windows.shape, dtype=np.float32)
        return normal, Standardiser(self).into(windows, normal)


class Standardiser:
    """A normaliser that writes into arrays it is given: one pass and no array of its own."""

    def __init__(self, normaliser: Normaliser) -> None:
        self._mean, self._scale = np.array(normaliser.mean), np.array(normaliser.scale)
        self._clamp = normaliser.clamp

    def outside(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Which share of each row [n, columns] lies beyond the clamp [n]; NaN lies nowhere."""
        beyond = np.abs(rows - self._mean) > self._clamp * self._scale
        return np.asarray(np.add.reduce(beyond, axis=1) / len(self._mean))

    def into(self, windows: NDArray[np.float64], out: NDArray[np.float32]) -> int:
        """Write windows [..., columns] as the model reads them; how many values were clamped."""
        columns = len(self._mean)
        if windows.shape[-1] != columns:
            raise ValueError(f"{windows.shape[-1]} columns, but statistics of {columns}")
        if windows.shape != out.shape or not out.flags.c_contiguous:
            raise ValueError(f"windows {windows.shape} do not fit an array {out.shape} in one run")
        raw = np.ascontiguousarray(windows, dtype=np.float64).reshape(-1, columns)
        clamped: int = _standardise(
            raw, self._mean, self._scale, self._clamp, out.reshape(-1, columns)
        )
        return clamped


def _one_pass(rows, mean, scale, clamp, out):  # type: ignore[no-untyped-def]  # it is compiled
    """NaN is neither above nor below anything: it goes through as NaN, uncounted."""
    clamped = 0
    for row in range(rows.shape[0]):
        for column in range(rows.shape[1]):
            value = (rows[row, column] - mean[column]) / scale[column]
            if value > clamp:
                value = clamp
                clamped += 1
            elif value < -clamp:
                value = -clamp
                clamped += 1
            out[row, column] = value
    return clamped


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_standardise = njit(
    "int64(Array(float64, 2, 'C', readonly=True), float64[::1], float64[::1], float64, "
    "float32[:, ::1])",
    cache=True,
    error_model="numpy",
    nogil=True,
)(_one_pass)
