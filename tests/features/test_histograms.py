"""Histograms of columns: what may be one, and that every value is counted once, in its bin."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.features.histograms import (
    MOST_BINS,
    Bins,
    Histogram,
    Reference,
    _one_pass,
)

Floats = NDArray[np.float64]
# Few values, so that many lie on an edge.
VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(-4.0, 4.0), st.just(float("nan")))
EDGES = st.lists(st.integers(-3, 3).map(float), min_size=1, max_size=9, unique=True).map(sorted)


@given(
    st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=30),
    st.lists(st.tuples(st.integers(0, 2), EDGES), min_size=1, max_size=4),
    st.data(),
)
def test_every_value_is_counted_in_its_bin(
    values: list[tuple[float, ...]], columns: list[tuple[int, list[float]]], data: st.DataObject
) -> None:
    """A value on an edge is below it; NaN is in no bin; only the chosen rows count, and add up."""
    rows = np.array(values)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1)).map(sorted))
    at = np.array(chosen, dtype=np.int64)
    places, edges = zip(*columns, strict=True)
    bins, counts = Bins(places, edges), np.ones((len(columns), MOST_BINS), dtype=np.int64)
    bins.count(rows, at, counts)
    for (place, own), got in zip(columns, counts - 1, strict=True):
        some = rows[at, place]
        some = some[~np.isnan(some)]
        wanted = np.bincount(np.searchsorted(own, some, "left"), minlength=MOST_BINS)
        np.testing.assert_array_equal(got, wanted)
    uncompiled = np.ones_like(counts)
    _one_pass(rows, at, bins._places, bins._edges, uncompiled)
    np.testing.assert_array_equal(uncompiled, counts)


GOOD: dict[str, Any] = {"edges": [0.0, 1.0], "counts": [5, 3, 2], "threshold": 0.1}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"edges": []}, "0 edges, there are 1 to 9"),
        ({"edges": [*range(10)], "counts": [1] * 11}, "10 edges, there are 1 to 9"),
        ({"counts": [5, 5]}, "2 edges but 2 counts"),
        ({"edges": [1.0, 0.0]}, "edges are not finite numbers that rise"),
        ({"edges": [1.0, 1.0]}, "edges are not finite numbers that rise"),
        ({"edges": [0.0, None]}, "$.columns[...].edges[1]"),
        ({"counts": [5, 0, 5]}, "$.columns[...].counts[1]"),
        ({"counts": [5, -1, 6]}, "$.columns[...].counts[1]"),
        ({"counts": [5, 2.5, 2.5]}, "$.columns[...].counts[1]"),
        ({"threshold": 0.0}, "the threshold is not a finite number above 0"),
        ({"threshold": -1.0}, "the threshold is not a finite number above 0"),
        ({"counts": [5, 3, 3]}, "one column counts 10 rows, another 11"),
        ({"bins": 3}, "unknown field `bins`"),
    ],
)
def test_what_is_no_histogram_is_refused(change: dict[str, Any], says: str) -> None:
    """L23: lengths, rising finite edges, whole counts above 0, a threshold, equal totals."""
    both = {"a": GOOD, "b": GOOD | change}
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({"rows": 20, "span_ms": 0, "level": 0.99, "columns": both}, Reference)
    assert says in str(refused.value)


@pytest.mark.parametrize("edges", [(0.0, float("inf")), (float("nan"), 1.0)])
def test_edges_are_finite(edges: tuple[float, ...]) -> None:
    """L23: what JSON cannot say is refused too."""
    with pytest.raises(ValueError, match="edges are not finite numbers that rise"):
        Histogram(edges, (1, 1, 1), 0.1)


@pytest.mark.parametrize(
    ("name", "value"), [("rows", 0), ("span_ms", -1), ("level", 1.0), ("level", 0.0)]
)
def test_rows_and_level_have_bounds(name: str, value: float) -> None:
    """L36: a comparison has rows, ends after it began, and has a level that there is."""
    given = {"rows": 20, "span_ms": 0, "level": 0.99, "columns": {"a": GOOD}} | {name: value}
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{name}"):
        msgspec.convert(given, Reference)
