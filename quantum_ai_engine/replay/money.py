"""What the signals were worth: return, risk, costs, by block, by month and by instrument."""

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.replay.account import Account, Mark
from quantum_ai_engine.replay.clock import Clock
from quantum_ai_engine.replay.luck import Bootstrapped, Deflated, bootstrap, deflated_sharpe
from quantum_ai_engine.replay.peers import BuyAndHold, Chance, Held
from quantum_ai_engine.replay.streams import Moments, Stretches

STEPS_AT_ONCE = 1_024
STRETCHES = 4_096
Vector = NDArray[np.float64]
EquityRows = Callable[[NDArray[np.int64], Vector], None]


class Block(msgspec.Struct, frozen=True):
    """A block of the replay: when its first bar opened, and what it returned, a fraction."""

    first_ms: int
    bars: int
    total_return: float


class Blocks(msgspec.Struct, frozen=True):
    """The returns of blocks: `rpb` is their mean, `mrb` the compounded return over their number.

    `sharpe` is annualised by how many blocks a year has; None of fewer than two blocks.
    """

    count: int
    rpb: float
    mrb: float
    sharpe: float | None
    best: float
    worst: float
    positive_frac: float


class Month(msgspec.Struct, frozen=True):
    """A month of UTC and its return, a fraction."""

    year: int
    month: int
    total_return: float


class PerLine(msgspec.Struct, frozen=True):
    """What one instrument did: money before costs, costs, and round trips that ended.

    `turnover` is what was traded of it, in multiples of the capital; `hold_return` what holding it
    returned before costs, None of an instrument that stands for another.
    """

    instrument: str
    interval: str
    pnl: float
    cost: float
    turnover: float
    fills: int
    trades: int
    win_frac: float | None
    hold_return: float | None


class Worth(msgspec.Struct, frozen=True):
    """What the account came to. All are fractions but where their names say otherwise.

    Ratios are annualised by `bars_per_year`; volatility too. `turnover_per_year` is what was traded
    in multiples of equity. `max_drawdown` is over the whole run, at closes. `imbalance` is what the
    books are off by, in money.
    """

    capital: float
    equity: float
    total_return: float
    cagr: float | None
    volatility: float
    sharpe: float
    sharpe_per_bar: float
    skewness: float
    kurtosis: float
    sortino: float | None
    max_drawdown: float
    max_drawdown_ms: int
    calmar: float | None
    bars: int
    bars_per_year: float
    years: float
    has_sessions: bool
    turnover: float
    turnover_per_year: float
    gross_mean: float
    gross_max: float
    net_mean: float
    in_market_frac: float
    costs: float
    borrowed: float
    costs_frac: float
    fills: int
    trades: int
    win_frac: float | None
    cut: int
    late: int
    ignored: int
    ruined_ms: int | None
    written_off: float
    imbalance: float


class Money(msgspec.Struct, frozen=True):
    """All that is said of money; see docs/backtest.md."""

    worth: Worth
    blocks: Blocks | None
    months: tuple[Month, ...]
    lines: tuple[PerLine, ...]
    hold: Held
    flat_return: float
    chance: Chance | None
    bootstrap: Bootstrapped | None
    deflated: Deflated


class Purse:
    """Follows an account: what is needed to say what it was worth, in bounded memory.

    Parameters: `account`; `clock`; `rows`, who is given times [n] and equity, cash, gross, net and
    drawdown [n, 5] some at a time, to write them.
    """

    def __init__(self, account: Account, clock: Clock, rows: EquityRows) -> None:
        self._account, self._clock, self._rows = account, clock, rows
        self.moments = Moments()
        # By stretch: log return, gross and net exposure; the deepest drawdown; the last equity,
        # and the last index of holding everything.
        self.stretches = Stretches(STRETCHES, sums=3, highs=1, lasts=2)
        self.blocks: list[Block] = []
        self.months: list[Month] = []
        self._buffer: list[tuple[float, ...]] = []
        self._times: list[int] = []
        self._equity = self._peak = account.capital
        self._deepest = (0.0, 0)
        self._losses = self._traded = 0.0
        self._sums = np.zeros(3)  # gross, net, steps with a position
        self._gross_max = 0.0
        self._block: tuple[int, int, int, float] | None = None  # number, first, bars, equity
        self._month: tuple[int, int, float] | None = None
        self._month_ends_ms = -1

    def update(self, mark: Mark, block: int, held: float) -> None:
        """Take the account after a step, in a block of this number.

        `held` is what one unit of money that holds everything is worth then.
        """
        self._turn_block(mark, block)
        if mark.open_time_ms >= self._month_ends_ms:
            self._turn_month(mark)
        self._times.append(mark.open_time_ms)
        self._buffer.append(
            (mark.before, mark.equity, mark.cash, mark.gross, mark.net, mark.traded, held)
        )
        if len(self._times) >= STEPS_AT_ONCE:
            self.flush()

    def flush(self) -> None:
        """Take what waits into the sums, and hand it on."""
        if not self._times:
            return
        times = np.array(self._times, dtype=np.int64)
        before, equity, cash, gross, net, traded, index = np.array(self._buffer).T
        self._times.clear()
        self._buffer.clear()
        begun = np.where(before > 0.0, before, np.inf)
        returns = np.where(before > 0.0, equity / begun - 1.0, 0.0)
        self.moments.update(returns)
        self._losses += float((np.minimum(returns, 0.0) ** 2).sum())
        self._traded += float((traded / begun).sum())
        peaks = np.maximum(np.maximum.accumulate(equity), self._peak)
        drawdown = 1.0 - equity / peaks
        worst = int(drawdown.argmax())
        if drawdown[worst] > self._deepest[0]:
            self._deepest = float(drawdown[worst]), int(times[worst])
        self._peak, self._equity = float(peaks[-1]), float(equity[-1])
        held = np.where(equity > 0.0, equity, np.inf)
        exposure, lean = gross / held, net / held
        self._sums += (exposure.sum(), lean.sum(), np.count_nonzero(gross))
        self._gross_max = max(self._gross_max, float(exposure.max()))
        logs = np.log1p(np.maximum(returns, -1.0 + 1e-15))
        self.stretches.update(
            times, np.column_stack((logs, exposure, lean, drawdown, equity, index))
        )
        self._rows(times, np.column_stack((equity, cash, gross, net, drawdown)))

    def worth(self) -> Worth:
        """What the account came to."""
        self.flush()
        a, m, per_year = self._account, self.moments, self._clock.bars_per_year()
        steps = max(m.count, 1)
        total = self._equity / a.capital - 1.0
        years = m.count / per_year if per_year else 0.0
        cagr = _cagr(total, years)
        downside = math.sqrt(self._losses / steps)
        sharpe = m.mean / m.deviation if m.deviation else 0.0
        yearly = math.sqrt(per_year)
        trades, wins = sum(x.trades for x in a.lines), sum(x.wins for x in a.lines)
        gross, net, held = (self._sums / steps).tolist()
        return Worth(
            capital=a.capital,
            equity=self._equity,
            total_return=total,
            cagr=cagr,
            volatility=m.deviation * yearly,
            sharpe=sharpe * yearly,
            sharpe_per_bar=sharpe,
            skewness=m.skewness,
            kurtosis=m.kurtosis,
            sortino=m.mean / downside * yearly if downside else None,
            max_drawdown=self._deepest[0],
            max_drawdown_ms=self._deepest[1],
            calmar=cagr / self._deepest[0] if cagr is not None and self._deepest[0] else None,
            bars=m.count,
            bars_per_year=per_year,
            years=years,
            has_sessions=self._clock.has_sessions,
            turnover=self._traded,
            turnover_per_year=self._traded / years if years else 0.0,
            gross_mean=gross,
            gross_max=self._gross_max,
            net_mean=net,
            in_market_frac=held,
            costs=a.costs,
            borrowed=a.borrowed,
            costs_frac=(a.costs + a.borrowed) / a.capital,
            fills=sum(x.fills for x in a.lines),
            trades=trades,
            win_frac=wins / trades if trades else None,
            cut=a.cut,
            late=a.late,
            ignored=a.ignored,
            ruined_ms=a.ruined_ms,
            written_off=a.written_off,
            imbalance=a.imbalance(),
        )

    def closed_blocks(self) -> list[Block]:
        """All blocks, with the last one as it is."""
        return [*self.blocks, *self._open_block()]

    def closed_months(self) -> list[Month]:
        """All months, with the last one as it is."""
        return [*self.months, *self._open_month()]

    def _turn_block(self, mark: Mark, block: int) -> None:
        if self._block is None or self._block[0] != block:
            self.blocks += self._open_block(mark.before)
            self._block = block, mark.open_time_ms, 0, mark.before
        number, first_ms, bars, equity = self._block
        self._block = number, first_ms, bars + 1, equity

    def _open_block(self, equity: float | None = None) -> list[Block]:
        if self._block is None:
            return []
        _, first_ms, bars, began = self._block
        return [Block(first_ms, bars, _gain(began, self._now(equity)))]

    def _turn_month(self, mark: Mark) -> None:
        self.months += self._open_month(mark.before)
        day = datetime.fromtimestamp(mark.open_time_ms / 1000, UTC)
        self._month = day.year, day.month, mark.before
        after = datetime(day.year + day.month // 12, day.month % 12 + 1, 1, tzinfo=UTC)
        self._month_ends_ms = int(after.timestamp() * 1000)

    def _open_month(self, equity: float | None = None) -> list[Month]:
        if self._month is None:
            return []
        year, month, began = self._month
        return [Month(year, month, _gain(began, self._now(equity)))]

    def _now(self, equity: float | None) -> float:
        if equity is not None:
            return equity
        return self._buffer[-1][1] if self._buffer else self._equity


def money(
    account: Account, purse: Purse, hold: BuyAndHold, chance: Chance | None, luck: "Luck"
) -> Money:
    """All that is said of the money of a run that has ended."""
    worth = purse.worth()
    return Money(
        worth,
        block_figures(purse.closed_blocks(), worth.years),
        tuple(purse.closed_months()),
        tuple(_per_line(account, hold)),
        hold.get(),
        0.0,
        chance,
        _bootstrap(purse, worth, luck),
        deflated_sharpe(purse.moments, luck.others),
    )


class Luck(NamedTuple):
    """How luck is measured: draws and seed, and the Sharpe ratios of a bar of the other runs."""

    draws: int
    seed: int
    others: Sequence[float] = ()


def block_figures(blocks: Sequence[Block], years: float) -> Blocks | None:
    """The figures of blocks in `years` of trading; None without a block.

    >>> found = block_figures([Block(0, 2, 0.1), Block(1, 2, -0.1)], 1.0)
    >>> round(found.rpb, 6), round(found.mrb, 6), found.positive_frac
    (0.0, -0.005, 0.5)
    """
    if not blocks:
        return None
    returns = np.array([block.total_return for block in blocks])
    deviation = float(returns.std(ddof=1)) if len(returns) > 1 else 0.0
    per_year = len(returns) / years if years else 0.0
    return Blocks(
        len(blocks),
        float(returns.mean()),
        float(np.prod(1.0 + returns) - 1.0) / len(returns),
        float(returns.mean()) / deviation * math.sqrt(per_year) if deviation else None,
        float(returns.max()),
        float(returns.min()),
        float((returns > 0.0).mean()),
    )


def _bootstrap(purse: Purse, worth: Worth, luck: Luck) -> Bootstrapped | None:
    stretches = purse.stretches
    returns = np.expm1(stretches.values[:, 0])
    per_year = worth.bars_per_year / stretches.rows
    return bootstrap(returns, per_year, luck.draws, luck.seed)


def _per_line(account: Account, hold: BuyAndHold) -> list[PerLine]:
    return [
        PerLine(
            line.instrument,
            line.interval,
            line.pnl,
            line.cost,
            line.traded / account.capital,
            line.fills,
            line.trades,
            line.wins / line.trades if line.trades else None,
            hold.of(line.instrument, line.interval),
        )
        for line in sorted(account.lines, key=lambda one: (one.instrument, one.interval))
    ]


def _gain(began: float, ended: float) -> float:
    return ended / began - 1.0 if began > 0.0 else 0.0


def _cagr(total: float, years: float) -> float | None:
    """None where there is no time, or where it would not be a number that anybody can read."""
    if years <= 0.0:
        return None
    if total <= -1.0:
        return -1.0
    exponent = math.log1p(total) / years
    return math.expm1(exponent) if exponent < 50.0 else None
