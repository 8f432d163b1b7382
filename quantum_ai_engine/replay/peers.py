"""What a result is compared with: holding everything, doing nothing, and signs by chance."""

import math
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar
from quantum_ai_engine.replay.account import Mark, Move
from quantum_ai_engine.replay.streams import Moments

_STEPS_AT_ONCE = 1_024
_MOVES_AT_ONCE = 8_192
_TOSSED_AT_ONCE = 256

Vector = NDArray[np.float64]


class Held(msgspec.Struct, frozen=True):
    """What buying and holding came to; fractions, and a Sharpe ratio of a bar."""

    symbols: int
    total_return: float
    sharpe_per_bar: float
    max_drawdown: float


class _Holding:
    __slots__ = ("first", "newest_ms", "price", "units")

    def __init__(self, price: float) -> None:
        self.units = 1.0 / price
        self.first = self.price = price
        self.newest_ms = -1


class BuyAndHold:
    """Every symbol is bought for the same sum at the first open that is seen, and kept.

    A symbol that comes later brings its own sum, so that it changes no return by itself. The cost
    is paid once. The instruments of `families` that stand for their base are left out.
    """

    def __init__(self, cost_bps: float, families: Mapping[str, Mapping[str, float]]) -> None:
        self._cost_frac = cost_bps / 10_000.0
        self._without = {name for base, f in families.items() for name in f if name != base}
        self._held: dict[tuple[str, str], _Holding] = {}
        self._worth = 0.0
        self._index = self._peak = 1.0
        self._drawdown = 0.0
        self._returns: list[float] = []
        self._moments = Moments()

    def update(self, bars: Sequence[Bar]) -> None:
        """Take the bars of a step."""
        put_in = gained = 0.0
        for bar in bars:
            one = self._held.get((bar.symbol, bar.interval))
            if one is None:
                if bar.symbol in self._without:
                    continue
                one = self._held[bar.symbol, bar.interval] = _Holding(bar.open)
                put_in += 1.0
                gained -= self._cost_frac
            if bar.open_time > one.newest_ms:
                gained += one.units * (bar.close - one.price)
                one.price, one.newest_ms = bar.close, bar.open_time
        if (began_with := self._worth + put_in) <= 0.0:
            return
        change = gained / began_with
        self._worth = began_with + gained
        self._index *= 1.0 + change
        self._peak = max(self._peak, self._index)
        self._drawdown = max(self._drawdown, 1.0 - self._index / self._peak)
        self._returns.append(change)
        if len(self._returns) >= _STEPS_AT_ONCE:
            self._flush()

    @property
    def index(self) -> float:
        """What one unit of money is worth now."""
        return self._index

    def of(self, symbol: str, interval: str) -> float | None:
        """What holding this one alone returned, before costs."""
        one = self._held.get((symbol, interval))
        return one.price / one.first - 1.0 if one else None

    def get(self) -> Held:
        self._flush()
        m = self._moments
        sharpe = m.mean / m.deviation if m.deviation else 0.0
        return Held(len(self._held), self._index - 1.0, sharpe, self._drawdown)

    def _flush(self) -> None:
        self._moments.update(np.array(self._returns))
        self._returns.clear()


class Chance(msgspec.Struct, frozen=True):
    """Accounts with the same positions and costs, whose sides were tossed.

    `percentile` is the share of them that returned less than the account did, equals counted half.
    `trades` have been tossed.
    """

    draws: int
    trades: int
    mean_return: float
    low: float
    high: float
    percentile: float
    sharpe_percentile: float


class RandomSigns:
    """Many accounts that hold what the account holds, each trade long or short by a coin.

    They trade as much, as often and at the same costs, and know nothing: where the account is not
    above most of them, its signals chose their sides no better than coins. Only the return of a
    market that rose all along they lack as well; for that look at buy-and-hold.

    Parameters: `draws`, accounts; `seed` of the coins.
    """

    def __init__(self, draws: int, seed: int) -> None:
        self._draws = draws
        self._random = np.random.default_rng(seed)
        self._coins, self._tossed = np.zeros((0, draws), np.int8), 0
        self._signs: dict[int, tuple[int, NDArray[np.int8]]] = {}  # by place: trade, signs
        self._trades = self._steps = 0
        self._logs, self._sum, self._squares = np.zeros((3, draws))
        self._own = np.zeros(3)
        self._rows: list[tuple[int, NDArray[np.int8], float]] = []
        self._paid: list[float] = []

    def update(self, mark: Mark) -> None:
        """Take the account after a step."""
        if mark.before <= 0.0:
            return
        at = len(self._paid)
        self._paid.append((mark.cost + mark.borrow) / mark.before)
        for move in mark.moves:
            self._rows.append((at, self._signs_of(move), move.pnl / mark.before))
        if len(self._paid) >= _STEPS_AT_ONCE or len(self._rows) >= _MOVES_AT_ONCE:
            self._flush()

    def get(self) -> Chance | None:
        """None until there was a trade."""
        self._flush()
        if not self._trades:
            return None
        totals = np.expm1(self._logs)
        low, high = np.quantile(totals, (0.05, 0.95))
        return Chance(
            self._draws,
            self._trades,
            float(totals.mean()),
            float(low),
            float(high),
            _below(self._logs, self._own[0]),
            _below(_sharpe(self._sum, self._squares, self._steps), self._own_sharpe()),
        )

    def _own_sharpe(self) -> float:
        return float(_sharpe(self._own[1:2], self._own[2:], self._steps)[0])

    def _signs_of(self, move: Move) -> NDArray[np.int8]:
        known = self._signs.get(move.place)
        if known is None or known[0] != move.trade:
            known = self._signs[move.place] = move.trade, self._toss()
            self._trades += 1
        return known[1]

    def _toss(self) -> NDArray[np.int8]:
        """A side of one trade for each account; many are tossed at once."""
        if self._tossed == len(self._coins):
            coins = self._random.integers(0, 2, (_TOSSED_AT_ONCE, self._draws), dtype=np.int8)
            self._coins, self._tossed = 2 * coins - 1, 0
        toss: NDArray[np.int8] = self._coins[self._tossed]
        self._tossed += 1
        return toss

    def _flush(self) -> None:
        if not self._paid:
            return
        steps = len(self._paid)
        gains, own = np.zeros((steps, self._draws)), np.zeros(steps)
        if self._rows:
            at = np.array([row[0] for row in self._rows])
            pnl = np.array([row[2] for row in self._rows])
            starts = np.flatnonzero(np.append(True, at[1:] != at[:-1]))
            tossed = np.stack([row[1] for row in self._rows]) * pnl[:, np.newaxis]
            gains[at[starts]] = np.add.reduceat(tossed, starts, axis=0)
            own[at[starts]] = np.add.reduceat(pnl, starts)
        paid = np.array(self._paid)
        returns = np.maximum(np.column_stack((gains, own)) - paid[:, np.newaxis], -1.0)
        with np.errstate(divide="ignore"):
            logs = np.log1p(returns).sum(axis=0)
        sums, squares = returns.sum(axis=0), (returns * returns).sum(axis=0)
        self._logs += logs[:-1]
        self._sum += sums[:-1]
        self._squares += squares[:-1]
        self._own += (logs[-1], sums[-1], squares[-1])
        self._steps += steps
        self._rows.clear()
        self._paid.clear()


def _sharpe(sums: Vector, squares: Vector, count: int) -> Vector:
    mean = sums / count
    spread = np.sqrt(np.maximum(squares / count - mean * mean, 0.0))
    return np.where(spread > 0.0, mean / np.where(spread > 0.0, spread, 1.0), 0.0)


def _below(values: Vector, own: float) -> float:
    if math.isnan(own):
        return 0.5
    return float((values < own).mean() + (values == own).mean() / 2.0)
