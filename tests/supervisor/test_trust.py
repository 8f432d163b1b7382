"""Trust: earned by settled outcomes, on the simplex, and the same whoever stands first."""

import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import ConfigError, TrustSettings, load
from quantum_ai_engine.supervisor.trust import (
    Expert,
    SavedTrust,
    Shares,
    Trust,
    bounded,
    prior_of,
)

Array = NDArray[np.float64]
SOON = TrustSettings(min_outcomes=1, memory_outcomes=50)
seeds = st.integers(0, 2**32 - 1)
counts = st.integers(1, 5)


def experts(count: int, priors: Any = None) -> list[Expert]:
    return [Expert(f"a{i}", f"b{i}", priors[i] if priors else 1.0) for i in range(count)]


def everyone(trust: Trust) -> Shares:
    agents = len(trust.weights) - 1
    return trust.shares(np.ones(agents, dtype=bool), np.zeros(agents, dtype=bool))


def random_rounds(seed: int, agents: int, rounds: int) -> list[tuple[Array, Array]]:
    """Losses and weights of rounds in which agents come and go, some losses at the edges."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(rounds):
        rows = int(rng.integers(0, 4))
        losses = rng.random((rows, agents + 1)) ** rng.integers(1, 9)
        losses[rng.random(losses.shape) < 0.1] = float(rng.integers(0, 2))
        asleep = rng.random(losses.shape) < 0.3
        asleep[:, -1] = False
        losses[asleep] = np.nan
        weights = np.where(asleep, 0.0, rng.random(losses.shape) + 1e-3)
        weights /= weights.sum(axis=1, keepdims=True)
        made.append((losses, weights))
    return made


def taught(trust: Trust, rounds: list[tuple[Array, Array]]) -> Trust:
    for losses, weights in rounds:
        trust.update(losses, weights)
    return trust


def repeat(trust: Trust, row: list[float], rounds: int, noise: float = 0.0) -> None:
    """Rounds with these losses, give or take noise, each decided by the trust of its time."""
    rng = np.random.default_rng(rounds)
    for _ in range(rounds):
        losses = np.clip(np.array([row]) + noise * rng.normal(size=len(row)), 0.0, 1.0)
        trust.update(losses, everyone(trust).weights[np.newaxis])


@given(seeds, counts, st.integers(0, 30))
def test_weights_are_on_the_simplex(seed: int, agents: int, rounds: int) -> None:
    """L31: whatever the losses, all shares are 0 or more and sum to 1; there is no NaN."""
    trust = taught(Trust(experts(agents), SOON), random_rounds(seed, agents, rounds))
    rng = np.random.default_rng(seed)
    awake, barred = rng.random((2, agents)) < 0.6
    shares = trust.shares(awake, barred)
    for weights in (trust.weights, shares.weights):
        assert abs(math.fsum(weights) - 1.0) <= 1e-12
        assert (weights >= 0.0).all()
    assert 0.0 <= shares.base <= 1.0
    assert (shares.trust[~awake | barred] == 0.0).all()
    if (awake & ~barred).any():
        assert abs(math.fsum(shares.trust) - 1.0) <= 1e-12


@given(seeds, counts, st.integers(1, 30))
def test_floor_and_cap_hold(seed: int, agents: int, rounds: int) -> None:
    """L31: who votes has at least the floor and, where there are enough voters, at most the cap."""
    trust = taught(Trust(experts(agents), SOON), random_rounds(seed, agents, rounds))
    shares = everyone(trust).trust
    assert (shares >= SOON.floor - 1e-15).all()
    assert (shares <= max(SOON.cap, 1.0 / agents) + 1e-12).all()


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=12),
    st.floats(0.0, 0.5, exclude_max=True),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_bounded_shares_keep_their_order(shares: list[float], floor: float, cap: float) -> None:
    """L31: between any floor and cap the shares sum to 1, and none overtakes another."""
    held = bounded(shares, floor, max(floor, cap))
    equal = 1.0 / len(shares)
    assert abs(math.fsum(held) - 1.0) <= 1e-12
    assert min(held) >= min(floor, equal) - 1e-12
    assert max(held) <= max(floor, cap, equal) + 1e-12
    order = np.argsort(shares, kind="stable")
    assert (np.diff(np.array(held)[order]) >= -1e-15).all()


@settings(max_examples=50)
@given(seeds, st.integers(2, 6), st.randoms(use_true_random=False))
def test_the_order_of_agents_changes_no_bit(seed: int, agents: int, random: Any) -> None:
    """L31: weights are a function of scores: permuted agents get permuted weights, bit for bit."""
    rounds = random_rounds(seed, agents, 20)
    at = list(range(agents))
    random.shuffle(at)
    priors = np.random.default_rng(seed).uniform(0.25, 4.0, agents).tolist()
    named = experts(agents, priors)
    one = taught(Trust(named, SOON), rounds)
    columns = [*at, agents]
    permuted = [(losses[:, columns], weights[:, columns]) for losses, weights in rounds]
    other = taught(Trust([named[i] for i in at], SOON), permuted)
    assert other.weights.tobytes() == one.weights[columns].tobytes()
    awake = np.random.default_rng(seed).random(agents) < 0.7
    nobody = np.zeros(agents, dtype=bool)
    shares, again = one.shares(awake, nobody), other.shares(awake[at], nobody)
    assert again.trust.tobytes() == shares.trust[at].tobytes()
    assert again.base == shares.base


@given(seeds, st.integers(2, 5))
def test_who_is_asleep_keeps_its_place(seed: int, agents: int) -> None:
    """L28: where an agent has abstained it earns and loses nothing, to the last bit."""
    trust = taught(Trust(experts(agents), SOON), random_rounds(seed, agents, 10))
    before = trust.saved().agents[0]
    for losses, weights in random_rounds(seed + 1, agents, 10):
        losses[:, 0] = np.nan
        awake = np.where(np.isnan(losses), 0.0, weights)
        trust.update(losses, awake / awake.sum(axis=1, keepdims=True))
    assert trust.saved().agents[0] == before


def test_nothing_moves_without_an_outcome() -> None:
    """L32: asking for shares, agreeing or not, and rounds without outcomes change nothing."""
    trust = taught(Trust(experts(2), SOON), random_rounds(1, 2, 10))
    before = trust.saved()
    for _ in range(100):
        everyone(trust)
        trust.update(np.empty((0, 3)), np.empty((0, 3)))
    assert trust.saved() == before


@given(st.floats(0.0, 1.0), st.integers(1, 50))
def test_agreement_with_the_crowd_is_worth_nothing(loss: float, rounds: int) -> None:
    """L32: where all lose the same nobody's trust moves: the prior stands, to the last bit."""
    trust = Trust(experts(3, [1.0, 2.0, 4.0]), SOON)
    before = trust.weights
    rng = np.random.default_rng(rounds)
    for _ in range(rounds):
        weights = rng.random((2, 4))
        trust.update(np.full((2, 4), loss), weights / weights.sum(axis=1, keepdims=True))
    assert trust.weights.tobytes() == before.tobytes()
    assert trust.rounds.tolist() == [rounds] * 4


def test_the_good_rise_and_the_bad_fall() -> None:
    """L32: realised loss alone decides; who was trusted and breaks is found out."""
    trust = Trust(experts(3), TrustSettings())
    repeat(trust, [0.23, 0.25, 0.25, 0.25], 300)
    good = everyone(trust)
    assert good.trust[0] == pytest.approx(0.6)
    assert good.base < 0.1
    repeat(trust, [0.45, 0.25, 0.24, 0.25], 600)
    broken = everyone(trust)
    assert broken.trust[0] == pytest.approx(0.02)
    assert broken.trust[2] > broken.trust[1] > broken.trust[0]


def test_what_the_cap_leaves_goes_to_the_next_best() -> None:
    """L32: beside an agent at the cap the others are told apart: the broken one gets the floor."""
    trust = Trust(experts(4), TrustSettings())
    repeat(trust, [0.22, 0.23, 0.24, 0.45, 0.25], 2000)
    assert everyone(trust).trust == pytest.approx([0.576, 0.384, 0.02, 0.02])


def test_without_skill_the_base_rate_takes_over() -> None:
    """L32: agents that lose more than the base rate leave it the most: exposure goes to nothing."""
    trust = Trust(experts(3, [4.0, 4.0, 4.0]), TrustSettings())
    assert everyone(trust).base == pytest.approx(1.0 / 13.0)
    repeat(trust, [0.26, 0.26, 0.26, 0.25], 400)
    assert everyone(trust).base > 0.99


def test_regret_is_that_of_the_weights_at_decision() -> None:
    """L28: delay is handled: what was decided by whom counts, not who is trusted now."""
    trust = Trust(experts(2), SOON)
    row = np.array([[0.2, 0.3, 0.25]])
    trust.update(row, np.array([[0.0, 1.0, 0.0]]))
    regrets = [one.regret for one in (*trust.saved().agents, trust.saved().base)]
    assert regrets == pytest.approx([0.1, 0.0, 0.05])


def test_a_moment_is_one_round() -> None:
    """L32: a thousand symbols of one moment are one round: per agent the mean of where it spoke."""
    trust = Trust(experts(2), SOON)
    losses = np.array([[0.1, np.nan, 0.25], [0.3, 0.2, 0.25]])
    trust.update(losses, np.array([[0.5, 0.0, 0.5], [0.0, 1.0, 0.0]]))
    a, b = trust.saved().agents
    assert (a.rounds, b.rounds) == (1, 1)
    assert a.regret == pytest.approx(((0.175 - 0.1) + (0.2 - 0.3)) / 2.0)
    assert b.regret == 0.0


def test_weights_leave_the_prior_after_enough_outcomes() -> None:
    """L32: a lucky first outcome moves nothing: until `min_outcomes` rounds the prior holds."""
    trust = Trust(experts(2, [1.0, 4.0]), TrustSettings(min_outcomes=100))
    prior = trust.weights
    assert prior == pytest.approx([1 / 6, 4 / 6, 1 / 6])
    repeat(trust, [0.0, 1.0, 0.25], 99)
    assert trust.weights.tobytes() == prior.tobytes()
    repeat(trust, [0.0, 1.0, 0.25], 200)
    assert trust.weights[0] > 0.7
    assert trust.weights[1] < 1e-9


def test_age_is_no_merit() -> None:
    """L32: a newcomer beside old agents without regret weighs as its prior says, no more."""
    trust = Trust(experts(2), SOON)
    repeat(trust, [0.25, 0.25, 0.25], 500)
    newcomers = Trust([*experts(2), Expert("new", "x", 1.0)], SOON)
    newcomers.restore(trust.saved())
    assert newcomers.weights == pytest.approx([0.25] * 4)


def test_newcomers_do_not_move_the_old_ones_apart() -> None:
    """L32: many new bundles beside two old ones leave the ratio of the old ones as it was."""
    trust = Trust(experts(2), TrustSettings())
    repeat(trust, [0.249, 0.25, 0.25], 150, noise=0.05)
    after = Trust([*experts(2), *(Expert(f"n{i}", "x", 1.0) for i in range(6))], TrustSettings())
    after.restore(trust.saved())
    old, new = trust.weights, after.weights
    assert new[[0, 1, -1]] / new[[0, 1, -1]].sum() == pytest.approx(old)


def test_a_newcomer_does_not_take_all_where_the_best_has_gone() -> None:
    """L32: those behind the crowd that was are not nothing beside one that has shown nothing."""
    trust = Trust(experts(3), TrustSettings())
    repeat(trust, [0.15, 0.27, 0.30, 0.25], 1000, noise=0.05)
    after = Trust([*experts(3)[1:], Expert("new", "x", 1.0)], TrustSettings())
    after.restore(trust.saved())
    assert after.weights[3] == pytest.approx(0.5)
    assert after.weights[2] == pytest.approx(0.5)


@given(seeds, st.integers(0, 3))
def test_who_is_barred_leaves_more_to_the_base_rate(seed: int, agent: int) -> None:
    """L34: quarantine raises no exposure: the base rate's share beside the others never falls."""
    trust = taught(Trust(experts(4), SOON), random_rounds(seed, 4, 20))
    shares = trust.shares(np.ones(4, dtype=bool), np.arange(4) == agent)
    assert shares.base >= everyone(trust).base - 1e-12
    assert shares.trust[agent] == 0.0
    assert abs(math.fsum(shares.trust) - 1.0) <= 1e-12


def test_a_barred_agent_goes_on_earning() -> None:
    """L34: in quarantine an agent has no weight, but its outcomes count and bring it back."""
    trust = Trust(experts(2), TrustSettings())
    barred = np.array([True, False])
    for _ in range(300):
        shares = trust.shares(np.ones(2, dtype=bool), barred)
        assert shares.trust.tolist() == [0.0, 1.0]
        trust.update(np.array([[0.2, 0.25, 0.25]]), shares.weights[np.newaxis])
    assert everyone(trust).trust[0] == pytest.approx(0.6)


def test_nobody_awake_is_nobody_trusted() -> None:
    """L02: without a voter there is no trust; the row for `update` gives all to the base rate."""
    trust = Trust(experts(2), SOON)
    shares = trust.shares(np.zeros(2, dtype=bool), np.zeros(2, dtype=bool))
    assert (shares.trust.tolist(), shares.base) == ([0.0, 0.0], 1.0)
    trust.update(np.array([[np.nan, np.nan, 0.2]]), shares.weights[np.newaxis])
    assert trust.rounds.tolist() == [0, 0, 1]


def test_one_voter_has_all_the_trust() -> None:
    """L31: the cap gives way where it would leave trust to nobody."""
    trust = Trust(experts(3), SOON)
    shares = trust.shares(np.array([False, True, False]), np.zeros(3, dtype=bool))
    assert shares.trust.tolist() == [0.0, 1.0, 0.0]


def test_no_agents_at_all() -> None:
    """L02: an engine without agents trusts the base rate alone."""
    trust = Trust([], SOON)
    trust.update(np.array([[0.25]]), np.array([[1.0]]))
    assert trust.weights.tolist() == [1.0]
    assert everyone(trust).base == 1.0


@settings(max_examples=50)
@given(seeds, counts, st.integers(0, 20))
def test_a_restart_anywhere_changes_no_bit(seed: int, agents: int, cut: int) -> None:
    """L31: weights are a function of what is persisted: saved, sent and restored they go on."""
    rounds = random_rounds(seed, agents, 20)
    whole = taught(Trust(experts(agents), SOON), rounds)
    first = taught(Trust(experts(agents), SOON), rounds[:cut])
    sent = msgspec.msgpack.decode(msgspec.msgpack.encode(first.saved()), type=SavedTrust)
    second = Trust(experts(agents), SOON)
    second.restore(sent)
    taught(second, rounds[cut:])
    assert second.saved() == whole.saved()
    assert second.weights.tobytes() == whole.weights.tobytes()


def test_what_is_frozen_learns_no_more() -> None:
    """L31: the verdict of a moment stays what it was while the original goes on."""
    trust = taught(Trust(experts(3), SOON), random_rounds(5, 3, 20))
    frozen, before = trust.frozen(), trust.saved()
    taught(trust, random_rounds(6, 3, 20))
    assert frozen.saved() == before != trust.saved()


def test_a_restart_with_other_agents() -> None:
    """L31: known bundles keep what they earned, in any order; a new bundle of the same name not."""
    trust = taught(Trust(experts(3), SOON), random_rounds(3, 3, 30))
    a, _, c = trust.saved().agents
    other = Trust(
        [Expert("a2", "b2", 1.0), Expert("a1", "new", 2.0), Expert("a0", "b0", 1.0)], SOON
    )
    other.restore(trust.saved())
    known = other.saved()
    assert (known.agents[0], known.agents[2], known.base) == (c, a, trust.saved().base)
    assert (known.agents[1].regret, known.agents[1].rounds) == (0.0, 0)


def test_a_restart_with_none_of_the_agents_begins_anew() -> None:
    """L32: what the base rate earned against others says nothing about new bundles."""
    trust = taught(Trust(experts(2), SOON), random_rounds(3, 2, 30))
    other = Trust([Expert("a0", "other", 1.0)], SOON)
    other.restore(trust.saved())
    assert other.weights.tolist() == [0.5, 0.5]


@given(seeds)
def test_the_unit_of_losses_does_not_matter(seed: int) -> None:
    """L29: trust is in units of the usual swing: half of all losses gives the same shares."""
    rounds = random_rounds(seed, 3, 20)
    one = taught(Trust(experts(3), SOON), rounds)
    other = taught(Trust(experts(3), SOON), [(losses / 2, weights) for losses, weights in rounds])
    known = (*other.saved().agents, other.saved().base)
    if 4.0 * np.median([one.swing / max(one.age, 1.0) for one in known]) > 1e-4:
        assert other.weights == pytest.approx(one.weights, abs=1e-9)


def test_a_long_run_overflows_nothing() -> None:
    """L31: thousands of rounds of the largest regrets leave finite weights that sum to 1."""
    trust = Trust(experts(2), TrustSettings(memory_outcomes=1_000_000, floor=0.0, cap=1.0))
    for _ in range(5_000):
        trust.update(np.array([[0.0, 1.0, 1.0]]), np.array([[0.0, 1.0, 0.0]]))
    assert np.isfinite(trust.weights).all()
    assert abs(math.fsum(trust.weights) - 1.0) <= 1e-12
    assert trust.weights[0] == pytest.approx(1.0)


@given(st.floats(-1.0, 1.0), st.floats(0.0, 1.0), st.floats(-1.0, 1.0))
def test_priors_are_bounded_and_follow_skill(paired: float, stderr: float, other: float) -> None:
    """L32: a lower paired score is never a lower prior, and none is outside ¼ to 4."""
    priors = [prior_of(score, stderr) for score in sorted((paired, other))]
    assert 4.0 >= priors[0] >= priors[1] >= 0.25
    assert prior_of(-3.0 * max(stderr, 1e-3), max(stderr, 1e-3)) > prior_of(0.0, stderr)


@pytest.mark.parametrize(
    ("paired", "stderr"), [(math.nan, 0.1), (math.inf, 0.1), (0.1, -0.1), (0.1, math.nan)]
)
def test_a_score_that_is_none_is_no_prior(paired: float, stderr: float) -> None:
    """L36: what is not finite is refused, not taken for good or bad."""
    with pytest.raises(ValueError, match="no paired score"):
        prior_of(paired, stderr)


@pytest.mark.parametrize("prior", [0.0, -1.0, math.nan, math.inf])
def test_a_prior_that_is_none_is_refused(prior: float) -> None:
    """L36: a prior that is not positive and finite is refused by the agent's name."""
    with pytest.raises(ValueError, match="gru"):
        Expert("gru", "x", prior)


@pytest.mark.parametrize(
    ("losses", "weights", "why"),
    [
        ([[0.1, 0.2]], [[0.5, 0.5]], r"not both \[n, 3\]"),
        ([[0.1, 0.2, 0.2]], [[0.5, 0.5]], "not both"),
        ([[0.1, 0.2, np.nan]], [[0.5, 0.5, 0.0]], "never asleep"),
        ([[0.1, 1.2, 0.2]], [[0.5, 0.5, 0.0]], "loss is outside"),
        ([[0.1, np.inf, 0.2]], [[0.5, 0.5, 0.0]], "loss is outside"),
        ([[0.1, 0.2, 0.2]], [[0.5, np.nan, 0.5]], "weight is outside"),
        ([[0.1, 0.2, 0.2]], [[-0.5, 1.0, 0.5]], "weight is outside"),
        ([[0.1, 0.2, 0.2]], [[0.5, 0.5, 0.5]], "sum to 1"),
        ([[0.1, np.nan, 0.2]], [[0.4, 0.5, 0.1]], "sum to 1"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(losses: Any, weights: Any, why: str) -> None:
    """L31: losses and weights are checked at the door, and nothing has changed then."""
    trust = Trust(experts(2), SOON)
    before = trust.saved()
    with pytest.raises(ValueError, match=why):
        trust.update(np.array(losses), np.array(weights))
    assert trust.saved() == before


def test_flags_of_others_and_agents_twice_are_refused() -> None:
    """L28: shares are of the agents that are there, each once."""
    with pytest.raises(ValueError, match="3 agents, not of 2"):
        Trust(experts(2), SOON).shares(np.ones(3, dtype=bool), np.zeros(3, dtype=bool))
    with pytest.raises(ValueError, match="same name and bundle"):
        Trust([*experts(1), *experts(1)], SOON)


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"trust.floor": 0.3, "trust.cap": 0.2}, ["trust.floor", "trust.cap"]),
        (
            {"trust.min_outcomes": 100, "trust.memory_outcomes": 99},
            ["trust.memory_outcomes", "trust.min_outcomes"],
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(
    values: dict[str, Any], keys: list[str]
) -> None:
    """L48: a contradiction names both keys."""
    with pytest.raises(ConfigError) as refused:
        load(None, environ={}, overrides=values)
    assert all(key in str(refused.value) for key in keys)
