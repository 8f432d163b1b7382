"""The account: targets become positions at the next bar's open, and all that costs is paid."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from quantum_ai_engine.config import ReplaySettings
from quantum_ai_engine.events import Bar, Holding, Signal
from quantum_ai_engine.replay.step import Step
from quantum_ai_engine.risk.sizing import YEAR_MS
from quantum_ai_engine.state.told import Order, Told

RUINED_FRAC = 1e-12  # of the capital: below this nothing is left to trade with
_LOT_SLACK = 1e-9  # of a lot: 0.3 / 0.1 is a little less than 3
_IMBALANCE_FRAC = 1e-6  # of the largest equity: more than rounding can explain


class Fill(NamedTuple):
    """A trade at the open of a bar: `units` and `notional` are signed, `cost` is fee and slippage.

    `target` is the fraction of equity that was wanted; `notional` is units × price, in money.
    """

    instrument: str
    interval: str
    open_time_ms: int
    price: float
    units: float
    notional: float
    cost: float
    target: float


class Move(NamedTuple):
    """What a position gained in a step, in money; a new `trade` begins where its side changes."""

    place: int
    trade: int
    pnl: float


class Mark(NamedTuple):
    """The account after a step, in money.

    `gross` and `net` are the sums of |position| and of position; `traded`, `cost` and `borrow` are
    those of the step alone.
    """

    open_time_ms: int
    before: float
    equity: float
    cash: float
    gross: float
    net: float
    traded: float
    cost: float
    borrow: float
    moves: tuple[Move, ...]
    fills: tuple[Fill, ...]


@dataclass(slots=True)
class Line:
    """An instrument at an interval: what is held of it, and what it did to the account so far.

    `trades` are round trips that ended, of which `wins` ended above 0 after their costs; `pnl` is
    before costs. A `price` of 0 is one that never came.
    """

    instrument: str
    interval: str
    lot: float | None = None
    units: float = 0.0
    price: float = 0.0
    order: Order | None = None
    newest_ms: int = -1
    trade: int = 0
    trade_pnl: float = 0.0
    pnl: float = 0.0
    cost: float = 0.0
    traded: float = 0.0
    fills: int = 0
    trades: int = 0
    wins: int = 0

    def mark(self, price: float) -> float:
        """Take a price; what was gained since the last one."""
        if not self.units:
            self.price = price
            return 0.0
        pnl = self.units * (price - self.price)
        self.price = price
        self.pnl += pnl
        self.trade_pnl += pnl
        return pnl

    def whole(self, units: float) -> float:
        """As many units as whole lots allow, never more than asked for."""
        if self.lot is None:
            return units
        return math.trunc(units / self.lot + math.copysign(_LOT_SLACK, units)) * self.lot

    def fill(self, units: float, cost: float) -> bool:
        """Trade so many units; whether another trade begins with it."""
        after = self.units + units
        is_another = (after > 0.0) != (self.units > 0.0) or (after < 0.0) != (self.units < 0.0)
        self.cost += cost
        self.traded += abs(units * self.price)
        self.fills += 1
        self.trade_pnl -= cost
        if is_another and self.units:
            self.trades += 1
            self.wins += self.trade_pnl > 0.0
        if is_another:
            self.trade_pnl = 0.0
        self.units = after
        return is_another


class _Wish(NamedTuple):
    line: Line
    place: int
    target: float
    units: float


_Due = tuple[Bar, int, Line]  # a bar that is newer than all before it, and whose it is


class Account:
    """Money that follows the signals: what a subscriber would own that does as it is told.

    A target told on a bar is filled at the open of the instrument's next bar; one that expired by
    then counts as flat, and an amended signal takes the place of the one it amends. What lowers
    exposure is filled first, then sales, then purchases; what would lift gross exposure above the
    leverage is cut. An instrument without a bar is not traded and keeps its price. Where nothing is
    left the account is ruined: all is closed, and what is owed beyond it is `written_off`.

    Parameters: `settings`, costs, lots and leverage; `families`, see `RiskSettings.families`.
    """

    def __init__(
        self, settings: ReplaySettings, families: Mapping[str, Mapping[str, float]]
    ) -> None:
        self.capital = settings.capital
        self.lines: list[Line] = []
        self.costs = self.borrowed = self.written_off = 0.0
        self.late = self.cut = self.ignored = 0
        self.ruined_ms: int | None = None
        self._cost_frac = (settings.fee_bps + settings.slippage_bps) / 10_000.0
        self._short_frac = settings.short_borrow_bps_per_year / 10_000.0
        self._cash_frac = settings.cash_borrow_bps_per_year / 10_000.0
        self._leverage = settings.leverage
        self._lots = settings.lot_sizes()
        self._instead = {name for base, family in families.items() for name in family} - {*families}
        self._places: dict[tuple[str, str], int] = {}
        self._told = Told()
        self._held: dict[int, Line] = {}
        self._cash = self._equity = self._highest = settings.capital
        self._at_ms = -1
        self._trades = 0
        self._mark: Mark | None = None

    def take(self, step: Step) -> None:
        """Fill what was told before, at these bars' opens; mark at their closes; then listen."""
        due = list[_Due]()
        for bar in step.bars:
            place = self._place(bar.symbol, bar.interval)
            line = self.lines[place]
            # The past cannot be traded.
            if bar.open_time > line.newest_ms and bar.open_time >= self._at_ms:
                line.newest_ms = bar.open_time
                due.append((bar, place, line))
        self.late += len(step.bars) - len(due)
        self._mark = self._move(step.open_time_ms, due) if due else None
        for signal in step.told.signals:
            self._note(signal)

    def get(self) -> Mark | None:
        """The account after the last step; None where that brought no new price."""
        return self._mark

    def imbalance(self) -> float:
        """Gains − costs − interest − (equity − capital), in money: 0 but for rounding."""
        gained = sum(line.pnl for line in self.lines) - self.costs - self.borrowed
        return gained + self.written_off - (self._equity - self.capital)

    def check(self) -> None:
        """Raises ArithmeticError when the books do not balance."""
        if not abs(self.imbalance()) <= _IMBALANCE_FRAC * self._highest:
            raise ArithmeticError(
                f"the account of the replay is out of balance by {self.imbalance()} of "
                f"{self._equity}; this is a defect, please report it"
            )

    def _place(self, instrument: str, interval: str) -> int:
        place = self._places.get((instrument, interval))
        if place is None:
            place = self._places[instrument, interval] = len(self.lines)
            self.lines.append(Line(instrument, interval, self._lots.get(instrument)))
            self._told.reserve(len(self.lines))
        return place

    def _note(self, signal: Signal) -> None:
        """Remember what a signal wants of each of its instruments: the newest alone counts."""
        if signal.symbol in self._instead:
            self.ignored += 1  # it is held in its base's place, or not at all
            return
        for one in signal.holdings or (Holding(signal.symbol, signal.target),):
            line = self.lines[self._place(one.instrument, signal.interval)]
            if line.order is None or line.order.close_time <= signal.close_time:
                line.order = Order(signal.close_time, one.target, one.target, signal.valid_until)

    def _move(self, at_ms: int, due: Sequence[_Due]) -> Mark:
        before, moves = self._equity, list[Move]()
        borrow = self._charge(at_ms)
        for bar, place, line in due:
            if pnl := line.mark(bar.open):
                moves.append(Move(place, line.trade, pnl))
        self._value(at_ms)
        fills = tuple(self._trade(due))
        for bar, place, line in due:
            if pnl := line.mark(bar.close):
                moves.append(Move(place, line.trade, pnl))
        gross, net = self._value(at_ms)
        traded, cost = sum(abs(one.notional) for one in fills), sum(one.cost for one in fills)
        return Mark(
            at_ms, before, self._equity, self._cash, gross, net, traded, cost, borrow,
            tuple(moves), fills,
        )  # fmt: skip

    def _charge(self, at_ms: int) -> float:
        """Interest since the last step, on what is held short and on cash below 0."""
        passed_ms = at_ms - self._at_ms if self._at_ms >= 0 else 0
        self._at_ms = at_ms
        if not (self._short_frac or self._cash_frac) or not self._held:
            return 0.0
        shorts = sum(max(-line.units * line.price, 0.0) for line in self._held.values())
        owed = shorts * self._short_frac + max(-self._cash, 0.0) * self._cash_frac
        interest = owed * passed_ms / YEAR_MS
        self._cash -= interest
        self.borrowed += interest
        return interest

    def _value(self, at_ms: int) -> tuple[float, float]:
        """Set the equity: cash and positions at their last prices; gross and net of these."""
        gross = net = 0.0
        for line in self._held.values():
            position = line.units * line.price
            net += position
            gross += abs(position)
        self._equity = self._cash + net
        self._highest = max(self._highest, self._equity)
        if self._equity > RUINED_FRAC * self.capital or self.ruined_ms is not None:
            return gross, net
        self._close_all(at_ms)
        return 0.0, 0.0

    def _close_all(self, at_ms: int) -> None:
        """Nothing is left: the positions are gone, and who lent the rest has lost it."""
        for line in self._held.values():
            line.fill(-line.units, 0.0)
            line.units = 0.0
        self._held.clear()
        self.ruined_ms = at_ms
        self.written_off -= self._equity
        self._cash = self._equity = 0.0

    def _trade(self, due: Sequence[_Due]) -> Iterator[Fill]:
        """Fill what is due at these opens; after ruin nothing is."""
        if self.ruined_ms is not None:
            return
        wishes = []
        for bar, place, line in due:
            target = self._target(place, line, bar)
            if target is not None:
                units = line.whole(target * self._equity / bar.open)
                if units != line.units:
                    wishes.append(_Wish(line, place, target, units))
        if not wishes:
            return
        gross = sum(abs(line.units) * line.price for line in self._held.values())
        for wish in sorted(wishes, key=_urgency):
            fill = self._fill(wish, self._leverage * self._equity - gross)
            if fill is not None:
                gross += (abs(wish.line.units) - abs(wish.line.units - fill.units)) * fill.price
                yield fill

    def _target(self, place: int, line: Line, bar: Bar) -> float | None:
        """The target to be filled at the open of a bar; None where nothing is to be done."""
        if line.order is not None:
            self._told.take(place, line.order)
            line.order = None
        return self._told.order(place, bar)

    def _fill(self, wish: _Wish, room: float) -> Fill | None:
        """Trade towards a wish as far as gross exposure may grow, `room` in money."""
        line, wanted = wish.line, wish.units
        if (abs(wanted) - abs(line.units)) * line.price > room:
            most = abs(line.units) + max(room, 0.0) / line.price
            self.cut += 1
            wanted = line.whole(math.copysign(min(abs(wanted), most), wanted))
        units = wanted - line.units
        if units == 0.0:
            return None
        notional = units * line.price
        cost = self._cost_frac * abs(notional)
        self._cash -= notional + cost
        self.costs += cost
        if line.fill(units, cost):
            self._trades += 1
            line.trade = self._trades
        line.units = wanted  # and not what rounding makes of the sum
        if wanted:
            self._held[wish.place] = line
        else:
            self._held.pop(wish.place, None)
        return Fill(
            line.instrument, line.interval, self._at_ms, line.price, units, notional, cost,
            wish.target,
        )  # fmt: skip


def _urgency(wish: _Wish) -> int:
    """What lowers exposure first, then sales, then purchases."""
    line = wish.line
    if abs(wish.units) < abs(line.units) and wish.units * line.units >= 0.0:
        return 0
    return 1 if wish.units < line.units else 2
