"""How an agent stands: found when broken, left alone when not, and the same after a restart."""

from functools import cache

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.config import SupervisorSettings
from quantum_ai_engine.supervisor.standing import (
    GRAVE,
    Alarm,
    Baseline,
    Check,
    SavedStanding,
    Standing,
    State,
    Verdict,
    common_cause,
)

HORIZON = 5
SETTINGS = SupervisorSettings()
HELD_OUT = Baseline(
    brier=0.247,
    brier_base_rate=0.25,
    paired=-0.003,
    paired_stderr=0.001,
    mean_probability=0.5,
    block_bars=100,
    block_count=90,
    levels=(0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99),
    paired_quantiles=(-0.036, -0.026, -0.012, -0.003, 0.006, 0.02, 0.03),
)
Made = list[tuple[float, float]]


def market(bars: int, seed: int, volatility: np.ndarray | float = 1.0) -> tuple[np.ndarray, ...]:
    """Forecasts of small skill, sd 0.1, and whether the price rose over the horizon."""
    rng = np.random.default_rng(seed)
    signal = np.zeros(bars + HORIZON)
    for t in range(1, len(signal)):
        signal[t] = 0.9 * signal[t - 1] + 0.436 * rng.standard_normal()
    moves = rng.standard_normal(bars + HORIZON)
    moves[1:] += 0.109 * signal[:-1]
    price = np.cumsum(moves * volatility)
    rose = (price[HORIZON:] > price[:-HORIZON]).astype(float)
    error = 0.06 * rng.standard_normal(bars)
    return np.clip(0.5 + 0.08 * signal[:bars] + error, 0.0, 1.0), rose


def fresh(held_out: Baseline = HELD_OUT, chosen: SupervisorSettings = SETTINGS) -> Standing:
    return Standing(held_out, chosen, horizon_bars=HORIZON, streams=7)


def feed(standing: Standing, p: np.ndarray, y: np.ndarray, first: int = 0) -> set[State]:
    """Settle bar by bar from the bar `first`; all states that were seen."""
    seen, tested = set(), -1
    for t in range(len(p)):
        standing.update(first + t, first + t, p[t : t + 1], y[t : t + 1], 0.5)
        if standing.tested != tested:  # the verdict changes with a block only
            tested = standing.tested
            seen.add(standing.get().state)
    return seen


def worse(p: np.ndarray, seed: int = 9) -> np.ndarray:
    """A Brier score that is about a quarter higher: noise on every forecast."""
    return np.clip(p + 0.26 * np.random.default_rng(seed).standard_normal(len(p)), 0.0, 1.0)


def test_a_healthy_agent_goes_from_warm_up_to_ok() -> None:
    """L29: 20,000 healthy bars raise nothing."""
    standing = fresh()
    assert standing.get().state is State.WARMUP
    assert feed(standing, *market(20_000, 1)) == {State.WARMUP, State.OK}
    assert standing.get().alarms == ()


def test_too_little_held_out_leaves_the_windows_silent() -> None:
    """Without blocks to tell how windows move, there is no watch; drift is found all the same."""
    standing = fresh(msgspec.structs.replace(HELD_OUT, block_count=19))
    p, y = market(6_000, 3)
    assert feed(standing, worse(p), y) == {State.WARMUP, State.OK, State.DRIFT, State.QUARANTINED}
    assert {alarm.test for alarm in standing.get().alarms} <= set(GRAVE)


@pytest.mark.parametrize("factor", [0.33, 3.0])
def test_volatility_alone_raises_no_alarm(factor: float) -> None:
    """L29: moves that are three times larger or smaller leave the sign, and so the score, alone."""
    volatility = np.ones(12_000 + HORIZON)
    volatility[6_000:] = factor
    assert feed(fresh(), *market(12_000, 2, volatility)) == {State.WARMUP, State.OK}


def test_a_fifth_more_brier_is_found() -> None:
    """First it is watched, then it is drift, then quarantine, each with its reason."""
    standing = fresh()
    p, y = market(12_000, 3)
    feed(standing, p[:4_000], y[:4_000])
    assert feed(standing, worse(p[4_000:4_500]), y[4_000:4_500], 4_000) == {State.OK, State.WATCH}
    watched = standing.get().alarms
    assert [alarm.test for alarm in watched] == [Check.SHORT_WINDOW]
    seen = feed(standing, worse(p[4_500:]), y[4_500:], 4_500)
    assert seen >= {State.WATCH, State.DRIFT, State.QUARANTINED}
    verdict = standing.get()
    drift = next(alarm for alarm in verdict.alarms if alarm.test is Check.DRIFT)
    assert drift.evidence >= SETTINGS.quarantine_factor * drift.threshold
    assert drift.threshold == standing.threshold == 250_000 / 24 * 7
    assert verdict.alarming_since_ms == watched[0].since_ms


@pytest.mark.parametrize(
    ("shift", "bias", "forecast"),
    [
        (0.15, Check.BIAS_UP, Check.FORECAST_UP),
        (-0.15, Check.BIAS_DOWN, Check.FORECAST_DOWN),
    ],
)
def test_a_bias_shows_first_in_the_forecasts(shift: float, bias: Check, forecast: Check) -> None:
    """The forecasts alone are watched long before outcomes prove the bias."""
    standing = fresh()
    p, y = market(9_000, 4)
    feed(standing, np.clip(p + shift, 0.0, 1.0), y)
    since = {alarm.test: alarm.since_ms for alarm in standing.get().alarms}
    assert since[forecast] < since[bias]
    assert standing.get().state in (State.DRIFT, State.QUARANTINED)


@given(st.floats(0.3, 0.7))
@settings(max_examples=4, deadline=None)
def test_a_constant_base_rate_raises_nothing(base_rate: float) -> None:
    """L37: an agent that says the base rate is no worse than the base rate, and no bias."""
    held_out = msgspec.structs.replace(
        HELD_OUT,
        brier=base_rate * (1.0 - base_rate),
        brier_base_rate=base_rate * (1.0 - base_rate),
        paired=0.0,
        mean_probability=base_rate,
        paired_quantiles=(0.0,) * 7,
    )
    standing = fresh(held_out)
    rng = np.random.default_rng(6)
    for t in range(4_000):
        rose = (rng.random(1) < base_rate).astype(float)
        standing.update(t, t, np.array([base_rate]), rose, base_rate)
    verdict = standing.get()
    assert (verdict.state, verdict.alarms, verdict.harder) == (State.OK, (), None)


def test_skill_that_was_not_there_cannot_be_lost() -> None:
    """Only an agent that had skill held out is asked whether it lost it."""
    noise = np.random.default_rng(7)
    p, y = np.clip(0.5 + 0.1 * noise.standard_normal(30_000), 0, 1), market(30_000, 8)[1]
    skilled, unskilled = fresh(), fresh(msgspec.structs.replace(HELD_OUT, paired=0.009))
    for standing in (skilled, unskilled):
        for t in range(len(p)):
            standing.update(t, t, p[t : t + 1], y[t : t + 1], 0.5)
    assert Check.SKILL_LOST in [alarm.test for alarm in skilled.get().alarms]
    assert unskilled.get().state is State.OK


def test_a_harder_market_is_not_the_agents_fault() -> None:
    """The base rate's own loss rises: the risk brain hears of it, the agent's state does not."""
    rng = np.random.default_rng(8)
    held_out = msgspec.structs.replace(
        HELD_OUT, brier=0.21, brier_base_rate=0.21, paired=0.0, mean_probability=0.3
    )
    standing = fresh(held_out, msgspec.structs.replace(SETTINGS, bias_tolerance=0.2))
    for t in range(4_000):
        standing.update(t, t, np.array([0.3]), (rng.random(1) < 0.42).astype(float), 0.3)
    verdict = standing.get()
    assert verdict.harder is not None
    assert verdict.harder.test is Check.HARDER
    assert (verdict.state, verdict.alarms) == (State.OK, ())


@cache
def broken() -> SavedStanding:
    standing = fresh()
    p, y = market(6_000, 10)
    feed(standing, worse(p), y)
    return standing.saved()


def quarantined() -> Standing:
    standing = fresh()
    standing.restore(broken())
    assert standing.get().state is State.QUARANTINED
    return standing


def test_a_quarantine_ends_by_reversed_evidence_only() -> None:
    """L30: time does not clear drift; proof of the opposite does, at the same threshold."""
    standing = quarantined()
    saved = standing.saved()
    standing.update(10**15, 10**9, np.array([0.5]), np.array([1.0]), 0.5)
    assert standing.get().state is State.QUARANTINED, "a long time went by without evidence"
    standing.restore(saved)
    good = np.clip(market(12_000, 11)[1] * 0.2 + 0.4, 0.0, 1.0)  # it knows, a little
    seen = feed(standing, good, market(12_000, 11)[1], 6_000)
    assert seen >= {State.QUARANTINED, State.OK}
    assert standing.get().state is State.OK
    assert fresh().get().state is State.WARMUP, "a new bundle is a new object"


@given(st.integers(0, 10**6), st.integers(24, 600))
@settings(max_examples=10, deadline=None)
def test_no_alarm_clears_without_reversed_evidence(seed: int, bars: int) -> None:
    """L30: a grave alarm is there as long as the opposite e-detector is below the threshold."""
    standing = quarantined()
    rng = np.random.default_rng(seed)
    for t in range(6_000, 6_000 + bars):
        before = {alarm.test for alarm in standing.get().alarms} & set(GRAVE)
        p, y = rng.random(1), (rng.random(1) < 0.5).astype(float)
        standing.update(t, t, p, y, 0.5)
        gone = before - {alarm.test for alarm in standing.get().alarms}
        assert not gone, "guesses prove nothing"


def test_a_quarantined_agent_is_still_heard() -> None:
    """L34: evidence flows in quarantine; nothing is gated by the state."""
    standing = quarantined()
    tested = standing.tested
    feed(standing, *market(2_400, 12), 6_000)
    assert standing.tested == tested + 100


@given(
    st.integers(0, 1_200),
    st.lists(st.sampled_from([-60, -30, -3, 0]), min_size=20, max_size=20),
)
@settings(max_examples=15, deadline=None)
def test_a_restart_changes_no_evidence_and_no_state(cut: int, late: list[int]) -> None:
    """L43: saved and restored through bytes anywhere, late predictions included."""
    one, other = fresh(), fresh()
    p, y = market(1_200, 13)
    p = worse(p)
    for t in range(len(p)):
        if t == cut:
            sent = msgspec.msgpack.encode(other.saved())
            other = fresh()
            other.restore(msgspec.msgpack.decode(sent, type=SavedStanding))
        slot = max(1_000 + t + late[t % len(late)], 0)
        for standing in (one, other):
            standing.update(t, slot, p[t : t + 1], y[t : t + 1], 0.5)
    assert one.saved() == other.saved()
    assert one.get() == other.get()
    assert one.evidence() == other.evidence()


def test_late_outcomes_change_no_block_that_was_tested() -> None:
    """What settles for an ended block is counted as left out, and evidence stays as it is."""
    standing = fresh()
    feed(standing, *market(1_200, 14))
    evidence, tested = standing.evidence(), standing.tested
    for t in range(400, 420):
        standing.update(1_300, t, np.array([1.0]), np.array([0.0]), 0.5)
    verdict = standing.get()
    assert verdict.left_out + standing.embargoed == 20 + (1_200 // 24) * 4
    assert (standing.evidence(), standing.tested) == (evidence, tested)


def test_thresholds_move_with_their_settings_and_are_told() -> None:
    """L38: each alarm carries its threshold; fewer false alarms or more streams raise it."""
    base = fresh().threshold
    rarer = msgspec.structs.replace(SETTINGS, false_alarm_bars=500_000)
    assert fresh(chosen=rarer).threshold == 2.0 * base
    more = Standing(HELD_OUT, SETTINGS, horizon_bars=HORIZON, streams=70)
    assert more.threshold == pytest.approx(10.0 * base)
    p, y = market(3_000, 15)
    told = []
    for tolerance in (0.05, 0.2):
        chosen = msgspec.structs.replace(SETTINGS, brier_tolerance_frac=tolerance)
        standing = fresh(chosen=chosen)
        feed(standing, np.clip(1.0 - y + 0.0 * p, 0.0, 1.0), y)
        alarms = {alarm.test: alarm for alarm in standing.get().alarms}
        told.append(alarms[Check.SHORT_WINDOW].threshold)
    assert told[1] > told[0]
    assert told[1] == pytest.approx(0.2 * HELD_OUT.brier)


@pytest.mark.parametrize(
    ("p", "y", "base_rate", "why"),
    [
        ([np.nan], [1.0], 0.5, "a probability is not a number from 0 to 1"),
        ([1.1], [1.0], 0.5, "a probability"),
        ([0.5], [1.0], np.nan, "a probability"),
        ([0.5], [np.nan], 0.5, "an outcome is neither 0 nor 1"),
        ([0.5], [0.5], 0.5, "an outcome"),
        ([0.5, 0.5], [1.0], 0.5, "probabilities for"),
    ],
)
def test_what_is_no_probability_or_outcome_is_refused(
    p: list[float], y: list[float], base_rate: float, why: str
) -> None:
    """L36: what is not finite stops at the door, and nothing was changed by it."""
    standing = fresh()
    before = standing.saved()
    with pytest.raises(ValueError, match=why):
        standing.update(1, 1, np.array(p), np.array(y), base_rate)
    assert standing.saved() == before


def test_time_does_not_go_back() -> None:
    """Moments ascend, bars are not before 0; no predictions are no news."""
    standing = fresh()
    nothing = np.array([])
    standing.update(5, 5, nothing, nothing, 0.5)
    for at_ms, slot in ((4, 5), (6, -1)):
        with pytest.raises(ValueError, match="before"):
            standing.update(at_ms, slot, nothing, nothing, 0.5)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"brier": np.nan}, "finite"),
        ({"levels": (0.5, 0.5), "paired_quantiles": (0.0, 0.0)}, "ascending"),
        ({"levels": (0.5,), "paired_quantiles": (0.0,)}, "two quantiles"),
        ({"levels": (0.1, 0.9)}, "two quantiles"),
        ({"block_bars": 0}, "a bar or more"),
    ],
)
def test_a_baseline_that_cannot_be_compared_with_is_refused(change: dict, why: str) -> None:
    """One sentence says what is wrong with it."""
    with pytest.raises(ValueError, match=why):
        msgspec.structs.replace(HELD_OUT, **change)


def verdict(state: State, since_ms: int | None) -> Verdict:
    alarms = () if since_ms is None else (Alarm(Check.DRIFT, 2.0, 1.0, since_ms),)
    return Verdict(state, alarms, None, 99, 0, since_ms)


@pytest.mark.parametrize(
    ("since", "is_common"),
    [
        ([None, None, None, None], False),
        ([100, None, None, None], False),
        ([100, 150, None, None], True),
        ([100, 250, None, None], False),
        ([0, 100, 190, None], True),
        ([0, 101, None, 202], False),
        ([100], False),
        ([], False),
    ],
)
def test_half_of_all_at_once_is_a_common_cause(since: list[int | None], is_common: bool) -> None:
    """Half of them and two at least, within the span; who is in warm-up has no say."""
    verdicts = [verdict(State.OK if ms is None else State.WATCH, ms) for ms in since]
    warming_up = [verdict(State.WARMUP, None)] * 9
    found = common_cause([*verdicts, *warming_up], span_ms=100)
    assert (found is not None) == is_common
