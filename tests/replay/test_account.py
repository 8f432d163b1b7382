"""The account: fills at the next open, all costs paid, and books that always balance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.config import ConfigError, ReplaySettings
from quantum_ai_engine.events import Bar, Holding
from quantum_ai_engine.replay.account import Account, Fill, Mark
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.risk.portfolio import Mark as PaperMark
from quantum_ai_engine.risk.portfolio import PaperPortfolio
from quantum_ai_engine.state.told import Order, Told

from .steps import AAA, MINUTE, bar, step, told

CAPITAL = 1_000.0
FREE = {"capital": CAPITAL, "fee_bps": 0.0, "slippage_bps": 0.0, "leverage": 100.0}
FAMILY = {"AAA": {"AAA": 1.0, "AAA3": 3.0, "AAAX": -1.0}}
SYMBOLS = ("AAA", "BBB", "CCC")


def account(families: Mapping[str, Mapping[str, float]] | None = None, **more: Any) -> Account:
    return Account(ReplaySettings(**(FREE | more)), families or {})


def after(one: Account, *steps: Step) -> Mark:
    for each in steps:
        one.take(each)
    mark = one.get()
    assert mark is not None
    return mark


def fills_of(one: Account, *steps: Step) -> list[Fill]:
    fills: list[Fill] = []
    for each in steps:
        one.take(each)
        mark = one.get()
        fills += mark.fills if mark else ()
    return fills


def test_a_target_is_filled_at_the_next_open_and_never_at_its_own_close() -> None:
    """L53: the bar that was decided on has closed; what it gained belongs to nobody."""
    one = account()
    first = after(one, step(bar(0, 100.0, 120.0), [told(0, 0.5)]))
    assert (first.equity, first.fills) == (CAPITAL, ())
    mark = after(one, step(bar(1, 125.0, 150.0)))
    assert [(fill.open_time_ms, fill.price, fill.units) for fill in mark.fills] == [
        (MINUTE, 125.0, 4.0)
    ]
    assert mark.equity == 500.0 + 4.0 * 150.0


def test_an_expired_target_counts_as_flat() -> None:
    """L07, L39: who comes back after the end of a signal is flat at that open, and stays it."""
    one = account()
    after(one, step(bar(0), [told(0, 0.5)]), step(bar(1)))
    mark = after(one, step(bar(9, 110.0)))
    assert [fill.target for fill in mark.fills] == [0.0]
    assert (mark.gross, mark.equity) == (0.0, 1_050.0)
    late = account()
    assert not fills_of(late, step(bar(0), [told(0, 0.5)]), step(bar(9)), step(bar(10)))


def test_an_amended_signal_takes_the_place_of_the_one_it_amends() -> None:
    """What was filled already is corrected at the next open; what was not, never happens."""
    one = account()
    again = told(0, 0.2, version=1)
    assert [f.target for f in fills_of(one, step(bar(0), [told(0, 0.5), again]), step(bar(1)))] == [
        0.2
    ]
    assert [
        f.target for f in fills_of(one, step(bar(2), [told(1, 0.1, version=1)]), step(bar(3)))
    ] == [0.1]


def test_an_older_bar_s_signal_never_undoes_a_newer_one() -> None:
    one = account()
    fills = fills_of(one, step(bar(1), [told(1, 0.5), told(0, -0.5, version=1)]), step(bar(2)))
    assert [fill.target for fill in fills] == [0.5]


def test_fee_and_slippage_are_paid_of_what_is_traded() -> None:
    one = account(fee_bps=7.0, slippage_bps=3.0)
    mark = after(one, step(bar(0), [told(0, 0.5)]), step(bar(1)))
    assert mark.cost == pytest.approx(500.0 * 0.001)
    assert mark.equity == pytest.approx(CAPITAL - 0.5)


def test_interest_is_paid_on_shorts_and_on_borrowed_cash() -> None:
    """A year short of half the capital at 2 % costs 1 % of it; a day is a 365th of that."""
    day = 24 * 60
    shorts = account(short_borrow_bps_per_year=200.0)
    mark = after(shorts, step(bar(0), [told(0, -0.5)]), step(bar(1)), step(bar(1 + day)))
    assert mark.borrow == pytest.approx(500.0 * 0.02 / 365.0)
    owes = account(cash_borrow_bps_per_year=200.0)
    both = [bar(0, symbol=name) for name in ("AAA", "BBB")]
    after(owes, step(both, [told(0, 1.0, name) for name in ("AAA", "BBB")]))
    assert after(owes, step([bar(1, symbol=name) for name in ("AAA", "BBB")])).cash == -CAPITAL
    assert after(owes, step(bar(1 + day))).borrow == pytest.approx(CAPITAL * 0.02 / 365.0)


def test_lots_are_whole_and_never_more_than_asked_for() -> None:
    one = account(lots=("AAA 3",))
    mark = after(one, step(bar(0), [told(0, 0.5)]), step(bar(1)))
    assert [fill.units for fill in mark.fills] == [3.0]
    tenth = account(lots=("AAA 0.1",))
    assert after(tenth, step(bar(0), [told(0, 0.03)]), step(bar(1))).fills[0].units == (
        pytest.approx(0.3)
    )


@pytest.mark.parametrize("line", ["AAA", "AAA 0", "AAA -1", "AAA x", "AAA| 1", "AAA inf"])
def test_lots_that_are_none_are_refused(line: str) -> None:
    """L48: the sentence names key and line."""
    with pytest.raises(ConfigError, match=r"replay\.lots"):
        ReplaySettings(lots=(line,)).lot_sizes()


def test_what_frees_money_is_filled_before_what_needs_it() -> None:
    """Sales first: else the purchase would be cut by the leverage."""
    one = account(leverage=1.0)
    both = ("BBB", "AAA")  # the purchase stands first in the step
    after(one, step([bar(0, symbol=s) for s in both], [told(0, 1.0, "AAA")]))
    mark = after(
        one,
        step([bar(1, symbol=s) for s in both], [told(1, 1.0, "BBB"), told(1, 0.0, "AAA")]),
        step([bar(2, symbol=s) for s in both]),
    )
    assert [(fill.instrument, fill.units) for fill in mark.fills] == [("AAA", -10.0), ("BBB", 10.0)]
    assert (one.cut, mark.gross) == (0, CAPITAL)


def test_a_fill_beyond_the_leverage_is_cut_and_counted() -> None:
    one = account(leverage=1.5)
    names = ("AAA", "BBB")
    mark = after(
        one,
        step([bar(0, symbol=s) for s in names], [told(0, 1.0, "AAA"), told(0, -1.0, "BBB")]),
        step([bar(1, symbol=s) for s in names]),
    )
    assert mark.gross == pytest.approx(1.5 * CAPITAL)
    assert one.cut == 1


def test_a_family_is_held_in_the_instruments_that_the_signal_names() -> None:
    """The base's signal is held three times levered, priced by that instrument's own bars."""
    one = account(FAMILY)
    holdings = (Holding("AAA", 0.0), Holding("AAA3", 0.2), Holding("AAAX", 0.0))
    first = [bar(0), bar(0, 50.0, symbol="AAA3"), bar(0, symbol="AAAX")]
    own = told(0, 0.9, "AAA3")  # the engine's own opinion of it: its base decides
    after(one, step(first, [told(0, 0.6, holdings=holdings), own]))
    mark = after(one, step([bar(1, 100.0, 101.0), bar(1, 50.0, 51.5, "AAA3")]))
    assert [(fill.instrument, fill.units, fill.price) for fill in mark.fills] == [
        ("AAA3", 4.0, 50.0)
    ]
    assert mark.equity == CAPITAL + 4.0 * 1.5
    assert one.ignored == 1


def test_without_a_price_there_is_no_trade() -> None:
    """An order waits for the next bar of its own instrument, and is dropped when it expired."""
    one = account(FAMILY)
    holdings = (Holding("AAA3", 0.2),)
    assert not fills_of(one, *(step(bar(k), [told(k, 0.6, holdings=holdings)]) for k in range(50)))
    fills = fills_of(one, step([bar(50), bar(50, 50.0, symbol="AAA3")]))
    assert [(fill.instrument, fill.target) for fill in fills] == [("AAA3", 0.2)]
    assert not fills_of(one, step(bar(51, symbol="AAAX")))


def test_late_and_repeated_bars_are_counted_and_move_nothing() -> None:
    """Nobody can trade in the past."""
    one = account()
    after(one, step(bar(5), [told(5, 0.5)]))
    one.take(step(bar(4, 1.0)))
    one.take(step(bar(5, 1.0)))
    assert one.late == 2
    assert one.get() is None
    assert after(one, step(bar(6))).equity == CAPITAL


def test_ruin_is_said_and_final() -> None:
    """Equity never falls below 0 in silence: what the lender lost is a figure of its own."""
    one = account()
    mark = after(one, step(bar(0), [told(0, -1.0)]), step(bar(1, 100.0, 250.0), [told(1, 1.0)]))
    assert (mark.equity, mark.cash, mark.gross) == (0.0, 0.0, 0.0)
    assert (one.ruined_ms, one.written_off) == (MINUTE, 500.0)
    one.check()
    assert after(one, step(bar(2, 10.0, 20.0))).equity == 0.0


def test_books_that_do_not_balance_end_the_run() -> None:
    """A broken invariant is no result."""
    one = account()
    after(one, step(bar(0), [told(0, 0.5)]), step(bar(1)))
    one.costs += 1.0
    with pytest.raises(ArithmeticError, match="out of balance"):
        one.check()


def test_trades_are_round_trips_and_won_after_their_costs() -> None:
    one = account(fee_bps=10.0)
    targets, prices = (0.5, 0.5, 0.0, -0.5, 0.5, 0.0), (100, 101, 102, 103, 101, 99, 90)
    steps = [step(bar(0, 100.0), [told(0, targets[0])])]
    for k, price in enumerate(prices[:-1], start=1):
        signals = [told(k, targets[k])] if k < len(targets) else []
        steps.append(step(bar(k, float(price)), signals))
    after(one, *steps)
    line = one.lines[0]
    assert (line.trades, line.wins, line.units) == (3, 2, 0.0)


Moves = st.floats(-0.05, 0.05)
Targets = st.none() | st.floats(-1.0, 1.0)
Moment = st.tuples(
    *(st.tuples(st.booleans(), Moves, Moves, Targets) for _ in SYMBOLS), st.integers(1, 4)
)
History = st.lists(Moment, min_size=1, max_size=30)


def steps_of(history: Sequence[Any]) -> Iterator[Step]:
    """Bars of three symbols, some of them missing, with gaps in time."""
    prices, minute = dict.fromkeys(SYMBOLS, 100.0), 0
    for *each, passed in history:
        minute += passed
        bars, signals = [], []
        for symbol, (is_there, gap, move, target) in zip(SYMBOLS, each, strict=True):
            if not is_there:
                continue
            open_ = prices[symbol] * (1.0 + gap)
            prices[symbol] = open_ * (1.0 + move)
            bars.append(bar(minute, open_, prices[symbol], symbol))
            if target is not None:
                signals.append(told(minute, target, symbol))
        if bars:
            yield step(bars, signals)


@given(
    History,
    st.floats(0.0, 30.0),
    st.floats(0.0, 5_000.0),
    st.sampled_from([(), ("AAA|BBB 1",), ("AAA 0.01", "CCC 0.7")]),
    st.sampled_from([0.5, 1.0, 100.0]),
)
def test_cash_and_positions_are_equity_at_every_bar(
    history: Sequence[Any], fee: float, interest: float, lots: tuple[str, ...], leverage: float
) -> None:
    """Positions are the sum of fills, cash what they left of the capital; nothing is lost."""
    one = account(
        fee_bps=fee,
        short_borrow_bps_per_year=interest,
        cash_borrow_bps_per_year=interest,
        lots=lots,
        leverage=leverage,
    )
    units, closes = dict.fromkeys(SYMBOLS, 0.0), dict.fromkeys(SYMBOLS, 0.0)
    cash = CAPITAL
    for each in steps_of(history):
        mark = after(one, each)
        cash -= mark.borrow
        for fill in mark.fills:
            assert fill.notional == fill.units * fill.price
            units[fill.instrument] += fill.units
            cash -= fill.notional + fill.cost
        closes |= {one.symbol: one.close for one in each.bars}
        if one.ruined_ms is not None:
            assert mark.equity == mark.gross == 0.0
            break
        positions = [units[symbol] * closes[symbol] for symbol in SYMBOLS]
        assert mark.cash == pytest.approx(cash, abs=1e-9 * CAPITAL)
        assert mark.equity == pytest.approx(cash + sum(positions), abs=1e-9 * CAPITAL)
        assert mark.net == pytest.approx(sum(positions), abs=1e-9 * CAPITAL)
        assert mark.gross == pytest.approx(sum(map(abs, positions)), abs=1e-9 * CAPITAL)
        assert mark.equity >= 0.0
        gained = sum(move.pnl for move in mark.moves) - mark.cost - mark.borrow
        assert mark.equity - mark.before == pytest.approx(gained, abs=1e-9 * CAPITAL)
    assert abs(one.imbalance()) <= 1e-9 * CAPITAL
    one.check()


def paper_equity(history: Sequence[Any], cost_bps: float) -> list[float]:
    """What the engine's own paper portfolio makes of the same."""
    portfolio, orders = PaperPortfolio(cost_bps), Told()
    orders.reserve(len(SYMBOLS))
    found = []
    for each in steps_of(history):
        marks = [
            PaperMark(at := SYMBOLS.index(b.symbol), b.open, b.close, orders.order(at, b))
            for b in each.bars
        ]
        portfolio.update(each.open_time_ms + MINUTE, marks)
        found.append(portfolio.equity)
        for s in each.told.signals:
            order = Order(s.close_time, s.target, s.target, s.valid_until)
            orders.take(SYMBOLS.index(s.symbol), order)
    return found


@given(History, st.floats(0.0, 30.0))
def test_by_the_same_rules_it_is_the_paper_portfolio(
    history: Sequence[Any], cost_bps: float
) -> None:
    """Without lots, interest and a cut it has the equity by which the live policy judges."""
    one = account(fee_bps=cost_bps / 2.0, slippage_bps=cost_bps / 2.0)
    paper = paper_equity(history, cost_bps)
    own = [after(one, each).equity / CAPITAL for each in steps_of(history)]
    whole = next((i for i, equity in enumerate(paper) if equity <= 0.05), len(paper))
    assert own[:whole] == pytest.approx(paper[:whole], rel=1e-12, abs=1e-13)


@given(History, st.floats(1.001, 3.0))
def test_no_later_bar_changes_what_was_before(history: Sequence[Any], factor: float) -> None:
    """L16: prices of the last step move nothing but the last step."""
    steps = list(steps_of(history))
    if len(steps) < 2:
        return
    *before, last = steps
    moved = [
        Bar(b.symbol, b.interval, b.open_time, *(p * factor for p in b.ohlcv[:4]), b.volume)
        for b in last.bars
    ]
    one, other = account(), account()
    own = [after(one, each) for each in (*before, last)]
    others = [after(other, each) for each in (*before, step(moved))]
    assert own[:-1] == others[:-1]
    assert (
        [(f.instrument, f.open_time_ms) for f in own[-1].fills]
        == [(f.instrument, f.open_time_ms) for f in others[-1].fills]
        or one.ruined_ms
        or other.ruined_ms
    )


def test_an_instrument_is_a_position_of_its_own_at_each_interval() -> None:
    one = account()
    long = Bar(AAA, "5m", 0, 100.0, 100.0, 100.0, 100.0, 1.0)
    after(one, step([bar(0), long], [told(0, 0.5)]))
    assert [line.interval for line in one.lines] == ["1m", "5m"]
