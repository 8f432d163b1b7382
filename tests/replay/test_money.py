"""Money: figures that a whole array gives too, by block, month and instrument, and its peers."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import ReplaySettings
from quantum_ai_engine.replay.account import Account, Mark, Move
from quantum_ai_engine.replay.clock import Clock
from quantum_ai_engine.replay.money import STEPS_AT_ONCE, Block, Luck, Purse, block_figures, money
from quantum_ai_engine.replay.peers import BuyAndHold, RandomSigns

from .steps import MINUTE, bar, step, told

DAY = 86_400_000
JANUARY = 1_735_689_600_000  # 2025-01-01


class Kept:
    """Rows as they would be written."""

    def __init__(self) -> None:
        self.rows: list[list[float]] = []

    def __call__(self, times: NDArray[np.int64], rows: NDArray[np.float64]) -> None:
        self.rows += [[float(at), *row] for at, row in zip(times, rows.tolist(), strict=True)]


def mark(at_ms: int, before: float, equity: float, **more: Any) -> Mark:
    fields = {"cash": equity, "gross": 0.0, "net": 0.0, "traded": 0.0, "cost": 0.0, "borrow": 0.0}
    return Mark(at_ms, before, equity, *(fields | more).values(), (), ())


def purse_of(equities: list[float], step_ms: int = DAY, block: int = 10) -> tuple[Purse, Kept]:
    """What follows an account of this equity after each day."""
    kept, clock = Kept(), Clock(has_sessions=False)
    account = Account(ReplaySettings(capital=100.0), {})
    purse, before = Purse(account, clock, kept), 100.0
    for k, equity in enumerate(equities):
        clock.update(JANUARY + k * step_ms, step_ms)
        purse.update(mark(JANUARY + k * step_ms, before, equity), k // block, 1.0)
        before = equity
    return purse, kept


Returns = st.lists(st.floats(-0.2, 0.25), min_size=2, max_size=80)


@given(Returns)
def test_figures_are_those_of_the_whole_series(returns: list[float]) -> None:
    """Return, CAGR, volatility, Sharpe, Sortino and drawdown, by their textbook formulas."""
    equity = (100.0 * np.cumprod(1.0 + np.array(returns))).tolist()
    purse, kept = purse_of(equity)
    worth = purse.worth()
    own = np.diff([100.0, *equity]) / np.array([100.0, *equity[:-1]])
    assert worth.total_return == pytest.approx(equity[-1] / 100.0 - 1.0)
    assert worth.bars_per_year == pytest.approx(365.0)
    years = len(own) / 365.0
    if worth.cagr is not None:
        assert worth.cagr == pytest.approx((equity[-1] / 100.0) ** (1.0 / years) - 1.0)
    assert worth.volatility == pytest.approx(own.std(ddof=1) * math.sqrt(365.0), abs=1e-9)
    if own.std() > 1e-9:
        expected = own.mean() / own.std(ddof=1) * math.sqrt(365.0)
        assert worth.sharpe == pytest.approx(expected, rel=1e-6, abs=1e-9)
    down = math.sqrt((np.minimum(own, 0.0) ** 2).mean())
    if down > 1e-9:
        assert worth.sortino == pytest.approx(own.mean() / down * math.sqrt(365.0), rel=1e-6)
    path = np.array([100.0, *equity])
    drawdown = 1.0 - path / np.maximum.accumulate(path)
    assert worth.max_drawdown == pytest.approx(drawdown.max(), abs=1e-12)
    assert [row[1] for row in kept.rows] == equity
    assert [row[5] for row in kept.rows] == pytest.approx(drawdown[1:].tolist(), abs=1e-12)


def test_parts_of_any_size_give_the_same() -> None:
    """The drawdown is over the whole run, across the parts that are summed at once."""
    n = 3 * STEPS_AT_ONCE + 17
    path = 100.0 * np.exp(np.sin(np.arange(n) / 900.0) + 1e-3 * np.arange(n) % 0.01)
    worth = purse_of(path.tolist(), MINUTE)[0].worth()
    whole = np.append(100.0, path)
    assert worth.max_drawdown == pytest.approx((1 - whole / np.maximum.accumulate(whole)).max())
    assert worth.bars == n


def test_rpb_and_mrb_of_blocks() -> None:
    """RPB is the mean of the blocks' returns; MRB the compounded return over their number."""
    purse, _ = purse_of([110.0, 121.0, 108.9, 108.9], block=2)
    assert [(one.bars, round(one.total_return, 6)) for one in purse.closed_blocks()] == [
        (2, 0.21),
        (2, -0.1),
    ]
    found = block_figures(purse.closed_blocks(), 4.0 / 365.0)
    assert found is not None
    assert found.rpb == pytest.approx(0.055)
    assert found.mrb == pytest.approx(0.089 / 2.0)
    assert (found.best, found.worst) == pytest.approx((0.21, -0.1))
    spread = np.std([0.21, -0.1], ddof=1)
    assert found.sharpe == pytest.approx(0.055 / spread * math.sqrt(2 * 365.0 / 4.0))
    assert block_figures([], 1.0) is None
    assert block_figures([Block(0, 1, 0.1)], 1.0).sharpe is None  # type: ignore[union-attr]


@given(Returns, st.integers(1, 9))
def test_blocks_and_months_compound_to_the_whole(returns: list[float], block: int) -> None:
    equity = (100.0 * np.cumprod(1.0 + np.array(returns))).tolist()
    purse, _ = purse_of(equity, block=block)
    for found in (purse.closed_blocks(), purse.closed_months()):
        total = math.prod(1.0 + one.total_return for one in found)
        assert total == pytest.approx(equity[-1] / 100.0)
    months = [(one.year, one.month) for one in purse.closed_months()]
    assert months == sorted(set(months))
    assert sum(one.bars for one in purse.closed_blocks()) == len(equity)


def minutes(days: int, opens: int, length: int, weekdays: bool) -> Clock:
    """A clock after some days of bars of five minutes; the first day is a Wednesday."""
    clock = Clock(has_sessions=False)
    for day in range(days):
        if not weekdays or (day + 2) % 7 < 5:
            for k in range(length):
                at_ms = JANUARY + day * DAY + (opens + 5 * k) * MINUTE
                clock.update(at_ms, 5 * MINUTE)
    return clock


def test_a_year_has_as_many_bars_as_the_market() -> None:
    """Round the clock 105,120 bars of five minutes; in sessions of 78 on weekdays about 20,300."""
    assert minutes(10, 0, 288, weekdays=False).bars_per_year() == pytest.approx(105_120.0)
    for days in (14, 70, 700):
        found = minutes(days, 870, 78, weekdays=True)
        assert found.has_sessions
        assert found.bars_per_year() == pytest.approx(78 * 365.0 * 5.0 / 7.0, rel=0.02)
    told = Clock(has_sessions=True)
    for k in range(78):  # one session alone: only who knows the venue can tell
        told.update(JANUARY + k * 5 * MINUTE, 5 * MINUTE)
    assert told.bars_per_year() == pytest.approx(78 * 365.0 / 7.0)


def test_buy_and_hold_buys_each_symbol_once() -> None:
    """Half in each: one doubles, one halves; a third comes later with its own sum."""
    hold = BuyAndHold(0.0, {})
    hold.update([bar(0, 10.0, 10.0, "AAA"), bar(0, 20.0, 20.0, "BBB")])
    hold.update([bar(1, 10.0, 20.0, "AAA"), bar(1, 20.0, 10.0, "BBB")])
    assert hold.get().total_return == pytest.approx(0.25)
    hold.update([bar(2, 5.0, 5.0, "CCC")])
    assert hold.get().total_return == pytest.approx(0.25)
    assert hold.of("AAA", "1m") == pytest.approx(1.0)
    assert hold.of("XXX", "1m") is None


def test_buy_and_hold_leaves_out_what_stands_for_another() -> None:
    """The triple is bought in the place of its base, never beside it."""
    hold = BuyAndHold(0.0, {"AAA": {"AAA": 1.0, "AAA3": 3.0}})
    hold.update([bar(0, 10.0, 10.0, "AAA"), bar(0, 10.0, 10.0, "AAA3")])
    hold.update([bar(1, 10.0, 11.0, "AAA"), bar(1, 10.0, 13.0, "AAA3")])
    assert hold.get().symbols == 1
    assert hold.get().total_return == pytest.approx(0.1)
    assert hold.of("AAA3", "1m") is None


def test_buying_costs_once() -> None:
    hold = BuyAndHold(100.0, {})
    for k in range(5):
        hold.update([bar(k)])
    assert hold.get().total_return == pytest.approx(-0.01)
    assert hold.get().max_drawdown == pytest.approx(0.01)


def chance_of(pnls: list[float], cost: float = 0.0, draws: int = 400) -> Any:
    """Against accounts whose trades, each one step long, are tossed."""
    signs = RandomSigns(draws, seed=1)
    for k, pnl in enumerate(pnls):
        moves = (Move(0, k, pnl),)
        one = mark(k, 100.0, 100.0 + pnl - cost, cost=cost)
        signs.update(one._replace(moves=moves))
    return signs.get()


def test_who_always_picks_the_right_side_beats_all_coins() -> None:
    found = chance_of([1.0, 1.1] * 25)
    assert found.percentile == 1.0
    assert found.sharpe_percentile == 1.0
    assert found.trades == 50
    assert abs(found.mean_return) < 0.05
    assert chance_of([-1.0] * 50).percentile == 0.0


def test_coins_pay_the_same_costs() -> None:
    """At half a percent a trade, fifty trades of coins lose about a fifth."""
    found = chance_of([1.0, -1.0] * 25, cost=0.5)
    assert found.mean_return == pytest.approx(0.995**50 - 1.0, abs=0.02)
    assert 0.2 < found.percentile < 0.8


def test_a_trade_keeps_its_side_to_its_end() -> None:
    """One trade of many steps is one toss: half of the accounts have all of it, half none."""
    signs = RandomSigns(100, seed=3)
    for k in range(10):
        signs.update(mark(k, 100.0, 101.0)._replace(moves=(Move(0, 7, 1.0),)))
    found = signs.get()
    assert found is not None
    assert (found.low, found.high) == pytest.approx((0.99**10 - 1.0, 1.01**10 - 1.0))
    assert RandomSigns(100, seed=3).get() is None


def test_all_of_it_together() -> None:
    """A small run by hand: instruments, peers, luck; and no number that is none."""
    kept, clock = Kept(), Clock(has_sessions=False)
    account = Account(ReplaySettings(capital=1_000.0), {})
    purse, hold, signs = Purse(account, clock, kept), BuyAndHold(5.0, {}), RandomSigns(50, 1)
    for k in range(40):
        one = step(bar(k, 100.0 + k, 100.5 + k), [told(k, 0.5 if k % 4 else 0.0)])
        account.take(one)
        found = account.get()
        assert found is not None
        clock.update(one.open_time_ms, MINUTE)
        hold.update(one.bars)
        signs.update(found)
        purse.update(found, k // 10, hold.index)
    all_of_it = money(account, purse, hold, signs.get(), Luck(100, 1, [0.01, 0.02]))
    (line,) = all_of_it.lines
    assert line.trades == all_of_it.worth.trades == 9
    assert line.pnl - line.cost == pytest.approx(all_of_it.worth.equity - 1_000.0)
    assert all_of_it.worth.costs == pytest.approx(line.cost)
    assert all_of_it.deflated.trials == 3
    assert all_of_it.blocks is not None
    assert all_of_it.blocks.count == 4
    assert len(kept.rows) == 40
