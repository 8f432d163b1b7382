"""Confidence sequence: coverage at all times, one direction, nothing that is not finite."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.risk.confidence import ConfidenceSequence, SavedConfidence

BOUND, ERROR_RATE = 0.01, 0.05
VALUES = st.lists(st.floats(-0.02, 0.02), max_size=40)


def after(values: list[float]) -> ConfidenceSequence:
    sequence = ConfidenceSequence(BOUND, ERROR_RATE)
    for value in values:
        sequence.update(value)
    return sequence


def share_missed(draws: np.ndarray, mean: float) -> float:
    """The share of runs [runs, values] whose bounds leave the mean out at any time at all."""
    missed = 0
    for run in draws.tolist():
        sequence = ConfidenceSequence(BOUND, ERROR_RATE)
        for value in run:
            sequence.update(value)
            low, high = sequence.get() or (-BOUND, BOUND)
            if not low <= mean <= high:
                missed += 1
                break
    return missed / len(draws)


@pytest.mark.parametrize("kind", ["normal", "two points", "rare losses", "changing spread"])
def test_the_mean_stays_inside_at_all_times(kind: str) -> None:
    """In 300 runs of 300 values the mean, 0, is left out at any time in no more than 5 %."""
    rng = np.random.default_rng(1)
    shape = (300, 300)
    draws = {
        "normal": np.clip(rng.normal(0.0, 0.003, shape), -BOUND, BOUND),
        "two points": rng.choice([-BOUND, BOUND], shape),
        "rare losses": rng.choice([-0.0095, 0.0005], shape, p=[0.05, 0.95]),
        "changing spread": np.clip(
            rng.normal(0.0, 0.002, shape) * np.exp(np.sin(np.arange(300) / 20.0)), -BOUND, BOUND
        ),
    }
    assert share_missed(draws[kind], 0.0) <= ERROR_RATE


def test_a_profit_is_found() -> None:
    """A mean of half the spread is told from 0 within a few hundred values."""
    rng = np.random.default_rng(2)
    sequence = after(rng.normal(0.001, 0.002, 400).tolist())
    low, high = sequence.get() or (0.0, 0.0)
    assert 0.0 < low < 0.001 < high


def test_nothing_is_known_before_the_first_value() -> None:
    """None before the first value, and the widest bound; all bounds stay inside ±bound."""
    assert after([]).get() is None
    assert after([]).low(ERROR_RATE) == -BOUND
    assert after([0.0]).get() == (-BOUND, BOUND)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """L36: NaN is refused, and changes nothing."""
    sequence = after([0.001])
    before = sequence.saved()
    with pytest.raises(ValueError, match="finite"):
        sequence.update(value)
    assert sequence.saved() == before


@given(VALUES, st.floats(-0.02, 0.02), st.floats(-0.02, 0.02))
def test_a_worse_value_never_raises_the_lower_bound(
    values: list[float], one: float, other: float
) -> None:
    """After the same past, the lower bound rises with the value."""
    worse, better = sorted((one, other))
    low, high = after([*values, worse]).get() or (0.0, 0.0)
    assert low <= (after([*values, better]).get() or (0.0, 0.0))[0] + 1e-15
    assert -BOUND <= low <= high <= BOUND


@given(VALUES, st.floats(0.0001, 0.0499))
def test_a_smaller_error_rate_is_a_lower_bound(values: list[float], rate: float) -> None:
    """Who wants to be surer knows less; at its own rate `low` is that of `get`."""
    sequence = after(values)
    assert sequence.low(rate) <= sequence.low(ERROR_RATE)
    assert sequence.low(ERROR_RATE) == (sequence.get() or (-BOUND,))[0]


@given(VALUES, VALUES)
def test_restarting_changes_no_bit(first: list[float], then: list[float]) -> None:
    """Saved and restored through bytes, every later bound is the same."""
    whole = after(first)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(whole.saved()), type=SavedConfidence)
    restored = ConfidenceSequence(BOUND, ERROR_RATE)
    restored.restore(saved)
    for value in then:
        whole.update(value)
        restored.update(value)
    assert restored.get() == whole.get()
    assert restored.saved() == whole.saved()
