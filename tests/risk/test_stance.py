"""Stance and target: thresholds, hysteresis, dead band and cap."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance
from quantum_ai_engine.risk.stance import next_stance, target_of

LONG, SHORT, FLAT = Stance.LONG, Stance.SHORT, Stance.FLAT
STANCES = list(Stance)
DEFAULTS = RiskSettings()  # long 0.60, short 0.40, hysteresis 0.02, dead band 0.02
probabilities = st.floats(0.0, 1.0)


@st.composite
def risk_settings(draw: st.DrawFn) -> RiskSettings:
    """Thresholds that stay outside the dead band by their hysteresis, as settings must."""
    dead_band = draw(st.floats(0.0, 0.2))
    hysteresis = draw(st.just(0.0) | st.floats(1e-6, 0.2))  # far above one rounding
    reach = dead_band + hysteresis
    return RiskSettings(
        long_threshold=draw(st.floats(0.5 + reach + 1e-9, 0.95)),
        short_threshold=draw(st.floats(0.05, 0.5 - reach - 1e-9)),
        hysteresis=hysteresis,
        dead_band=dead_band,
    )


def walked(start: Stance, path: list[float], settings: RiskSettings) -> list[Stance]:
    """The stances along a path of probabilities, the first included."""
    stances = [start]
    for probability in path:
        stances.append(next_stance(stances[-1], probability, settings))
    return stances


@pytest.mark.parametrize(
    ("probability", "after"),
    [
        (0.99, [LONG, LONG, LONG]),
        (0.60, [LONG, LONG, LONG]),
        (0.599, [LONG, FLAT, FLAT]),
        (0.581, [LONG, FLAT, FLAT]),
        (0.579, [FLAT, FLAT, FLAT]),
        (0.53, [FLAT, FLAT, FLAT]),
        (0.50, [FLAT, FLAT, FLAT]),
        (0.47, [FLAT, FLAT, FLAT]),
        (0.421, [FLAT, FLAT, FLAT]),
        (0.419, [FLAT, SHORT, FLAT]),
        (0.401, [FLAT, SHORT, FLAT]),
        (0.40, [SHORT, SHORT, SHORT]),
        (0.01, [SHORT, SHORT, SHORT]),
    ],
)
def test_the_table_of_stances(probability: float, after: list[Stance]) -> None:
    """Entered at the threshold, left when it falls back by more than the hysteresis."""
    assert [next_stance(was, probability, DEFAULTS) for was in (LONG, SHORT, FLAT)] == after


@given(risk_settings(), st.sampled_from(STANCES), st.floats(-1.0, 1.0))
def test_the_dead_band_is_flat_whatever_came_before(
    settings: RiskSettings, previous: Stance, share: float
) -> None:
    """L37: inside the dead band around 0.5 the stance is flat, also against the hysteresis."""
    probability = 0.5 + share * settings.dead_band * (1.0 - 1e-9)
    assert next_stance(previous, probability, settings) is FLAT


@given(st.sampled_from(STANCES), st.floats(0.0, 0.1))
def test_the_dead_band_comes_before_the_thresholds(previous: Stance, offset: float) -> None:
    """L37: thresholds pulled to 0.5, as an adaptive policy might, still do not trade noise."""
    greedy = RiskSettings(
        long_threshold=0.501, short_threshold=0.499, hysteresis=0.0, dead_band=0.1 + 1e-9
    )
    assert next_stance(previous, 0.5 + offset, greedy) is FLAT
    assert next_stance(previous, 0.5 - offset, greedy) is FLAT


@given(st.lists(st.floats(0.48 + 1e-9, 0.52 - 1e-9), max_size=50))
def test_noise_around_one_half_never_trades(noise: list[float]) -> None:
    """L37: forecasts that hardly leave 0.5 give one long flat stretch."""
    assert set(walked(FLAT, noise, DEFAULTS)) == {FLAT}


@given(risk_settings(), st.sampled_from(STANCES), probabilities, st.data())
def test_no_stance_is_taken_up_again_within_the_hysteresis(
    settings: RiskSettings, start: Stance, lowest: float, data: st.DataObject
) -> None:
    """A path that moves by less than the hysteresis never returns to a stance that it left."""
    width = settings.hysteresis * (1.0 - 1e-6)
    path = data.draw(
        st.lists(st.floats(0.0, 1.0).map(lambda x: min(lowest + x * width, 1.0)), max_size=30)
    )
    stances = walked(start, path, settings)
    changes = [stance for before, stance in pairwise(stances) if stance is not before]
    assert len({start, *changes}) == len(changes) + 1


@given(risk_settings(), st.sampled_from(STANCES), probabilities)
def test_a_held_probability_is_a_fixed_point(
    settings: RiskSettings, previous: Stance, probability: float
) -> None:
    """The same forecast again changes nothing: the first answer is the answer."""
    once = next_stance(previous, probability, settings)
    assert next_stance(once, probability, settings) is once


@given(risk_settings(), st.sampled_from(STANCES), probabilities)
def test_the_stance_is_on_the_side_of_the_probability(
    settings: RiskSettings, previous: Stance, probability: float
) -> None:
    """Never long at or below 0.5, never short at or above it."""
    stance = next_stance(previous, probability, settings)
    assert stance is FLAT or (stance is LONG) == (probability > 0.5)


@given(risk_settings(), st.sampled_from(STANCES), probabilities, probabilities)
def test_more_probability_is_never_less_long(
    settings: RiskSettings, previous: Stance, one: float, other: float
) -> None:
    """The stance rises with the probability: short, flat, long."""
    rank = {SHORT: 0, FLAT: 1, LONG: 2}
    lower, higher = (next_stance(previous, p, settings) for p in sorted((one, other)))
    assert rank[lower] <= rank[higher]


@given(st.sampled_from(STANCES), st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_target_is_within_cap_and_confidence(
    stance: Stance, confidence: float, cap: float
) -> None:
    """L04: the wanted exposure never exceeds the confidence, nor the cap."""
    target = target_of(stance, confidence, cap)
    assert abs(target) <= min(confidence, cap)
    assert abs(target) == (0.0 if stance is FLAT else min(confidence, cap))


@given(st.sampled_from(STANCES), st.floats(0.0, 1.0), st.floats(0.0, 1.0), st.floats(0.01, 1.0))
def test_more_confidence_is_never_a_smaller_target(
    stance: Stance, one: float, other: float, cap: float
) -> None:
    """L04: the size follows the confidence up to the cap; nothing lifts a small one."""
    small, large = (abs(target_of(stance, c, cap)) for c in sorted((one, other)))
    assert small <= large


@pytest.mark.parametrize("probability", [0.999, 0.65, 0.5, 0.35, 0.001])
def test_target_and_stance_agree(probability: float) -> None:
    """The sign of the target is the stance."""
    stance = next_stance(FLAT, probability, DEFAULTS)
    target = target_of(stance, 2.0 * abs(probability - 0.5), DEFAULTS.exposure_cap)
    assert (target > 0.0, target < 0.0) == (stance is LONG, stance is SHORT)
