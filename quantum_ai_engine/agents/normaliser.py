"""The one normaliser: frozen statistics of the train span, applied once, clamped and counted."""

import msgspec
import numpy as np
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
        if windows.shape[-1] != len(self.mean):
            raise ValueError(f"{windows.shape[-1]} columns, but statistics of {len(self.mean)}")
        z = (windows - np.asarray(self.mean)) / np.asarray(self.scale)
        clamped = int(np.count_nonzero(np.abs(z) > self.clamp))
        return np.clip(z, -self.clamp, self.clamp).astype(np.float32), clamped
