"""The paper portfolio: two ledgers agree, costs are paid, nothing is ever infinite."""

import math

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.risk.portfolio import Mark, PaperPortfolio, SavedPortfolio

SERIES = 4
COST_BPS = 10.0
PRICES = st.floats(50.0, 200.0)
WILD_PRICES = st.floats(1e-15, 1e15)
TARGETS = st.none() | st.floats(-1.0, 1.0)


@st.composite
def moments(draw: st.DrawFn, prices: st.SearchStrategy[float]) -> list[list[Mark]]:
    """Marks of some moments, each of some of the series."""
    all_series = st.lists(st.integers(0, SERIES - 1), unique=True, max_size=SERIES)
    return [
        [Mark(k, draw(prices), draw(prices), draw(TARGETS)) for k in draw(all_series)]
        for _ in range(draw(st.integers(0, 12)))
    ]


def after(all_marks: list[list[Mark]], cost_bps: float = COST_BPS) -> PaperPortfolio:
    portfolio = PaperPortfolio(cost_bps)
    for at, marks in enumerate(all_marks):
        portfolio.update(at, marks)
    return portfolio


@given(moments(PRICES))
def test_cash_and_positions_are_equity_at_each_moment(all_marks: list[list[Mark]]) -> None:
    """What was earned, summed up, is what cash and positions are worth."""
    portfolio = PaperPortfolio(COST_BPS)
    for at, marks in enumerate(all_marks):
        before = portfolio.equity
        portfolio.update(at, marks)
        equity, paper = portfolio.equity, portfolio.get()
        held = math.fsum((portfolio.exposures() * equity).tolist())
        assert portfolio.cash + held == pytest.approx(equity, abs=1e-9)
        assert before * (1.0 + paper.pnl_frac) == pytest.approx(equity, abs=1e-9)
        assert paper.net_frac == pytest.approx(math.fsum(portfolio.exposures().tolist()))


@given(moments(WILD_PRICES))
def test_nothing_is_ever_infinite(all_marks: list[list[Mark]]) -> None:
    """Whatever prices do, equity stays finite and not below 0; once ruined it stays so."""
    portfolio, was_ruined = PaperPortfolio(COST_BPS), False
    for at, marks in enumerate(all_marks):
        portfolio.update(at, marks)
        paper = portfolio.get()
        assert 0.0 <= paper.equity <= 1e12 * (1 + 1e-9)
        assert all(map(math.isfinite, (paper.pnl_frac, paper.gross_frac, paper.net_frac)))
        assert math.isfinite(portfolio.cash)
        assert not was_ruined or (paper.is_ruined and paper.pnl_frac == 0.0)
        was_ruined = paper.is_ruined


def test_a_target_is_filled_at_the_next_open_with_costs() -> None:
    """L53: the fill is at the open of the bar after the signal, and pays for what it trades."""
    portfolio = after([[Mark(0, 100.0, 110.0, 0.5)]])
    assert portfolio.equity == pytest.approx(1.0 + 0.5 * 0.10 - 0.5 * 0.001)
    assert portfolio.exposures().tolist() == pytest.approx([0.55 / 1.0495])
    portfolio.update(1, [Mark(0, 121.0, 50.0, 0.0)])  # the gap to the open is still held
    assert portfolio.equity == pytest.approx(1.0495 + 0.055 - 0.605 * 0.001)
    assert portfolio.get().gross_frac == 0.0


def test_no_order_is_no_trade() -> None:
    """Without a new signal what is held stays, drifts with the price and pays nothing."""
    portfolio = after([[Mark(0, 100.0, 100.0, -0.5)], [Mark(0, 100.0, 80.0, None)]], 0.0)
    assert portfolio.equity == pytest.approx(1.1)
    assert portfolio.get().net_frac == pytest.approx(-0.4 / 1.1)


def test_the_same_target_trades_back_what_drifted() -> None:
    """A target is absolute: told again, it is what is held again, of the equity then."""
    portfolio = after([[Mark(0, 100.0, 200.0, 0.5)], [Mark(0, 200.0, 200.0, 0.5)]])
    assert portfolio.exposures().tolist() == pytest.approx([0.5], rel=1e-3)


def test_series_of_one_symbol_are_held_apart() -> None:
    """Two series fill and drift on their own; one without a bar keeps its last price."""
    first = [Mark(0, 100.0, 100.0, 0.3), Mark(2, 100.0, 100.0, -0.2)]
    portfolio = after([first, [Mark(0, 100.0, 110.0, None)], []], 0.0)
    paper = portfolio.get()
    assert paper.equity == pytest.approx(1.03)
    assert paper.gross_frac == pytest.approx(0.53 / 1.03)
    assert paper.net_frac == pytest.approx(0.13 / 1.03)
    assert (paper.pnl_frac, paper.at_ms) == (0.0, 2)


def test_who_is_ruined_stays_ruined() -> None:
    """A short that doubles takes all; no later bar brings anything back."""
    portfolio = after([[Mark(0, 100.0, 250.0, -1.0)], [Mark(0, 100.0, 1.0, 1.0)]])
    paper = portfolio.get()
    assert (paper.equity, paper.is_ruined, paper.gross_frac) == (0.0, True, 0.0)
    assert after([[Mark(0, 100.0, 250.0, -1.0)]]).get().pnl_frac == -1.0


def test_before_the_first_moment_all_is_cash() -> None:
    """It begins with 1 in cash and nothing held."""
    paper = PaperPortfolio(COST_BPS).get()
    assert (paper.equity, paper.gross_frac, paper.pnl_frac, paper.at_ms) == (1.0, 0.0, 0.0, 0)


@pytest.mark.parametrize(
    ("marks", "why"),
    [
        ([Mark(0, math.nan, 1.0, 0.0)], "price"),
        ([Mark(0, 1.0, math.inf, 0.0)], "price"),
        ([Mark(0, 0.0, 1.0, 0.0)], "price"),
        ([Mark(0, 1.0, 1.0, math.nan)], "target"),
        ([Mark(0, 1.0, 1.0, 1.01)], "target"),
        ([Mark(0, 1.0, 1.0, 0.0), Mark(0, 1.0, 1.0, 0.0)], "twice"),
        ([Mark(-1, 1.0, 1.0, 0.0)], "below 0"),
    ],
)
def test_bad_marks_are_refused_and_change_nothing(marks: list[Mark], why: str) -> None:
    """What is not finite, beyond equity or told twice stops at the door."""
    portfolio = after([[Mark(0, 100.0, 101.0, 0.5)]])
    before = portfolio.saved()
    with pytest.raises(ValueError, match=why):
        portfolio.update(9, marks)
    assert portfolio.saved() == before


@pytest.mark.parametrize("at_ms", [0, -1])
def test_moments_ascend(at_ms: int) -> None:
    """A moment that is not later is refused."""
    portfolio = after([[Mark(0, 100.0, 101.0, 0.5)]])
    with pytest.raises(ValueError, match="not after"):
        portfolio.update(at_ms, [])


@given(moments(PRICES), moments(PRICES))
def test_restarting_changes_no_bit(first: list[list[Mark]], then: list[list[Mark]]) -> None:
    """Saved and restored through bytes, every later figure is the same."""
    whole = after(first)
    saved = msgspec.msgpack.decode(msgspec.msgpack.encode(whole.saved()), type=SavedPortfolio)
    restored = PaperPortfolio(COST_BPS)
    restored.restore(saved)
    assert restored.get() == whole.get()
    for at, marks in enumerate(then):
        whole.update(100 + at, marks)
        restored.update(100 + at, marks)
    assert restored.get() == whole.get()
    assert restored.saved() == whole.saved()


@given(moments(PRICES), st.permutations(range(SERIES)))
def test_the_numbers_of_series_decide_no_bit(
    all_marks: list[list[Mark]], numbers: list[int]
) -> None:
    """The same bars in the same order, with series under other numbers, earn the same bits."""
    others = [[m._replace(series=numbers[m.series]) for m in marks] for marks in all_marks]
    assert after(others).equity == after(all_marks).equity
    assert after(others).cash == after(all_marks).cash


def test_many_series_grow_no_further() -> None:
    """Memory is one number of units and one price per series, however many moments come."""
    rng = np.random.default_rng(3)
    portfolio = PaperPortfolio(COST_BPS)
    for at in range(20):
        prices = rng.uniform(90.0, 110.0, (2, 300)).tolist()
        portfolio.update(at, [Mark(k, prices[0][k], prices[1][k], 0.001) for k in range(300)])
    assert len(portfolio.exposures()) == 300
    assert len(msgspec.msgpack.encode(portfolio.saved())) < 300 * 16 + 100
