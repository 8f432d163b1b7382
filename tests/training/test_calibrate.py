"""Calibration, against the conditions that its optimum must meet."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.manifest import Calibration
from quantum_ai_engine.training.calibrate import (
    BETA_LEAST_LABELS,
    LEAST_SPREAD,
    beta,
    calibrate,
    likeliest,
    platt,
)
from quantum_ai_engine.training.options import TrainingError

BOTH = pytest.mark.parametrize("method", [platt, beta], ids=["platt", "beta"])


def smoothed(rose: np.ndarray, evidence: float = 1.0) -> np.ndarray:
    ups, downs = evidence * rose.sum(), evidence * (1 - rose).sum()
    return np.where(rose > 0, (ups + 1) / (ups + 2), 1 / (downs + 2))


def loss(calibration: Calibration, logits: np.ndarray, rose: np.ndarray) -> float:
    rise, fall = np.logaddexp(0.0, logits), np.logaddexp(0.0, -logits)
    line = calibration.down * rise - calibration.up * fall + calibration.intercept
    return float(np.mean(np.logaddexp(0.0, line) - smoothed(rose) * line))


def drawn(true: Calibration, logits: np.ndarray, seed: int = 0) -> np.ndarray:
    """Outcomes that happen as often as a calibration says."""
    return (np.random.default_rng(seed).random(len(logits)) < true.apply(logits)).astype(float)


@settings(max_examples=100, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(2, 500),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 30.0]),
    shift=st.floats(-20, 20),
)
def test_platt_finds_the_optimum(seed: int, n: int, scale: float, shift: float) -> None:
    """L21: mean and logit-weighted mean of the probabilities are those of the smoothed targets."""
    rng = np.random.default_rng(seed)
    logits = shift + scale * rng.standard_normal(n)
    rose = (rng.random(n) < 0.4).astype(float)
    fitted = platt(logits, rose)
    residual = fitted.apply(logits) - smoothed(rose)
    assert fitted.up == fitted.down
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * logits).mean()) < 1e-8 * max(1.0, np.abs(logits).max())


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(20, 500),
    scale=st.sampled_from([0.03, 1.0, 5.0]),
    shift=st.floats(-3, 3),
    skill=st.floats(-1, 2),
)
def test_beta_is_the_best_rising_curve(
    seed: int, n: int, scale: float, shift: float, skill: float
) -> None:
    """No step away from its slopes that keeps them at 0 or more lowers the cross-entropy."""
    rng = np.random.default_rng(seed)
    logits = shift + scale * rng.standard_normal(n)
    rose = drawn(Calibration("platt", skill, skill, -0.3), logits, seed + 1)
    fitted = beta(logits, rose)
    assert min(fitted.up, fitted.down) >= 0.0
    found = loss(fitted, logits, rose)
    for size in (1e-3, 0.3):
        for step in np.random.default_rng(seed + 2).standard_normal((20, 3)) * size:
            up, down = max(fitted.up + step[0], 0.0), max(fitted.down + step[1], 0.0)
            other = Calibration("beta", up, down, fitted.intercept + step[2])
            assert found <= loss(other, logits, rose) + 1e-9


def test_platt_finds_the_scale_that_made_the_outcomes() -> None:
    """Outcomes drawn from a known slope and intercept give both back."""
    logits = np.random.default_rng(3).normal(0.0, 2.0, 200_000)
    fitted = platt(logits, drawn(Calibration("platt", 0.5, 0.5, -0.3), logits))
    assert fitted.up == pytest.approx(0.5, abs=0.01)
    assert fitted.intercept == pytest.approx(-0.3, abs=0.02)


@pytest.mark.parametrize(("up", "down"), [(0.4, 1.5), (1.2, 0.3), (0.0, 1.0), (1.0, 0.0)])
def test_beta_finds_the_curve_that_made_the_outcomes(up: float, down: float) -> None:
    """Outcomes drawn from known parameters give all three back, at the limits too."""
    logits = np.random.default_rng(3).normal(0.0, 2.0, 200_000)
    fitted = beta(logits, drawn(Calibration("beta", up, down, -0.2), logits))
    assert fitted.method == "beta"
    assert (fitted.up, fitted.down) == pytest.approx((up, down), abs=0.03)
    assert fitted.intercept == pytest.approx(-0.2, abs=0.04)


@BOTH
def test_separable_outcomes_stay_finite(method) -> None:
    """Smoothed targets keep a perfect ranking from becoming certainty."""
    logits = np.linspace(-3, 3, 100)
    fitted = method(logits, (logits > 0).astype(float))
    probabilities = fitted.apply(logits)
    assert np.isfinite([fitted.up, fitted.down, fitted.intercept]).all()
    assert 0.0 < probabilities.min() < 0.02
    assert 0.98 < probabilities.max() < 1.0


@BOTH
@settings(max_examples=60, deadline=None)
@given(
    logits=st.lists(
        st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1e3, -1e3, 1e-9, 40.0])),
        min_size=2,
        max_size=60,
    ),
    seed=st.integers(0, 1000),
)
def test_extreme_logits_give_numbers(method, logits: list[float], seed: int) -> None:
    """L20: no logit that a model can give overflows, whatever the others are."""
    values = np.array(logits)
    rose = (np.random.default_rng(seed).random(len(values)) < 0.5).astype(float)
    fitted = method(values, rose)
    assert np.isfinite([fitted.up, fitted.down, fitted.intercept]).all()
    p = fitted.apply(values)
    assert ((p >= 0.0) & (p <= 1.0)).all()


@BOTH
def test_equal_logits_give_the_base_rate(method) -> None:
    """A fit to equal logits is how often the close rose."""
    rose = np.array([1.0] * 300 + [0.0] * 700)
    for value in (0.0, 0.1, -700.0):
        assert method(np.full(1000, value), rose).apply(np.full(1, value))[0] == pytest.approx(
            0.3, abs=0.002
        )


def test_platt_does_not_depend_on_the_scale_of_the_logits() -> None:
    """Logits of a million times the size give the same probabilities."""
    rng = np.random.default_rng(5)
    logits = rng.standard_normal(500)
    rose = (rng.random(500) < 0.5 + 0.2 * np.sign(logits)).astype(float)
    small, large = platt(logits, rose), platt(1e6 * logits, rose)
    np.testing.assert_allclose(small.apply(logits), large.apply(1e6 * logits), atol=1e-7)


def test_few_labels_get_two_parameters_and_many_three() -> None:
    """Below the least number of independent labels it is Platt scaling, from it on beta."""
    logits = np.random.default_rng(6).standard_normal(4000)
    rose = drawn(Calibration("beta", 0.3, 1.5, 0.0), logits)
    few, many = (calibrate(logits, rose, BETA_LEAST_LABELS + more) for more in (-0.2, 0.0))
    share = BETA_LEAST_LABELS / 4000
    assert few == platt(logits, rose, share - 0.2 / 4000)
    assert many == beta(logits, rose, share)


@BOTH
def test_few_independent_labels_are_no_certainty(method) -> None:
    """Of outcomes that overlap so many are counted as are independent, whatever their number."""
    logits = np.linspace(-3, 3, 400)
    rose = (logits > 0).astype(float)
    seldom = method(logits, rose, 10 / 400).apply(logits)
    assert np.mean(seldom) == pytest.approx(smoothed(rose, 10 / 400).mean(), abs=1e-6)
    assert 0.8 < seldom.max() < 0.95
    assert method(logits, rose).apply(logits).max() > 0.99
    if method is platt:
        assert calibrate(logits, rose, 10.0) == platt(logits, rose, 10 / 400)


@BOTH
def test_a_model_that_ranks_the_wrong_way_round_is_refused(method) -> None:
    """L01: a model is neither turned round nor held flat so that it can pass for an agent."""
    logits = np.random.default_rng(7).standard_normal(4000)
    rose = drawn(Calibration("platt", -0.5, -0.5, 0.0), logits)
    assert method(logits, rose).up <= 0.0
    effective = BETA_LEAST_LABELS if method is beta else 1.0
    with pytest.raises(TrainingError, match="are not followed by more rises; train it with more"):
        calibrate(logits, rose, effective)


CONSTANTS = {
    "zeros": np.zeros(1000),
    "equal but for rounding": np.tile([0.1, 0.1 + 1e-16], 500),
    "no relation": np.repeat(np.random.default_rng(8).standard_normal(500), 2),
}


@pytest.mark.parametrize("effective", [1.0, BETA_LEAST_LABELS])
@pytest.mark.parametrize("logits", CONSTANTS.values(), ids=CONSTANTS.keys())
def test_a_constant_is_refused(logits: np.ndarray, effective: float) -> None:
    """L01: a model that answers all bars alike, or is best held flat, is no agent."""
    with pytest.raises(TrainingError, match="has learned nothing that holds"):
        calibrate(logits, np.tile([1.0, 0.0], 500), effective)


def test_probabilities_that_pass_are_spread() -> None:
    """L37: whatever is let through moves its forecast by more than the least spread."""
    logits = 0.05 * np.random.default_rng(9).standard_normal(4000)
    rose = drawn(Calibration("platt", 3.0, 3.0, 0.1), logits)
    assert calibrate(logits, rose, 800).apply(logits).std() > LEAST_SPREAD


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_refused(bad: float) -> None:
    """L02: there is no default calibration for a model that does not answer."""
    with pytest.raises(TrainingError, match="does not answer the validation span with numbers"):
        calibrate(np.array([0.0, bad, 1.0]), np.array([0.0, 1.0, 1.0]), 1.0)


def test_a_calibration_that_is_not_found_is_refused() -> None:
    """L02: an unfinished fit is an error, not a scale."""
    with pytest.raises(TrainingError, match="does not converge on the validation span in 1 steps"):
        likeliest(np.array([[0.0], [1.0], [3.0]]), np.array([0.0, 1.0, 1.0]), most_steps=1)


def test_steps_that_overshoot_are_damped() -> None:
    """Far outliers, with which a full Newton step raises the objective, are fitted too."""
    rng = np.random.default_rng(4)
    logits = 100.0 * rng.standard_t(1.2, 50)
    rose = (rng.random(50) < 0.1).astype(float)
    fitted = platt(logits, rose)
    residual = fitted.apply(logits) - smoothed(rose)
    assert abs(residual.mean()) < 1e-8
    assert abs((residual * logits).mean()) < 1e-8 * np.abs(logits).max()
