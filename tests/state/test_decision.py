"""From a forecast to a target: by level, mandate and room, and flat where nothing is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Forecast, Stance, Vote
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.sizing import Limit, Mandate, Room
from quantum_ai_engine.risk.stance import Level, next_level
from quantum_ai_engine.state.decision import DATA_QUALITY, Decision, Terms, decide

SETTINGS = RiskSettings()
FREE = Terms(Mandate(State.ACTIVE, 0.7, 1.0), Room(), 0.1, is_quarantined=False)
NOTHING = Level.FLAT, 0.0
levels = st.sampled_from(list(Level))
fractions = st.floats(0.0, 1.0)
probabilities = st.floats(1e-6, 1.0 - 1e-6)


def forecast(probability: float) -> Forecast:
    votes = (Vote("gru", "ab", probability, 1.0),)
    return Forecast(probability, 2.0 * abs(probability - 0.5), votes, (), 1.0)


def decided(
    probability: float,
    terms: Terms = FREE,
    before: tuple[Level, float] = NOTHING,
    base: float = 0.0,
    settings: RiskSettings = SETTINGS,
) -> Decision:
    return decide(before, forecast(probability), base, terms, settings)


def test_a_forecast_becomes_a_target() -> None:
    """L04: at most the confidence, and what holds it there is named."""
    one = decided(0.8)
    assert (one.level, one.stance) == (Level.STRONG_LONG, Stance.LONG)
    assert (one.target, one.reasons) == (0.25, ("change_per_bar",))
    assert one.wanted == pytest.approx(0.3)  # half of Kelly's bet
    assert decided(0.2).target == -0.25
    assert decided(0.5) == Decision(Level.FLAT, Stance.FLAT, 0.0, 0.0, ())


@given(levels, st.floats(-1.0, 1.0), probabilities, fractions)
def test_a_feed_that_is_not_believed_holds_nothing(
    was: Level, held: float, probability: float, base: float
) -> None:
    """L07, L08: whatever agents say of it; nothing of the room of others is wanted either."""
    ill = replace(FREE, is_quarantined=True)
    one = decided(probability, ill, (was, held), base)
    assert one == Decision(Level.FLAT, Stance.FLAT, 0.0, 0.0, (DATA_QUALITY,))


@given(levels, st.floats(-1.0, 1.0), probabilities)
def test_halted_is_flat_and_begins_from_flat(was: Level, held: float, probability: float) -> None:
    """L50: the level goes as well, so that nothing is taken up again by what was held before."""
    halted = replace(FREE, mandate=Mandate(State.HALTED, 0.7, 1.0))
    one = decided(probability, halted, (was, held))
    assert (one.level, one.stance, one.target, one.wanted) == (Level.FLAT, Stance.FLAT, 0.0, 0.0)
    assert one.reasons == (Limit.HALTED,)


@given(levels, st.floats(-1.0, 1.0), probabilities, fractions, fractions, fractions)
def test_a_target_is_inside_every_bound(
    was: Level, held: float, probability: float, base: float, long: float, short: float
) -> None:
    """L04, L51: confidence, cap, mode, room, and what the evidence supports; the level's side."""
    terms = replace(FREE, room=Room(long, short))
    one = decided(probability, terms, (was, held), base)
    confidence = forecast(probability).confidence
    room = long if one.target > 0.0 else short
    assert one.level is next_level(was, probability, SETTINGS)
    assert abs(one.target) <= min(confidence * (1.0 - base), SETTINGS.exposure_cap, room) + 1e-12
    assert abs(one.target) <= abs(one.wanted) + 1e-12
    if one.target:
        assert (one.target > 0.0) == (probability > 0.5)
        assert one.stance is (Stance.LONG if one.target > 0.0 else Stance.SHORT)


@given(probabilities, fractions, fractions)
def test_less_evidence_is_never_a_larger_target(
    probability: float, one: float, other: float
) -> None:
    """L32: the more of the trust the base rate has, the less is held."""
    low, high = sorted((one, other))
    assert abs(decided(probability, base=high).target) <= abs(decided(probability, base=low).target)


def test_a_base_rate_with_all_trust_leaves_nothing() -> None:
    """L02: an edge that no evidence supports is none; what was left of it is named."""
    one = decided(0.9, base=1.0)
    assert (one.stance, one.target) == (Stance.FLAT, 0.0)
    assert {Limit.BASE_RATE, Limit.KELLY} <= {*one.reasons}


def test_an_unknown_volatility_is_a_small_cap() -> None:
    """L36: what is not known is not taken for calm."""
    one = decided(0.9, replace(FREE, volatility=None))
    assert one.target == SETTINGS.unknown_volatility_cap
    assert one.reasons == (Limit.VOLATILITY_UNKNOWN,)
