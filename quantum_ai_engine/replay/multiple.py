"""Many tests at once: p-values corrected for how many there were."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]


def holm(p_values: Sequence[float]) -> Vector:
    """Adjusted p-values [n]: rejecting those below α errs in any of them with at most α.

    Source: Holm 1979; holds however the tests depend on each other.

    >>> holm([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.06, 0.06]
    """
    p, order = _ordered(p_values)
    stepped = np.maximum.accumulate((len(p) - np.arange(len(p))) * p[order])
    return _placed(np.minimum(stepped, 1.0), order)


def benjamini_hochberg(p_values: Sequence[float]) -> Vector:
    """Adjusted p-values [n]: of those below α a share of at most α is expected to be false.

    Source: Benjamini and Hochberg 1995; for tests that are independent or depend positively.

    >>> benjamini_hochberg([0.01, 0.04, 0.03]).round(4).tolist()
    [0.03, 0.04, 0.04]
    """
    p, order = _ordered(p_values)
    ratios = p[order] * len(p) / (np.arange(len(p)) + 1.0)
    stepped = np.minimum.accumulate(ratios[::-1])[::-1]
    return _placed(np.minimum(stepped, 1.0), order)


def _ordered(p_values: Sequence[float]) -> tuple[Vector, NDArray[np.intp]]:
    p = np.asarray(p_values, dtype=np.float64)
    if not ((p >= 0.0) & (p <= 1.0)).all():
        raise ValueError("a p-value is not from 0 to 1")
    return p, np.argsort(p, kind="stable")


def _placed(values: Vector, order: NDArray[np.intp]) -> Vector:
    placed = np.empty_like(values)
    placed[order] = values
    return placed
