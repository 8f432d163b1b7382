"""APRL: stricter at once, laxer by steps that are earned; each fault of L36 is a test."""

import math
from itertools import pairwise

import msgspec
import numpy as np
import pytest

from quantum_ai_engine.config import ConfigError, load
from quantum_ai_engine.risk.policy import Aprl, Cause, Mode, Source

from .runs import DAY_MS, DEFAULT, HOUR_MS, MINUTE_MS, QUICK, Run, aggressive, is_laxer


def test_a_fresh_engine_is_normal_and_says_why() -> None:
    """It begins in NORMAL, from the paper portfolio, with nothing shown yet."""
    state = Aprl(DEFAULT).get()
    assert (state.mode, state.source, state.cause) == (Mode.NORMAL, Source.PAPER, (Cause.START,))
    assert state.reasons == (Cause.FEW_SAMPLES, Cause.VOLATILITY, Cause.UNPROVEN)
    assert (state.exposure_cap, state.leverage, state.drawdown_frac) == (0.7, 1.0, 0.0)
    assert DEFAULT.volatility_leave_frac < state.volatility_frac < DEFAULT.volatility_frac
    assert state.pnl_low_frac is state.pnl_high_frac is None


def test_a_first_sample_that_halves_is_defensive() -> None:
    """L36: a first −50 % gives DEFENSIVE: the peak begins at the start, not at the first sample."""
    state = Run(DEFAULT).step(-0.5)
    assert (state.mode, state.exposure_cap, state.leverage) == (Mode.DEFENSIVE, 0.5, 0.5)
    assert state.drawdown_frac == pytest.approx(0.5)
    assert Cause.DRAWDOWN in state.cause


def test_a_second_report_that_halves_is_defensive() -> None:
    """L36: the first report is the peak; the next one counts in full, before any moment."""
    policy = Aprl(DEFAULT)
    policy.report(1, 250_000.0)
    assert policy.get().mode is Mode.NORMAL
    policy.report(2, 125_000.0)
    assert policy.get().mode is Mode.DEFENSIVE
    assert policy.get().drawdown_frac == pytest.approx(0.5)


def test_one_good_sample_is_not_aggressive() -> None:
    """L36: one +2 % proves nothing, and no luck shortens the minimum of samples and blocks."""
    for growth in (0.02, 0.5, 100.0):
        run = Run(QUICK)
        assert run.step(growth).mode is not Mode.AGGRESSIVE
        assert run.step(0.0).mode is not Mode.AGGRESSIVE
    run = Run(msgspec.structs.replace(QUICK, min_blocks=200))
    assert run.quiet(199, growth=0.003).mode is Mode.NORMAL
    run = Run(msgspec.structs.replace(QUICK, min_samples=200))
    assert run.quiet(199, growth=0.003).reasons == (Cause.FEW_SAMPLES,)


@pytest.mark.parametrize("equity", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(equity: float) -> None:
    """L36: NaN is refused, from either source, and changes nothing."""
    run = Run()
    run.step(0.01)
    before = run.policy.saved()
    with pytest.raises(ValueError, match="finite"):
        run.policy.update(10 * MINUTE_MS, equity)
    with pytest.raises(ValueError, match="finite"):
        run.policy.report(10 * MINUTE_MS, equity)
    assert run.policy.saved() == before


def test_leaving_defensive_takes_time_and_no_luck() -> None:
    """L36: after −50 %, without a single win, NORMAL comes back within the stated bound."""
    run = Run(DEFAULT)
    first = run.step(-0.5)
    recovery_days = math.log2((1.0 - 0.02) / 0.02)
    volatility_days = math.log2((first.volatility_frac / 0.01) ** 2)
    bound_ms = int(max(recovery_days, volatility_days) * DAY_MS) + HOUR_MS + 5 * MINUTE_MS
    minutes = bound_ms // MINUTE_MS + 2
    assert run.quiet(minutes // 2).mode is Mode.DEFENSIVE
    state = run.quiet(minutes - minutes // 2)
    assert (state.mode, state.cause) == (Mode.NORMAL, (Cause.RECOVERED,))
    assert state.drawdown_frac == pytest.approx(0.5), "the high-water mark still stands"


def test_a_loss_that_goes_on_is_not_forgiven() -> None:
    """Who loses as fast as the recovery mark comes down stays DEFENSIVE."""
    run = Run()
    run.step(-0.2)
    states = run.steps([(-0.01, None)] * 100)
    assert {state.mode for state in states} == {Mode.DEFENSIVE}


def test_a_steady_profit_is_proven_after_its_dwell() -> None:
    """Gains without drawdown lead one step up, when the bounds of the mean exclude 0."""
    run = Run()
    state = run.step(0.003)
    while state.mode is Mode.NORMAL and run.minute < 200:
        before, state = state, run.step(0.003)
    assert (before.reasons, state.cause) == ((Cause.DWELL,), (Cause.PROVEN,))
    assert (state.exposure_cap, state.leverage) == (0.9, 1.5)
    assert state.pnl_low_frac is not None
    assert state.pnl_low_frac > 0.0


def test_luck_is_rarely_taken_for_a_profit() -> None:
    """Of 100 runs without an edge, at most the error rate is ever AGGRESSIVE."""
    growths = np.random.default_rng(4).normal(0.0, 0.002, (100, 300)).tolist()
    lucky = sum(
        any(state.mode is Mode.AGGRESSIVE for state in Run().steps([(g, None) for g in run]))
        for run in growths
    )
    assert lucky <= 100 * QUICK.error_rate


def test_without_movement_nothing_is_proven() -> None:
    """A portfolio that never trades stays NORMAL."""
    state = Run().quiet(500)
    assert (state.mode, state.reasons) == (Mode.NORMAL, (Cause.UNPROVEN,))


@pytest.mark.parametrize(
    ("growth", "mode"), [(-0.03, Mode.NORMAL), (-0.06, Mode.DEFENSIVE), (-0.001, Mode.AGGRESSIVE)]
)
def test_a_loss_counts_at_once(growth: float, mode: Mode) -> None:
    """Between reviews too; a loss goes as many steps down as it has to."""
    run = aggressive()
    run.step(0.003)
    state = run.step(growth)
    assert state.mode is mode
    assert mode is Mode.AGGRESSIVE or state.since_ms == run.minute * MINUTE_MS


def test_volatility_alone_is_defensive() -> None:
    """Wild moves without a drawdown to speak of are enough, and calm ends them."""
    run = Run(msgspec.structs.replace(QUICK, volatility_frac=0.02, volatility_leave_frac=0.01))
    for _ in range(10):
        state = run.steps([(0.004, None), (-0.004, None)])[-1]
    assert (state.mode, state.cause) == (Mode.DEFENSIVE, (Cause.VOLATILITY,))
    assert state.drawdown_frac < 0.02
    assert run.quiet(60).mode is Mode.NORMAL


def test_after_defensive_a_profit_is_proven_anew() -> None:
    """What was shown before a fall does not count after it, whatever the fall was for."""
    run = Run()
    assert run.steps([(0.0, 0.003)] * 120)[-1].mode is Mode.AGGRESSIVE
    state = run.quiet(5)
    assert (state.cause, state.pnl_low_frac) == ((Cause.EQUITY_STALE,), None)


def test_modes_become_laxer_at_reviews_only() -> None:
    """A step up falls on a review, seven minutes after the one before; steps down need none."""
    run = Run(msgspec.structs.replace(QUICK, review_ms=7 * MINUTE_MS, dwell_ms=1))
    run.step(-0.06)
    states = run.steps([(0.003, None)] * 150)
    modes = [state.mode for state in states]
    rises = [k + 2 for k, (was, now) in enumerate(pairwise(modes), 1) if is_laxer(now, was)]
    assert modes[-1] is Mode.AGGRESSIVE
    assert [minute % 7 for minute in rises] == [1, 1]


def test_aggressive_is_entered_well_inside_its_limits() -> None:
    """A drawdown of 1.5 % holds AGGRESSIVE where it is, and does not let it begin."""
    run = aggressive()
    states = run.steps([(-0.005, None)] * 3 + [(0.0, None)] * 10)
    assert {state.mode for state in states} == {Mode.AGGRESSIVE}
    assert states[-1].drawdown_frac > 0.01
    run.step(-0.006)
    states = run.steps([(0.006, None)] + [(0.0, None)] * 30)
    assert {state.mode for state in states} == {Mode.NORMAL}
    assert Cause.DRAWDOWN in states[-1].reasons
    assert states[-1].pnl_low_frac is not None
    assert states[-1].pnl_low_frac > 0.0


def test_a_large_loss_in_a_block_ends_the_evidence() -> None:
    """A loss beyond the bound is not counted as smaller than it was: the evidence begins anew."""
    run = aggressive()
    state = run.step(-0.0101)
    assert (state.mode, state.pnl_low_frac) == (Mode.NORMAL, None)
    assert Cause.UNPROVEN in state.cause


def test_reports_take_the_place_of_paper() -> None:
    """From the first report on only reports count, with marks and evidence of their own."""
    run = aggressive()
    state = run.step(0.003, 0.0)
    assert (state.source, state.mode) == (Source.REPORTED, Mode.NORMAL)
    assert state.drawdown_frac == 0.0
    state = run.step(-0.9, 0.001)
    assert (state.mode, state.drawdown_frac) == (Mode.NORMAL, 0.0)


def test_reports_that_stop_are_defensive() -> None:
    """Stale profit and loss is DEFENSIVE and says so; reports that come again end it by steps."""
    run = Run()
    run.steps([(0.0, 0.0)] * 10)
    assert run.quiet(4).mode is Mode.NORMAL
    state = run.quiet(1)
    assert (state.mode, state.cause) == (Mode.DEFENSIVE, (Cause.EQUITY_STALE,))
    assert state.source is Source.REPORTED
    assert run.step(0.0, 0.0).mode is Mode.DEFENSIVE
    assert run.steps([(0.0, 0.0)] * 10)[-1].mode is Mode.NORMAL


def test_a_report_from_the_future_grows_old_too() -> None:
    """A report dated ahead is as old as the moment that first saw it."""
    policy = Aprl(QUICK)
    policy.report(10 * DAY_MS, 1.0)
    for minute in range(1, 6):
        policy.update(minute * MINUTE_MS, 1.0)
    assert policy.get().mode is Mode.NORMAL
    policy.update(6 * MINUTE_MS, 1.0)
    assert policy.get().cause == (Cause.EQUITY_STALE,)


def test_reports_out_of_order_or_twice_are_ignored() -> None:
    """A report that is not later than the last one says nothing new, even of a loss."""
    run = Run()
    run.step(0.0, 0.0)
    before = run.policy.saved()
    for time_ms in (0, MINUTE_MS // 2, MINUTE_MS):
        run.policy.report(time_ms, 1.0)
    assert run.policy.saved() == before
    with pytest.raises(ValueError, match="below 0"):
        run.policy.report(-1, 1.0)


@pytest.mark.parametrize("at_ms", [MINUTE_MS, 0])
def test_moments_ascend(at_ms: int) -> None:
    """A moment that is not later is refused."""
    run = Run()
    run.step(0.0)
    with pytest.raises(ValueError, match="not after"):
        run.policy.update(at_ms, 1.0)


@pytest.mark.parametrize("equity", [0.0, -3.0, 5e-324])
def test_nothing_left_is_defensive(equity: float) -> None:
    """Equity at or below 0 is a drawdown of all; what comes after is counted without overflow."""
    policy = Aprl(QUICK)
    policy.report(1, 1e308)
    policy.report(2, equity)
    assert policy.get().mode is Mode.DEFENSIVE
    assert policy.get().drawdown_frac == 1.0
    policy.report(3, 1e308)
    assert math.isfinite(policy.get().volatility_frac)
    first = Aprl(QUICK)
    first.report(1, min(equity, 0.0))
    assert first.get().mode is Mode.DEFENSIVE


@pytest.mark.parametrize(
    ("values", "keys"),
    [
        ({"drawdown_leave_frac": 0.05}, ["drawdown_leave_frac", "drawdown_frac"]),
        ({"volatility_frac": 0.005}, ["volatility_leave_frac", "volatility_frac"]),
        ({"defensive_cap": 0.8}, ["defensive_cap", "normal_cap"]),
        ({"aggressive_leverage": 0.9}, ["normal_leverage", "aggressive_leverage"]),
    ],
)
def test_settings_that_would_flip_or_invert_modes_are_refused(
    values: dict[str, float], keys: list[str]
) -> None:
    """A contradiction between thresholds or between modes names both keys."""
    with pytest.raises(ConfigError) as refused:
        load(None, environ={}, overrides={f"policy.{key}": x for key, x in values.items()})
    assert all(f"policy.{key}" in str(refused.value) for key in keys)
