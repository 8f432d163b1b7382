"""Statistics some at a time are those of the whole, however it is cut."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.replay.streams import Moments, Overlapping, Ranking, Stretches
from quantum_ai_engine.training.scores import auc, newey_west

Numbers = st.lists(st.floats(-10.0, 10.0), min_size=3, max_size=60)
Cuts = st.lists(st.integers(1, 60), max_size=5)


def parts(length: int, cuts: Sequence[int]) -> list[slice]:
    edges = sorted({0, length, *(cut for cut in cuts if cut < length)})
    return [slice(a, b) for a, b in pairwise(edges)]


@given(Numbers, Cuts)
def test_moments_are_those_of_all_numbers(numbers: Sequence[float], cuts: Sequence[int]) -> None:
    values, moments = np.array(numbers), Moments()
    for part in parts(len(values), cuts):
        moments.update(values[part])
    off = values - values.mean()
    assert moments.mean == pytest.approx(values.mean(), abs=1e-9)
    assert moments.deviation == pytest.approx(values.std(ddof=1), abs=1e-6)
    if values.std() > 1e-3:
        assert moments.skewness == pytest.approx((off**3).mean() / values.std() ** 3, abs=1e-6)
        assert moments.kurtosis == pytest.approx((off**4).mean() / values.std() ** 4, rel=1e-6)


@given(Numbers, Cuts, st.integers(1, 9))
def test_stretches_lose_no_row(numbers: Sequence[float], cuts: Sequence[int], most: int) -> None:
    """Sums stay whole, the highest and the last are those of their rows, memory is bounded."""
    values, times = np.array(numbers), np.arange(len(numbers)) * 7
    stretches = Stretches(most, sums=1, highs=1, lasts=1)
    for part in parts(len(values), cuts):
        stretches.update(times[part], np.column_stack([values[part]] * 3))
    assert len(stretches.values) <= most
    assert stretches.counts.sum() == len(values)
    starts = np.arange(0, len(values), stretches.rows)
    ends = np.minimum(starts + stretches.rows, len(values))
    rows = [values[a:b] for a, b in zip(starts, ends, strict=True)]
    expected = [[row.sum(), row.max(), row[-1]] for row in rows]
    assert stretches.values == pytest.approx(np.array(expected), abs=1e-9)
    assert stretches.first_ms.tolist() == times[starts].tolist()


def outcomes(seed: int, n: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Values of some symbols at times that are sometimes missing, NaN where there was none."""
    random = np.random.default_rng(seed)
    slots = np.sort(random.integers(0, n, size=n)).astype(np.int64)
    values = random.normal(size=(n, 2)).cumsum(axis=0)
    values[random.random((n, 2)) < 0.2] = np.nan
    return slots, values


@given(st.integers(0, 1_000), st.integers(3, 60), st.integers(1, 7), Cuts)
def test_errors_are_those_of_the_training(
    seed: int, n: int, horizon: int, cuts: Sequence[int]
) -> None:
    """The same Newey-West errors as a whole array gives, whatever came at once."""
    slots, values = outcomes(seed, n)
    overlapping = Overlapping(2, horizon)
    for part in parts(n, cuts):  # all of one time are given together
        a, b = (int(np.searchsorted(slots, slots[k - 1], "right")) if k else 0
                for k in (part.start, part.stop))  # fmt: skip
        overlapping.update(slots[a:b], values[a:b])
    counts, means, errors = overlapping.get()
    for column in (0, 1):
        there = ~np.isnan(values[:, column])
        own, times = values[there, column], slots[there] * 60_000
        assert counts[column] == len(own)
        if len(own):
            assert means[column] == pytest.approx(own.mean())
            expected = newey_west(own, times, horizon, 60_000)
            assert errors[column] == pytest.approx(expected, abs=1e-6)


@given(st.lists(st.tuples(st.integers(0, 100), st.booleans()), min_size=2), Cuts)
def test_ranking_is_the_auc_of_the_training(
    pairs: Sequence[tuple[int, bool]], cuts: Sequence[int]
) -> None:
    p = np.array([one / 100.0 for one, _ in pairs])
    rose = np.array([float(up) for _, up in pairs])
    ranking = Ranking()
    for part in parts(len(p), cuts):
        ranking.update(p[part], rose[part])
    if rose.min() == rose.max():
        assert ranking.get() is None
    else:
        assert ranking.get() == pytest.approx(auc(p, rose))
