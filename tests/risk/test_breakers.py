"""Breakers: trip, clear, dwell, absence, acknowledgement and memory."""

import math
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import BREAKERS, BreakerLimits, RiskSettings
from quantum_ai_engine.risk.breakers import (
    ABSENT_IS_WORST,
    MEANINGS,
    Breaker,
    BreakerName,
    SavedBreaker,
)

from ..test_config import refusal

LIMITS = BreakerLimits(0.10, 0.05, 100, "reduce")
figures = st.none() | st.floats(0.0, 0.3)


def breaker(limits: BreakerLimits = LIMITS, name: BreakerName = BreakerName.DRAWDOWN) -> Breaker:
    return Breaker(name, limits)


def opened(one: Breaker, values: list[float | None], step_ms: int = 50) -> list[bool]:
    """Whether the breaker is open after each figure, one every `step_ms` ms from 0."""
    states = []
    for k, value in enumerate(values):
        one.update(k * step_ms, value)
        states.append(one.get().is_open)
    return states


def test_it_opens_at_the_trip_level() -> None:
    """A figure just below it does not count, the trip level itself does."""
    assert opened(breaker(), [0.0, 0.0999, 0.10]) == [False, False, True]


def test_it_closes_after_the_dwell_at_or_below_the_clear_level() -> None:
    """The dwell begins with the first calm figure and is over when its time is."""
    assert opened(breaker(), [0.2, 0.05, 0.05, 0.05, 0.09]) == [True, True, True, False, False]


def test_between_the_levels_it_stays_and_the_dwell_begins_anew() -> None:
    """Hysteresis: a figure between clear and trip level neither opens nor closes it."""
    assert opened(breaker(), [0.2, 0.0, 0.06, 0.0, 0.0, 0.0]) == [True] * 5 + [False]


def test_no_figure_is_no_evidence_of_calm() -> None:
    """L02: an absent figure keeps a breaker as it is, and begins the dwell anew."""
    assert opened(breaker(), [None, 0.2, None, 0.0, None, 0.0, 0.0, 0.0]) == (
        [False] + [True] * 6 + [False]
    )


def test_absent_equity_is_the_worst() -> None:
    """L36: where nothing says what was lost the breaker is open; all others claim nothing."""
    assert {BreakerName.PNL_STALE} == ABSENT_IS_WORST
    for name in BreakerName:
        one = breaker(name=name)
        one.update(0, None)
        assert one.get().is_open is (name in ABSENT_IS_WORST)


def test_the_reason_says_that_there_was_no_figure() -> None:
    """L08: no data is said as no data."""
    one = breaker(name=BreakerName.PNL_STALE)
    one.update(0, None)
    assert one.reason == "pnl_stale: no figure of age of the equity in ms"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    """L36: a figure that is not a number neither opens nor closes anything: it is refused."""
    one = breaker()
    with pytest.raises(ValueError, match=r"drawdown is .*not a finite number"):
        one.update(0, value)
    assert one.saved() == breaker().saved()


def test_time_goes_forward() -> None:
    """A moment that is not after the one before is refused."""
    one = breaker()
    one.update(5, 0.0)
    with pytest.raises(ValueError, match="5 ms is not after 5 ms"):
        one.update(5, 0.0)


@given(st.lists(figures, max_size=60))
def test_it_never_flips_inside_the_hysteresis(values: list[float | None]) -> None:
    """Between two openings there is a calm stretch of at least the dwell."""
    one = breaker()
    states = [False, *opened(one, values)]
    closed_at = [k - 1 for k, (a, b) in enumerate(pairwise(states), 1) if a and not b]
    for at in closed_at:
        assert all(v is not None and v <= LIMITS.clear for v in values[at - 2 : at + 1])
    assert all(
        not after or before or values[k] is not None
        for k, (before, after) in enumerate(pairwise(states))
    )


@given(st.lists(figures, max_size=40), st.lists(st.floats(0.0, 0.3), min_size=40, max_size=40))
def test_worse_figures_never_close_it(values: list[float | None], more: list[float]) -> None:
    """With every figure raised it is open at least whenever it was."""
    raised = [None if v is None else v + extra for v, extra in zip(values, more, strict=False)]
    for calm, bad in zip(opened(breaker(), values), opened(breaker(), raised), strict=True):
        assert bad or not calm


@given(
    st.lists(st.tuples(figures, st.booleans()), max_size=40),
    st.integers(0, 40),
)
def test_saved_and_restored_anywhere_it_goes_on_alike(
    steps: list[tuple[float | None, bool]], cut: int
) -> None:
    """L43: a restart in between, through bytes, changes nothing that follows."""
    one, other = breaker(), breaker()
    for k, (value, acknowledged) in enumerate(steps):
        if k == cut:
            data = msgspec.msgpack.encode(other.saved())
            other = breaker()
            other.restore(msgspec.msgpack.decode(data, type=SavedBreaker))
        for b in (one, other):
            b.update(k * 50, value)
            if acknowledged:
                b.acknowledge(k * 50)
        assert one.get() == other.get()
        assert one.reason == other.reason
    assert one.saved() == other.saved()


def test_what_belongs_to_another_breaker_is_refused() -> None:
    """States of two breakers are not mixed up."""
    with pytest.raises(ValueError, match="of breaker drawdown, not of data_quality"):
        breaker(name=BreakerName.DATA_QUALITY).restore(breaker().saved())


def test_an_acknowledged_figure_opens_again_only_when_it_gets_worse() -> None:
    """A person takes 0.2 for known: it takes 0.25 to open, and 0.1 again once it was calm."""
    one = breaker()
    one.update(0, 0.2)
    one.acknowledge(10)
    assert one.get().is_open is False
    states = []
    for k, value in enumerate([0.2, 0.2499, 0.2501, 0.0, 0.0, 0.0, 0.0999, 0.10], 1):
        one.update(k * 50, value)
        states.append(one.get().is_open)
    assert states == [False, False, True, True, True, False, False, True]


def test_an_acknowledgement_of_a_closed_breaker_is_nothing() -> None:
    """Nobody can acknowledge in advance."""
    one = breaker()
    one.update(0, 0.09)
    one.acknowledge(1)
    one.update(2, 0.10)
    assert one.get().is_open


def test_the_reason_stays_the_same_while_it_is_open() -> None:
    """Who compares verdicts sees a change only where there is one."""
    one = breaker()
    one.update(0, 0.2)
    first = one.reason
    one.update(1, 0.3)
    one.update(2, 0.0)
    assert one.reason == first
    assert "0.2" in first
    assert "drawdown" in first


def test_every_breaker_has_limits_and_a_meaning() -> None:
    """Names in settings and in code are the same; `manual` alone needs no limits."""
    assert set(MEANINGS) == set(BreakerName)
    assert {str(name) for name in BreakerName} - {"manual"} == set(BREAKERS)


def test_a_line_changes_the_limits_of_one_breaker() -> None:
    """L38: what is set is what holds, and the other breakers keep their defaults."""
    limits = RiskSettings(breakers=("stale_feed 0.5 0.1 1000 off",)).breaker_limits()
    assert limits["stale_feed"] == BreakerLimits(0.5, 0.1, 1000, "off")
    assert {k: v for k, v in limits.items() if k != "stale_feed"} == {
        k: v for k, v in BREAKERS.items() if k != "stale_feed"
    }


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("drawdown 0.1 0.05 0", "write NAME TRIP"),
        ("drawdawn 0.1 0.05 0 halt", "breakers are drawdown"),
        ("drawdown 0.05 0.1 0 halt", "must be below"),
        ("drawdown nan 0.1 0 halt", "must be below"),
        ("drawdown 0.1 0.05 -1 halt", "below 0 ms"),
        ("drawdown 0.1 0.05 1.5 halt", "invalid literal"),
        ("drawdown 0.1 0.05 0 stop", "reduce, halt"),
    ],
)
def test_a_line_that_cannot_be_is_refused(line: str, why: str) -> None:
    """L48: the sentence names the key, the line and what is wrong with it."""
    sentence = refusal(risk__breakers=[line])
    assert sentence.startswith(f"risk.breakers: {line!r}: ")
    assert why in sentence


@pytest.mark.parametrize("line", ["majors", "majors A||B", "majors A B", ""])
def test_a_group_that_cannot_be_is_refused(line: str) -> None:
    """L48: so are lines of groups."""
    assert "risk.groups" in refusal(risk__groups=[line])


@pytest.mark.parametrize(
    "line", ["QQQ", "", "QQQ TQQQ", "QQQ TQQQ:x", "QQQ A:1", "QQQ A:3 A:2", "QQQ A:0", "QQQ A:nan"]
)
def test_an_instrument_that_cannot_be_is_refused(line: str) -> None:
    """L48: so are lines of instruments."""
    assert "risk.instruments" in refusal(risk__instruments=[line])
