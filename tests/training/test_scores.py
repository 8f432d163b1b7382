"""Scores, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.training.scores import held_out, newey_west, reliability

from .conftest import MINUTE_MS


def test_scores_are_those_of_a_plain_loop() -> None:
    """L29: errors are scored in probability space, the Brier score beside that of the base rate."""
    rng = np.random.default_rng(0)
    p, rose = rng.random(500), (rng.random(500) < 0.6).astype(float)
    scores = held_out(p, rose, 0.55, np.arange(500) * MINUTE_MS, 5, MINUTE_MS)
    brier = sum((a - b) ** 2 for a, b in zip(p, rose, strict=True)) / 500
    base = sum((0.55 - b) ** 2 for b in rose) / 500
    bias = sum(a - b for a, b in zip(p, rose, strict=True)) / 500
    assert scores.samples == 500
    assert scores.brier == pytest.approx(brier)
    assert scores.brier_base_rate == pytest.approx(base)
    assert scores.bias == pytest.approx(bias)
    assert scores.paired == pytest.approx(brier - base)


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
