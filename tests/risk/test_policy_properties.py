"""APRL, whatever equity does: bands, marks, monotone, restartable."""

from itertools import pairwise

import msgspec
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.risk.policy import Aprl, Cause, Mode

from .runs import (
    GROWTHS,
    MINUTE_MS,
    PAPER_STEPS,
    QUICK,
    STEPS,
    STRICTNESS,
    Run,
    aggressive,
    is_laxer,
)


@given(PAPER_STEPS, st.booleans())
def test_modes_flip_only_across_their_bands(
    steps: list[tuple[float, None]], is_proven: bool
) -> None:
    """Down where a limit is passed, up one step and only well inside and after the dwell."""
    run = aggressive() if is_proven else Run()
    states = [run.policy.get(), *run.steps([*steps, *[(0.003, None)] * 20])]
    for was, now in pairwise(states):
        worst = (now.unrecovered_frac, now.volatility_frac)
        limits = (QUICK.drawdown_frac, QUICK.volatility_frac)
        is_bad = any(x >= limit for x, limit in zip(worst, limits, strict=True))
        if is_laxer(was.mode, now.mode):
            # The bounds of a lost profit are not told any more when its evidence ended.
            is_left = worst[0] > QUICK.drawdown_leave_frac or worst[1] > QUICK.volatility_leave_frac
            assert is_bad or (now.mode is Mode.NORMAL and (is_left or Cause.UNPROVEN in now.cause))
        if is_laxer(now.mode, was.mode):
            assert STRICTNESS.index(now.mode) - STRICTNESS.index(was.mode) == 1
            assert now.since_ms - was.since_ms >= QUICK.dwell_ms
            share = 1.0 if now.mode is Mode.NORMAL else QUICK.aggressive_entry
            assert worst[0] <= QUICK.drawdown_leave_frac * share
            assert worst[1] <= QUICK.volatility_leave_frac * share
        assert not is_bad or now.mode is Mode.DEFENSIVE


@given(st.lists(st.floats(0.9501, 0.9799), min_size=1, max_size=40), st.booleans())
def test_inside_the_band_no_mode_flips(equities: list[float], was_defensive: bool) -> None:
    """With drawdown between the two thresholds a mode stays what it is, whichever it is."""
    calm = msgspec.structs.replace(
        QUICK, volatility_frac=10.0, volatility_leave_frac=9.0, recovery_halflife_ms=10**15
    )
    policy = Aprl(calm)
    policy.update(1, 1.0)
    policy.update(2, 0.94 if was_defensive else 0.96)
    modes = []
    for k, equity in enumerate(equities):
        policy.update((k + 1) * MINUTE_MS, equity)
        modes.append(policy.get().mode)
    assert set(modes) == {Mode.DEFENSIVE if was_defensive else Mode.NORMAL}


@given(PAPER_STEPS)
def test_the_high_water_mark_never_falls(steps: list[tuple[float, None]]) -> None:
    """Drawdown is from the highest equity ever; the recovery mark is never above that."""
    run, highest = Run(), 1.0
    for step in steps:
        state = run.step(*step)
        highest = max(highest, run.paper)
        assert state.drawdown_frac == 1.0 - run.paper / highest
        assert 0.0 <= state.unrecovered_frac <= state.drawdown_frac


@given(STEPS, GROWTHS, GROWTHS, st.booleans(), st.booleans())
def test_worse_equity_is_never_laxer(
    steps: list[tuple[float, float | None]],
    one: float,
    other: float,
    is_reported: bool,
    is_proven: bool,
) -> None:
    """From any past, the worse of two results gives the same mode at that moment or a stricter."""
    run = aggressive() if is_proven else Run()
    run.steps(steps)
    modes = []
    for growth in sorted((one, other)):
        after = run.restarted().step(growth, growth if is_reported else None)
        modes.append(after.mode)
    assert not is_laxer(modes[0], modes[1])


@given(STEPS, STEPS, st.booleans())
def test_restarting_anywhere_changes_no_bit(
    first: list[tuple[float, float | None]],
    then: list[tuple[float, float | None]],
    is_proven: bool,
) -> None:
    """Saved and restored through bytes, every later state is the same."""
    run = aggressive() if is_proven else Run()
    run.steps(first)
    other = run.restarted()
    assert other.policy.get() == run.policy.get()
    assert other.steps(then) == run.steps(then)
    assert other.policy.saved() == run.policy.saved()


@given(STEPS, st.booleans())
@hypothesis_settings(max_examples=50)
def test_caps_are_those_of_the_mode(
    steps: list[tuple[float, float | None]], is_proven: bool
) -> None:
    """Cap and leverage follow from the mode alone, and each state has a reason."""
    caps = {
        Mode.DEFENSIVE: (0.5, 0.5),
        Mode.NORMAL: (0.7, 1.0),
        Mode.AGGRESSIVE: (0.9, 1.5),
    }
    run = aggressive() if is_proven else Run()
    for state in run.steps(steps):
        assert (state.exposure_cap, state.leverage) == caps[state.mode]
        assert state.cause
        assert state.reasons
