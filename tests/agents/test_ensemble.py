"""The ensemble: who voted, with which share, and what comes of it."""

import math
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.agents.ensemble import combine
from quantum_ai_engine.events import Abstained, Abstention, Forecast, Vote

probabilities = st.floats(0.0, 1.0)


@st.composite
def ballots(draw: st.DrawFn) -> list[Vote]:
    """Votes of 1 to 8 agents whose trust sums to 1."""
    weights = draw(st.lists(st.floats(0.01, 1.0), min_size=1, max_size=8))
    return [
        Vote(f"agent{i}", f"{i:012x}", draw(probabilities), weight / sum(weights))
        for i, weight in enumerate(weights)
    ]


def equal_ballot(*votes: float) -> list[Vote]:
    return [Vote(f"agent{i}", "ab", p, 1.0 / len(votes)) for i, p in enumerate(votes)]


def forecast(votes: list[Vote], *abstained: Abstention) -> Forecast:
    combined = combine(votes, abstained)
    assert combined is not None
    return combined


@pytest.mark.parametrize("reason", Abstained)
def test_no_vote_is_no_forecast(reason: Abstained) -> None:
    """L02: when every agent abstained there is nothing: no 0.5, no other number."""
    assert combine([], [Abstention("gru", reason), Abstention("patchtst", reason)]) is None
    assert combine([], []) is None


def test_no_effective_vote_is_no_forecast() -> None:
    """L02: votes without any trust (all agents in quarantine) are no effective vote."""
    assert combine([Vote("gru", "ab", 0.9, 0.0), Vote("patchtst", "cd", 0.1, 0.0)], []) is None


def test_votes_and_abstentions_are_named() -> None:
    """L01: the forecast names each agent that voted with its weight, and each that abstained."""
    votes = [Vote("gru", "0123456789ab", 0.7, 0.25), Vote("nhits", "ba9876543210", 0.6, 0.75)]
    abstained = [
        Abstention("patchtst", Abstained.WARMING_UP),
        Abstention("sigor", Abstained.DEADLINE),
    ]
    combined = forecast(votes, *abstained)
    assert combined.votes == tuple(votes)
    assert combined.abstained == tuple(abstained)


def test_an_abstention_has_no_weight() -> None:
    """L02: an agent that abstains neither moves the probability nor counts as a vote."""
    votes = equal_ballot(0.7, 0.6)
    alone, beside = forecast(votes), forecast(votes, Abstention("patchtst", Abstained.ERROR))
    assert beside.probability == alone.probability
    assert beside.effective_votes == alone.effective_votes


def test_logarithmic_pooling_by_hand() -> None:
    """Odds of 3 and 1/2 at trust ¾ and ¼ pool to 3^¾ · ½^¼."""
    votes = [Vote("a", "ab", 0.75, 0.75), Vote("b", "cd", 1 / 3, 0.25)]
    odds = 3.0**0.75 * 0.5**0.25
    assert forecast(votes).probability == pytest.approx(odds / (1.0 + odds), rel=1e-14)


@given(ballots(), st.randoms(use_true_random=False))
def test_the_order_of_votes_does_not_matter(votes: list[Vote], random: Random) -> None:
    """The same votes in another order give the same forecast, up to rounding."""
    shuffled = random.sample(votes, len(votes))
    one, other = forecast(votes), forecast(shuffled)
    assert other.probability == pytest.approx(one.probability, rel=1e-12)
    assert other.confidence == pytest.approx(one.confidence, abs=1e-12)
    assert other.effective_votes == pytest.approx(one.effective_votes, rel=1e-12)


@given(ballots())
def test_the_pool_lies_between_its_votes(votes: list[Vote]) -> None:
    """L04: the ensemble is never more certain than its most certain vote."""
    voted = [min(max(vote.probability, 1e-6), 1.0 - 1e-6) for vote in votes]
    assert min(voted) * (1 - 1e-12) <= forecast(votes).probability <= max(voted) * (1 + 1e-12)


@given(ballots())
def test_confidence_is_the_distance_from_one_half(votes: list[Vote]) -> None:
    """L04: confidence is 2·|p − 0.5| and nothing else."""
    combined = forecast(votes)
    assert combined.confidence == 2.0 * abs(combined.probability - 0.5)
    assert 0.0 <= combined.confidence <= 1.0


@given(st.lists(probabilities, min_size=1, max_size=8))
def test_up_and_down_are_alike(voted: list[float]) -> None:
    """L21: mirrored votes give the mirrored forecast: the ensemble has no side of its own."""
    up = forecast(equal_ballot(*voted)).probability
    down = forecast(equal_ballot(*(1.0 - p for p in voted))).probability
    assert up + down == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("certain", [0.0, 1.0])
def test_certainty_does_not_outvote_everybody(certain: float) -> None:
    """A vote of 0 or 1 leaves a finite forecast that others can turn."""
    assert 0.0 < forecast(equal_ballot(certain)).probability < 1.0
    against = [abs(certain - 0.01)] * 5
    assert (forecast(equal_ballot(certain, *against)).probability > 0.5) == (against[0] > 0.5)


@pytest.mark.parametrize("agents", range(1, 51))
def test_equal_shares_are_as_many_votes(agents: int) -> None:
    """L31: n equal shares are taken for 1 together, and are n effective votes."""
    combined = forecast(equal_ballot(*[0.6] * agents))
    assert combined.effective_votes == pytest.approx(agents, rel=1e-12)
    assert combined.probability == pytest.approx(0.6, rel=1e-12)


@given(ballots())
def test_effective_votes_are_kish_s(votes: list[Vote]) -> None:
    """L01: 1/Σ trust², between one vote and as many as voted."""
    effective = forecast(votes).effective_votes
    assert effective == pytest.approx(1.0 / math.fsum(v.trust**2 for v in votes), rel=1e-12)
    assert 1.0 - 1e-9 <= effective <= len(votes) + 1e-9


def test_one_agent_with_nearly_all_trust_is_one_vote() -> None:
    """L01: four agents of which one has the say count as one, and it shows."""
    votes = [Vote(f"agent{i}", "ab", 0.6, 0.999 if i == 0 else 0.001 / 3) for i in range(4)]
    assert forecast(votes).effective_votes == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize("trusts", [(0.5, 0.25), (1.0, 0.5), (1.0, 0.5, 1 / 3, 0.25)])
def test_shares_that_do_not_sum_to_1_are_refused(trusts: tuple[float, ...]) -> None:
    """L31: shares of 1, ½, ⅓, ¼ are refused instead of being published."""
    votes = [Vote(f"agent{i}", "ab", 0.6, trust) for i, trust in enumerate(trusts)]
    with pytest.raises(ValueError, match="does not sum to 1"):
        combine(votes, [])
