"""Volatility of equity: per period, whatever the distance of the samples."""

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.risk.volatility import SavedVolatility, Volatility

DAY_MS = 86_400_000
SAMPLES = st.lists(st.tuples(st.integers(1, DAY_MS), st.floats(-1.0, 1.0)), max_size=20)


def after(samples: list[tuple[int, float]], assumed: float = 0.015) -> Volatility:
    volatility = Volatility(DAY_MS, DAY_MS, assumed)
    for elapsed_ms, growth in samples:
        volatility.update(elapsed_ms, growth)
    return volatility


@pytest.mark.parametrize("per_day", [24, 288, 1440])
def test_it_is_per_period_whatever_the_distance_of_samples(per_day: int) -> None:
    """Moves of 2 % a day are told as 2 % a day by hours, minutes and anything between."""
    move = 0.02 / math.sqrt(per_day)
    samples = [(DAY_MS // per_day, move * (-1) ** k) for k in range(1, 20 * per_day)]
    assert after(samples).get() == pytest.approx(0.02, rel=0.02)


def test_it_is_forgotten_by_half_lives() -> None:
    """What moved a half-life ago counts half in variance, in one step or in many."""
    assert after([(DAY_MS, 0.0)], 0.02).get() == pytest.approx(0.02 / math.sqrt(2.0))
    in_steps = after([(DAY_MS // 96, 0.0)] * 96, 0.02)
    assert in_steps.get() == pytest.approx(0.02 / math.sqrt(2.0))


def test_a_gain_counts_from_the_next_sample_on() -> None:
    """A gain is movement as a loss is, one sample later."""
    loss, gain = after([(60_000, -0.05)]), after([(60_000, 0.05)])
    assert gain.get() < 0.015 < loss.get()
    for volatility in (loss, gain):
        volatility.update(60_000, 0.0)
    assert gain.get() == loss.get()


@given(SAMPLES, st.integers(1, DAY_MS), st.floats(-1.0, 1.0), st.floats(-1.0, 1.0))
def test_a_better_result_is_never_told_as_a_wilder_one(
    samples: list[tuple[int, float]], elapsed_ms: int, one: float, other: float
) -> None:
    """After the same past, volatility does not rise with growth."""
    worse, better = sorted((one, other))
    told_worse = after([*samples, (elapsed_ms, worse)]).get()
    assert after([*samples, (elapsed_ms, better)]).get() <= told_worse


@pytest.mark.parametrize(("elapsed_ms", "growth"), [(1, math.nan), (1, math.inf), (0, 0.1)])
def test_bad_samples_are_refused(elapsed_ms: int, growth: float) -> None:
    """L36: NaN is refused, and so is growth in no time."""
    with pytest.raises(ValueError, match="growth must"):
        after([(elapsed_ms, growth)])


@given(SAMPLES, SAMPLES)
def test_restarting_changes_no_bit(
    first: list[tuple[int, float]], then: list[tuple[int, float]]
) -> None:
    """Saved and restored through bytes, every later figure is the same."""
    whole, restored = after(first), after([])
    packed = msgspec.msgpack.encode(whole.saved())
    restored.restore(msgspec.msgpack.decode(packed, type=SavedVolatility))
    for elapsed_ms, growth in then:
        whole.update(elapsed_ms, growth)
        restored.update(elapsed_ms, growth)
    assert restored.saved() == whole.saved()
    assert restored.get() == whole.get()
