"""How the columns of a set were spread in training, and the count of other rows by the same bins.

Bins lie between edges; a value on an edge belongs below it.
"""

from collections.abc import Sequence
from itertools import pairwise
from math import inf, isfinite
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numba import njit
from numpy.typing import NDArray

MOST_BINS = 10

Counts = NDArray[np.int64]
Places = NDArray[np.int64]
Vector = NDArray[np.float64]

_Count = Annotated[int, Meta(ge=1, le=1 << 53)]


class Histogram(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one column was spread: `counts` [bins] of its values between `edges` [bins − 1].

    A live histogram whose PSI is above `threshold` is one that has moved. Raises ValueError.

    >>> Histogram((0.5,), (30, 10), 0.2).counts
    (30, 10)
    """

    edges: tuple[float, ...]
    counts: tuple[_Count, ...]
    threshold: float

    def __post_init__(self) -> None:
        if not 1 <= len(self.edges) < MOST_BINS:
            raise ValueError(f"{len(self.edges)} edges, there are 1 to {MOST_BINS - 1}")
        if len(self.counts) != len(self.edges) + 1:
            raise ValueError(f"{len(self.edges)} edges but {len(self.counts)} counts")
        if not all(map(isfinite, self.edges)) or any(a >= b for a, b in pairwise(self.edges)):
            raise ValueError("edges are not finite numbers that rise")
        if not 0.0 < self.threshold < inf:
            raise ValueError("the threshold is not a finite number above 0")


class Reference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the columns of a set were spread in a train span.

    At least `rows` live rows are compared at a time, over at least `span_ms`, which is how long as
    many took there; of such comparisons of a stream like the train span, a share of `level` has no
    column above its threshold. A column that is not in `columns` had a single value. Raises
    ValueError.
    """

    rows: Annotated[int, Meta(ge=1, le=1_000_000)]
    span_ms: Annotated[int, Meta(ge=0, le=1 << 53)]
    level: Annotated[float, Meta(gt=0, lt=1)]
    columns: dict[str, Histogram]

    def __post_init__(self) -> None:
        totals = {sum(histogram.counts) for histogram in self.columns.values()}
        if len(totals) > 1:
            raise ValueError(f"one column counts {min(totals)} rows, another {max(totals)}")

    def counts(self) -> Counts:
        """All counts [columns, MOST_BINS]; bins that a column does not have are empty."""
        counts = np.zeros((len(self.columns), MOST_BINS), dtype=np.int64)
        for at, histogram in enumerate(self.columns.values()):
            counts[at, : len(histogram.counts)] = histogram.counts
        return counts


class Bins:
    """Counts values of rows: column i of its counts is the value at `places[i]` of a row.

    >>> bins, counts = Bins([1], [(0.0, 2.0)]), np.zeros((1, MOST_BINS), dtype=np.int64)
    >>> bins.count(np.array([[9.0, 2.0], [9.0, 3.0], [9.0, 0.5]]), np.array([0, 1]), counts)
    >>> counts[0, :4]
    array([0, 1, 1, 0])
    """

    def __init__(self, places: Sequence[int], edges: Sequence[Sequence[float]]) -> None:
        self._places = np.array(places, dtype=np.int64)
        self._edges = np.full((len(edges), MOST_BINS - 1), inf)
        for at, some in enumerate(edges):
            self._edges[at, : len(some)] = some

    def count(self, rows: Vector, chosen: Places, counts: Counts) -> None:
        """Add the `chosen` [m] of the rows [n, width] to the counts [columns, MOST_BINS].

        NaN is in no bin.
        """
        _count(rows, chosen, self._places, self._edges, counts)


def _one_pass(rows, chosen, places, edges, counts):  # type: ignore[no-untyped-def]  # it is compiled
    """No search and no branch: nine compares in a row cost less."""
    for row in chosen:
        for column in range(places.shape[0]):
            value = rows[row, places[column]]
            if value == value:  # noqa: PLR0124 (NaN ≠ NaN)
                above = 0
                for edge in range(edges.shape[1]):
                    above += value > edges[column, edge]
                counts[column, above] += 1


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_count = njit(
    "void(Array(float64, 2, 'C', readonly=True), int64[::1], int64[::1], float64[:, ::1], "
    "int64[:, ::1])",
    cache=True,
    error_model="numpy",
    nogil=True,
)(_one_pass)
