"""Scores, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.training.dataset import Samples
from quantum_ai_engine.training.scores import (
    BLOCK_BARS,
    LEVELS,
    auc,
    blocks,
    held_out,
    newey_west,
    reliability,
)

from .conftest import MINUTE_MS


def test_scores_are_those_of_a_plain_loop() -> None:
    """L29: errors are scored in probability space, the Brier score beside that of the base rate."""
    rng = np.random.default_rng(0)
    p, rose = rng.random(500), (rng.random(500) < 0.6).astype(float)
    samples = Samples(np.arange(500), np.arange(500) * MINUTE_MS, rose)
    scores = held_out(p, samples, 0.55, 5, MINUTE_MS)
    brier = sum((a - b) ** 2 for a, b in zip(p, rose, strict=True)) / 500
    base = sum((0.55 - b) ** 2 for b in rose) / 500
    bias = sum(a - b for a, b in zip(p, rose, strict=True)) / 500
    assert scores.samples == 500
    assert scores.brier == pytest.approx(brier)
    assert scores.brier_base_rate == pytest.approx(base)
    assert scores.bias == pytest.approx(bias)
    assert scores.paired == pytest.approx(brier - base)
    error = sum(abs(p[tenth].sum() - rose[tenth].sum()) for tenth in tenths(p)) / 500
    assert scores.calibration_error == pytest.approx(error)
    assert scores.auc == pytest.approx(plain_auc(p, rose))
    assert scores.blocks.embargo_bars == 4


def tenths(p: np.ndarray) -> list[np.ndarray]:
    """Which forecasts lie in each of ten equal parts of 0 to 1."""
    return [(p >= i / 10) & (p < (i + 1) / 10) for i in range(10)]


def test_perfect_calibration_has_no_error() -> None:
    """L29: forecasts that happen as often as they say, in every bin, are 0 off."""
    p = np.repeat([0.25, 0.75], 400)
    rose = np.concatenate([np.tile([1.0, 0, 0, 0], 100), np.tile([1.0, 1, 1, 0], 100)])
    samples = Samples(np.arange(800), np.arange(800) * MINUTE_MS, rose)
    scores = held_out(p, samples, 0.5, 1, MINUTE_MS)
    assert scores.calibration_error == pytest.approx(0.0, abs=1e-12)
    wrong = held_out(1.0 - p, samples, 0.5, 1, MINUTE_MS)
    assert wrong.calibration_error == pytest.approx(0.5)


def plain_auc(p: np.ndarray, rose: np.ndarray) -> float:
    """Every pair of a rise and a fall."""
    ups, downs = p[rose == 1], p[rose == 0]
    wins = (ups[:, None] > downs).sum() + 0.5 * (ups[:, None] == downs).sum()
    return float(wins) / (len(ups) * len(downs))


@settings(max_examples=100, deadline=None)
@given(
    pairs=st.lists(
        st.tuples(st.sampled_from([0.0, 0.1, 0.5, 0.5 + 1e-16, 0.50001, 1.0]), st.booleans()),
        min_size=1,
        max_size=40,
    )
)
def test_auc_is_the_share_of_pairs_that_are_ranked_right(
    pairs: list[tuple[float, bool]],
) -> None:
    """Whatever is tied, and however few rises or falls there are, each pair counts once."""
    p, rose = (
        np.array(values, dtype=float) for values in zip(*pairs, (0.3, 0), (0.7, 1), strict=True)
    )
    assert auc(p, rose) == pytest.approx(plain_auc(p, rose), abs=1e-12)
    assert auc(1.0 - p, rose) == pytest.approx(1.0 - plain_auc(p, rose), abs=1e-12)


@pytest.mark.parametrize("rose", [[0.0, 1.0], [1.0, 0.0]])
def test_a_constant_ranks_nothing(rose: list[float]) -> None:
    """L01: equal forecasts have an AUC of a half, whatever follows."""
    assert auc(np.full(2, 0.6), np.array(rose)) == 0.5


def plain_blocks(close_time: np.ndarray, score: np.ndarray, embargo: int) -> list[float]:
    """Block means, by walking from one distinct close time to the next."""
    times = sorted(set(close_time.tolist()))
    size = min(BLOCK_BARS, len(times))
    means = []
    start = 0
    while start + size <= len(times):
        chosen = set(times[start : start + size])
        values = [
            v for t, v in zip(close_time.tolist(), score.tolist(), strict=True) if t in chosen
        ]
        means.append(sum(values) / len(values))
        start += size + embargo
    return means


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    bars=st.integers(1, 700),
    symbols=st.integers(1, 3),
    present=st.sampled_from([0.3, 1.0]),
    embargo=st.integers(0, 60),
)
def test_blocks_are_those_of_a_plain_walk(
    seed: int, bars: int, symbols: int, present: float, embargo: int
) -> None:
    """L29: a block is so many close times, whatever gaps or symbols there are; the rest is out."""
    rng = np.random.default_rng(seed)
    times = np.repeat(np.arange(bars) * MINUTE_MS, symbols)
    kept = rng.random(len(times)) < present
    kept[0] = True
    times = times[kept]
    scores = tuple(rng.standard_normal((3, len(times))))
    found = blocks(times, scores, embargo)
    for got, score in zip((found.brier, found.bias, found.paired), scores, strict=True):
        means = plain_blocks(times, score, embargo)
        assert len(means) == found.count
        np.testing.assert_allclose(got, np.quantile(means, LEVELS), atol=1e-12)
    assert found.bars == min(BLOCK_BARS, len(set(times.tolist())))


@pytest.mark.parametrize(
    ("bars", "count"), [(1, 1), (99, 1), (100, 1), (203, 1), (204, 2), (307, 2), (308, 3)]
)
def test_a_block_is_whole_or_the_whole_span(bars: int, count: int) -> None:
    """A span shorter than a block says how short it is; a part of a block is never one."""
    scores = tuple(np.arange(3.0 * bars).reshape(3, bars))
    found = blocks(np.arange(bars) * MINUTE_MS, scores, 4)
    assert (found.bars, found.count) == (min(bars, 100), count)
    assert len(found.brier) == len(found.levels) == len(LEVELS)
    if count == 1:
        assert set(found.brier) == {scores[0][:100].mean()}


def plain_newey_west(values: np.ndarray, times: np.ndarray, horizon: int) -> float:
    """Every pair of values whose times are less than the horizon apart, with Bartlett's weight."""
    d = values - values.mean()
    total = 0.0
    for i in range(len(d)):
        for j in range(len(d)):
            lag = abs(times[i] - times[j]) // MINUTE_MS
            if lag < horizon:
                total += (1 - lag / horizon) * d[i] * d[j]
    return max(total, 0.0) ** 0.5 / len(d)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    horizon=st.integers(1, 7),
    symbols=st.integers(1, 3),
    present=st.sampled_from([0.5, 1.0]),
)
def test_stderr_is_that_of_a_plain_double_loop(
    seed: int, horizon: int, symbols: int, present: float
) -> None:
    """Overlapping outcomes and symbols of one moment count together, and gaps in time apart."""
    rng = np.random.default_rng(seed)
    times = np.repeat(np.arange(40) * MINUTE_MS, symbols)
    times = times[rng.random(len(times)) < present]
    values = rng.standard_normal(len(times)) + np.sin(times / MINUTE_MS / 4)
    expected = plain_newey_west(values, times, horizon)
    assert newey_west(values, times, horizon, MINUTE_MS) == pytest.approx(expected, abs=1e-9)


def test_equal_symbols_count_once() -> None:
    """Four symbols that move as one carry the evidence of one."""
    rng = np.random.default_rng(1)
    values, times = rng.standard_normal(300), np.arange(300) * MINUTE_MS
    alone = newey_west(values, times, 5, MINUTE_MS)
    together = newey_west(np.repeat(values, 4), np.repeat(times, 4), 5, MINUTE_MS)
    assert together == pytest.approx(alone)


def test_stderr_covers_overlapping_sums() -> None:
    """For means of overlapping sums it is near the true error; ignoring overlap is far below."""
    rng = np.random.default_rng(2)
    times = np.arange(1000) * MINUTE_MS
    means, robust, naive = [], [], []
    for _ in range(200):
        noise = rng.standard_normal(1004)
        overlapping = np.convolve(noise, np.ones(5), mode="valid")
        means.append(overlapping.mean())
        robust.append(newey_west(overlapping, times, 5, MINUTE_MS))
        naive.append(newey_west(overlapping, times, 1, MINUTE_MS))
    truth = np.std(means)
    assert 0.75 < np.mean(robust) / truth < 1.1
    assert np.mean(naive) / truth < 0.55


def test_reliability_counts_every_forecast_once() -> None:
    """Ten bins hold all forecasts, 0 and 1 included, with their mean and the share that rose."""
    rng = np.random.default_rng(4)
    p = np.concatenate([rng.random(1000), [0.0, 1.0]])
    rose = (rng.random(len(p)) < p).astype(float)
    bins = reliability(p, rose)
    assert len(bins) == 10
    assert sum(b.count for b in bins) == len(p)
    assert sum(b.count * b.mean_probability for b in bins) == pytest.approx(p.sum())
    assert sum(b.count * b.rose for b in bins) == pytest.approx(rose.sum())
    assert all(b.low <= b.mean_probability <= b.high for b in bins)


def test_empty_bins_have_no_numbers() -> None:
    """L08: a bin without forecasts is left out; no mean is made up for it."""
    assert [b.low for b in reliability(np.full(3, 0.55), np.ones(3))] == [0.5]
