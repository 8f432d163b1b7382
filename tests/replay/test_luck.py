"""How much may be luck: intervals that hold what they say, and Sharpe ratios deflated by trials."""

import math
from statistics import NormalDist

import numpy as np
import pytest

from quantum_ai_engine.replay.luck import (
    EULER,
    best_of_luck,
    bootstrap,
    deflated_sharpe,
    probabilistic_sharpe,
    resampled,
)
from quantum_ai_engine.replay.streams import Moments


def moments_of(values: np.ndarray[tuple[int], np.dtype[np.float64]]) -> Moments:
    moments = Moments()
    moments.update(values)
    return moments


def test_pieces_have_the_length_that_they_should() -> None:
    """Each step goes on with the next, but for one in `mean_length`, which begins anywhere."""
    at = resampled(500, 200, 5.0, np.random.default_rng(1))
    goes_on = (at[:, 1:] - at[:, :-1]) % 500 == 1
    assert goes_on.mean() == pytest.approx(0.8 + 0.2 / 500, abs=0.005)
    assert at.min() >= 0
    assert np.bincount(at.ravel(), minlength=500).min() > 0


def test_the_same_seed_is_the_same_interval() -> None:
    returns = np.random.default_rng(3).normal(0.0, 0.01, 300)
    assert bootstrap(returns, 365.0, 200, 7) == bootstrap(returns, 365.0, 200, 7)
    assert bootstrap(returns, 365.0, 200, 7) != bootstrap(returns, 365.0, 200, 8)
    assert bootstrap(returns[:9], 365.0, 200, 7) is None


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    """Of 60 histories of known mean about nine in ten intervals hold it."""
    random, held = np.random.default_rng(5), 0
    truth = 0.001 / 0.01 * math.sqrt(365.0)
    for _ in range(60):
        found = bootstrap(random.normal(0.001, 0.01, 250), 365.0, 200, 1)
        assert found is not None
        held += found.sharpe.low <= truth <= found.sharpe.high
    assert 47 <= held <= 60


def test_total_return_and_drawdown_are_of_paths() -> None:
    """Where every period is the same, so is every history."""
    found = bootstrap(np.full(20, -0.01), 365.0, 100, 1)
    assert found is not None
    assert found.total_return.low == pytest.approx(0.99**20 - 1.0)
    assert found.max_drawdown.high == pytest.approx(1.0 - 0.99**20)
    assert found.total_return.above_zero == 0.0


def test_ruin_is_drawn_as_ruin() -> None:
    returns = np.zeros(20)
    returns[3] = -1.0
    found = bootstrap(returns, 365.0, 200, 1)
    assert found is not None
    assert found.total_return.low == -1.0
    assert found.max_drawdown.high == 1.0


def test_the_probabilistic_sharpe_ratio_is_that_of_the_paper() -> None:
    """Of normal returns its spread is √((1 + SR²/2) / (n − 1))."""
    random = np.random.default_rng(1)
    moments = moments_of(random.normal(0.05, 1.0, 100_000))
    sharpe = moments.mean / moments.deviation
    z = (sharpe - 0.04) * math.sqrt((moments.count - 1) / (1.0 + sharpe**2 / 2.0))
    assert probabilistic_sharpe(moments, 0.04) == pytest.approx(NormalDist().cdf(z), abs=5e-3)
    assert probabilistic_sharpe(moments_of(np.zeros(10)), 0.0) is None


def test_the_numbers_of_the_paper_come_out() -> None:
    """Bailey and López de Prado 2014, their example: 100 trials, SR 2.5 a year over 5 years.

    The variance of the trials' yearly ratios is ½, skewness −3, kurtosis 10, 250 days a year:
    SR0 = 0.1132 a day and DSR ≈ 0.9004.
    """
    spread = math.sqrt(0.5 / 250.0)
    benchmark = best_of_luck(100, spread)
    assert benchmark == pytest.approx(0.1132, abs=1e-4)
    moments = Moments()
    moments.count, moments.mean = 1250, 2.5 / math.sqrt(250.0)
    moments.second = 1249.0  # a deviation of 1
    moments.third = -3.0 * moments.second**1.5 / math.sqrt(1250.0)
    moments.fourth = 10.0 * moments.second**2 / 1250.0
    assert probabilistic_sharpe(moments, benchmark) == pytest.approx(0.9004, abs=2e-3)


def test_more_trials_deflate_and_one_does_not() -> None:
    moments = moments_of(np.random.default_rng(2).normal(0.03, 1.0, 5_000))
    alone = deflated_sharpe(moments, [])
    assert (alone.trials, alone.benchmark) == (1, 0.0)
    assert alone.probability == alone.alone
    tried = deflated_sharpe(moments, [0.0, 0.01, -0.02, 0.015])
    assert tried.trials == 5
    assert tried.probability is not None
    assert alone.probability is not None
    assert tried.probability < alone.probability


def test_the_best_of_luck_is_the_expected_maximum() -> None:
    """Against the mean of the highest of 50 normal numbers, drawn 4,000 times."""
    drawn = np.random.default_rng(1).normal(size=(4_000, 50)).max(axis=1).mean()
    assert best_of_luck(50, 1.0) == pytest.approx(drawn, rel=0.02)
    assert pytest.approx(np.euler_gamma) == EULER
