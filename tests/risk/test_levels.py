"""The stance machine: five levels, hysteresis, reversals through flat, dead band first."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance
from quantum_ai_engine.risk.stance import Level, level_size, next_level, stance_of

LEVELS = list(Level)  # from strong short to strong long
SS, WS, FLAT, WL, SL = LEVELS
DEFAULTS = RiskSettings()  # 0.60/0.40, strong 0.10 beyond, adding 0.02, exiting 0.05
probabilities = st.floats(0.0, 1.0)


@st.composite
def level_settings(draw: st.DrawFn) -> RiskSettings:
    """Any settings of the stance machine, also such as leave no room for a strong level."""
    return RiskSettings(
        long_threshold=draw(st.floats(0.51, 0.95)),
        short_threshold=draw(st.floats(0.05, 0.49)),
        strong_margin=draw(st.floats(0.001, 0.5)),
        add_hysteresis=draw(st.floats(0.0, 0.5)),
        exit_hysteresis=draw(st.floats(0.0, 0.5)),
        dead_band=draw(st.floats(0.0, 0.4)),
    )


@pytest.mark.parametrize(
    ("probability", "after"),
    [
        (0.99, [FLAT, FLAT, SL, SL, SL]),
        (0.72, [FLAT, FLAT, SL, SL, SL]),
        (0.719, [FLAT, FLAT, SL, WL, SL]),
        (0.70, [FLAT, FLAT, SL, WL, SL]),
        (0.699, [FLAT, FLAT, WL, WL, SL]),
        (0.65, [FLAT, FLAT, WL, WL, SL]),
        (0.649, [FLAT, FLAT, WL, WL, WL]),
        (0.60, [FLAT, FLAT, WL, WL, WL]),
        (0.599, [FLAT, FLAT, FLAT, WL, WL]),
        (0.55, [FLAT, FLAT, FLAT, WL, WL]),
        (0.549, [FLAT, FLAT, FLAT, FLAT, FLAT]),
        (0.50, [FLAT, FLAT, FLAT, FLAT, FLAT]),
        (0.451, [FLAT, FLAT, FLAT, FLAT, FLAT]),
        (0.45, [WS, WS, FLAT, FLAT, FLAT]),
        (0.40, [WS, WS, WS, FLAT, FLAT]),
        (0.351, [WS, WS, WS, FLAT, FLAT]),
        (0.35, [SS, WS, WS, FLAT, FLAT]),
        (0.30, [SS, WS, SS, FLAT, FLAT]),
        (0.28, [SS, SS, SS, FLAT, FLAT]),
        (0.01, [SS, SS, SS, FLAT, FLAT]),
    ],
)
def test_the_table_of_levels(probability: float, after: list[Level]) -> None:
    """Entered at its threshold, added to 0.02 harder, left when it falls back by 0.05."""
    assert [next_level(was, probability, DEFAULTS) for was in LEVELS] == after


@given(level_settings(), st.lists(probabilities, max_size=50))
def test_a_long_never_becomes_short_in_one_step(settings: RiskSettings, path: list[float]) -> None:
    """Whatever forecasts follow each other, between long and short there is flat."""
    levels = [FLAT]
    for probability in path:
        levels.append(next_level(levels[-1], probability, settings))
    sides = [stance_of(level) for level in levels]
    assert (Stance.LONG, Stance.SHORT) not in list(pairwise(sides))
    assert (Stance.SHORT, Stance.LONG) not in list(pairwise(sides))


@given(level_settings(), st.sampled_from(LEVELS), st.floats(-1.0, 1.0))
def test_the_dead_band_comes_before_all_thresholds(
    settings: RiskSettings, previous: Level, share: float
) -> None:
    """L37: inside the dead band it is flat, whatever thresholds, margins and hysteresis say."""
    probability = 0.5 + share * settings.dead_band * (1.0 - 1e-9)
    assert next_level(previous, probability, settings) is FLAT


@given(st.sampled_from(LEVELS), st.floats(-0.1, 0.1))
def test_thresholds_inside_the_dead_band_trade_no_noise(previous: Level, offset: float) -> None:
    """L37: thresholds pulled to 0.5, as an adaptive policy might, still hold nothing in it."""
    greedy = RiskSettings(
        long_threshold=0.501, short_threshold=0.499, exit_hysteresis=0.0, dead_band=0.1 + 1e-9
    )
    assert next_level(previous, 0.5 + offset, greedy) is FLAT


@given(level_settings(), st.sampled_from(LEVELS), probabilities)
def test_a_level_is_on_the_side_of_the_probability(
    settings: RiskSettings, previous: Level, probability: float
) -> None:
    """Never long at or below 0.5, never short at or above it."""
    stance = stance_of(next_level(previous, probability, settings))
    assert stance is Stance.FLAT or (stance is Stance.LONG) == (probability > 0.5)


@pytest.mark.parametrize("previous", LEVELS)
def test_what_is_not_a_number_is_flat(previous: Level) -> None:
    """L36: NaN is never taken for a reason to hold something."""
    assert next_level(previous, math.nan, DEFAULTS) is FLAT


@given(level_settings(), st.sampled_from(LEVELS), probabilities, probabilities)
def test_more_probability_is_never_a_lower_level(
    settings: RiskSettings, previous: Level, one: float, other: float
) -> None:
    """From each level the next one rises with the probability."""
    lower, higher = (next_level(previous, p, settings) for p in sorted((one, other)))
    assert LEVELS.index(lower) <= LEVELS.index(higher)


@given(level_settings(), probabilities, st.sampled_from(LEVELS))
def test_a_held_probability_settles(
    settings: RiskSettings, probability: float, previous: Level
) -> None:
    """The same forecast again and again leads to one level in at most two steps: nothing flips."""
    levels = [previous]
    for _ in range(4):
        levels.append(next_level(levels[-1], probability, settings))
    assert levels[2] is levels[3] is levels[4]


@given(st.lists(st.floats(0.655, 0.699), max_size=30), st.sampled_from(LEVELS))
def test_no_level_is_taken_up_again_inside_the_hysteresis(
    path: list[float], previous: Level
) -> None:
    """A path that moves by less than the hysteresis never returns to a level that it left."""
    levels = [previous]
    for probability in path:
        levels.append(next_level(levels[-1], probability, DEFAULTS))
    changes = [after for before, after in pairwise(levels) if after is not before]
    assert len({previous, *changes}) == len(changes) + 1


@given(st.lists(st.floats(0.48 + 1e-9, 0.52 - 1e-9), max_size=50))
def test_noise_around_one_half_never_trades(noise: list[float]) -> None:
    """L37: forecasts that hardly leave 0.5 give one long flat stretch."""
    level = FLAT
    for probability in noise:
        level = next_level(level, probability, DEFAULTS)
        assert level is FLAT


@pytest.mark.parametrize(
    ("changed", "probability", "previous", "before", "after"),
    [
        ({"long_threshold": 0.65}, 0.62, FLAT, WL, FLAT),
        ({"short_threshold": 0.35}, 0.38, FLAT, WS, FLAT),
        ({"strong_margin": 0.2}, 0.75, FLAT, SL, WL),
        ({"add_hysteresis": 0.1}, 0.75, WL, SL, WL),
        ({"exit_hysteresis": 0.0}, 0.58, WL, WL, FLAT),
        ({"dead_band": 0.3}, 0.75, SL, SL, FLAT),
    ],
)
def test_every_setting_moves_a_level(
    changed: dict[str, float], probability: float, previous: Level, before: Level, after: Level
) -> None:
    """L38: no threshold is without effect."""
    assert next_level(previous, probability, DEFAULTS) is before
    assert next_level(previous, probability, RiskSettings(**changed)) is after  # type: ignore[arg-type]


def test_a_weak_level_holds_a_fraction() -> None:
    """Weak is the stated fraction of strong, flat is nothing, and the wire knows three stances."""
    settings = RiskSettings(weak_size=0.3)
    assert [level_size(level, settings) for level in LEVELS] == [1.0, 0.3, 0.0, 0.3, 1.0]
    assert [str(stance_of(level)) for level in LEVELS] == "short short flat long long".split()
