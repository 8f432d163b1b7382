"""Platt scaling, against the conditions that its optimum must meet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.bundle import Calibration
from quantum_ai_engine.training.calibrate import platt
from quantum_ai_engine.training.dataset import TrainingError


def smoothed(rose: np.ndarray) -> np.ndarray:
    ups, downs = rose.sum(), (1 - rose).sum()
    return np.where(rose > 0, (ups + 1) / (ups + 2), 1 / (downs + 2))


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 500),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    shift=st.floats(-20, 20),
)
def test_finds_the_optimum(seed: int, n: int, scale: float, shift: float) -> None:
    """L21: mean and logit-weighted mean of the probabilities are those of the smoothed targets."""
    rng = np.random.default_rng(seed)
    logits = shift + scale * rng.standard_normal(n)
    rose = (rng.random(n) < 0.4).astype(float)
    fitted = platt(logits, rose)
    residual = fitted.apply(logits) - smoothed(rose)
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * logits).mean()) < 1e-8 * max(1.0, np.abs(logits).max())


def test_finds_the_scale_that_made_the_outcomes() -> None:
    """Outcomes drawn from a known slope and intercept give both back."""
    rng = np.random.default_rng(3)
    logits = rng.normal(0.0, 2.0, 200_000)
    rose = (rng.random(len(logits)) < Calibration(0.5, -0.3).apply(logits)).astype(float)
    fitted = platt(logits, rose)
    assert fitted.slope == pytest.approx(0.5, abs=0.01)
    assert fitted.intercept == pytest.approx(-0.3, abs=0.02)


def test_separable_outcomes_stay_finite() -> None:
    """Smoothed targets keep a perfect ranking from becoming certainty."""
    logits = np.linspace(-3, 3, 100)
    fitted = platt(logits, (logits > 0).astype(float))
    probabilities = fitted.apply(logits)
    assert np.isfinite([fitted.slope, fitted.intercept]).all()
    assert 0.0 < probabilities.min() < 0.02
    assert 0.98 < probabilities.max() < 1.0


def test_equal_logits_give_the_base_rate() -> None:
    """A model that says nothing is calibrated to how often the close rose."""
    rose = np.array([1.0] * 300 + [0.0] * 700)
    fitted = platt(np.zeros(1000), rose)
    assert fitted.apply(np.zeros(1))[0] == pytest.approx(0.3, abs=0.002)


def test_does_not_depend_on_the_scale_of_the_logits() -> None:
    """Logits of a million times the size give the same probabilities."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal(500)
    rose = (rng.random(500) < 0.5 + 0.2 * np.sign(logits)).astype(float)
    small, large = platt(logits, rose), platt(1e6 * logits, rose)
    np.testing.assert_allclose(small.apply(logits), large.apply(1e6 * logits), atol=1e-7)


def test_logits_that_are_no_numbers_are_refused() -> None:
    """L02: there is no default calibration for a model that does not answer."""
    with pytest.raises(TrainingError, match="does not answer the validation span with numbers"):
        platt(np.array([0.0, np.nan, 1.0]), np.array([0.0, 1.0, 1.0]))


def test_a_calibration_that_is_not_found_is_refused() -> None:
    """L02: an unfinished fit is an error, not a scale."""
    with pytest.raises(TrainingError, match="does not converge on the validation span in 1 steps"):
        platt(np.array([0.0, 1.0, 3.0]), np.array([0.0, 1.0, 1.0]), most_steps=1)


def test_steps_that_overshoot_are_damped() -> None:
    """Far outliers, with which a full Newton step raises the objective, are fitted too."""
    rng = np.random.default_rng(4)
    logits = 100.0 * rng.standard_t(1.2, 50)
    rose = (rng.random(50) < 0.1).astype(float)
    fitted = platt(logits, rose)
    residual = fitted.apply(logits) - smoothed(rose)
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * logits).mean()) < 1e-8 * np.abs(logits).max()
