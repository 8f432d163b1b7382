"""The paper portfolio: what the targets told would have earned, after costs."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantum_ai_engine.events import HIGHEST_PRICE, LOWEST_PRICE

_RUINED = 1e-12  # of the equity at the start: below this nothing is left to trade with
_MOST = 1e12  # above this the book is scaled down, so that nothing ever overflows

_Row = NDArray[np.float64]


class Mark(NamedTuple):
    """A final bar of a series: its open and close, and the exposure wanted at its open.

    `target` is what the last signal before this bar told, a signed fraction of equity; None is no
    order, and what is held stays.
    """

    series: int
    open: float
    close: float
    target: float | None


class Paper(msgspec.Struct, frozen=True):
    """The paper portfolio after a moment.

    `equity` began at 1; `pnl_frac` is what the moment added to it, as a fraction of the equity
    before; `gross_frac` and `net_frac` are the sums of |exposure| and of exposure.
    """

    at_ms: int
    equity: float
    pnl_frac: float
    gross_frac: float
    net_frac: float
    is_ruined: bool


class SavedPortfolio(msgspec.Struct, frozen=True, array_like=True):
    """Ledgers, and per series the units held and the last price, as little-endian float64."""

    at_ms: int
    equity: float
    cash: float
    pnl_frac: float
    units: bytes
    prices: bytes


class PaperPortfolio:
    """Follows the targets of all series from one equity, in fractions of it and never in money.

    At each moment every bar's target is filled at the bar's open, the next one after the signal;
    `cost_bps` of what is traded is paid, fee and slippage together; then all is marked at the
    close. A series without a bar keeps its last price. Where nothing is left the portfolio is
    ruined: equity is 0 and stays, as nobody lends to it.

    >>> portfolio = PaperPortfolio(cost_bps=10.0)
    >>> portfolio.update(60_000, [Mark(0, 100.0, 110.0, 0.5)])
    >>> portfolio.get().equity, portfolio.exposures().round(4).tolist()
    (1.0495, [0.5241])
    """

    def __init__(self, cost_bps: float) -> None:
        self._cost_frac = cost_bps / 10_000.0
        self._at_ms = -1
        self._equity = self._cash = 1.0
        self._pnl_frac = 0.0
        self._units = np.zeros(0)
        self._prices = np.zeros(0)

    @property
    def equity(self) -> float:
        """Of 1 at the start."""
        return self._equity

    @property
    def cash(self) -> float:
        """What is not in positions; below 0 it is borrowed."""
        return self._cash

    def update(self, at_ms: int, marks: Sequence[Mark]) -> None:
        """Take the bars of a moment, in a canonical order, each series at most once.

        Raises ValueError for a moment that is not later than the last.
        """
        if at_ms <= self._at_ms:
            raise ValueError(f"the moment {at_ms} is not after the one before, {self._at_ms}")
        series, opens, closes, targets = _checked(marks)
        self._at_ms = at_ms
        self._pnl_frac = 0.0
        if self._equity > 0.0 and len(series):
            before = self._equity
            self._reserve(int(series.max()) + 1)
            held = self._units, self._prices
            self._equity, self._cash = _trade(
                held, series, (opens, closes, targets), self._cost_frac, (before, self._cash)
            )
            self._pnl_frac = self._equity / before - 1.0
            self._keep_in_scale()

    def get(self) -> Paper:
        """After the last moment; before the first, 1 in cash."""
        held = self.exposures()
        gross, net = _sum(np.abs(held)), _sum(held)
        at_ms, is_ruined = max(self._at_ms, 0), self._equity <= 0.0
        return Paper(at_ms, self._equity, self._pnl_frac, gross, net, is_ruined)

    def exposures(self) -> _Row:
        """What is held of each series [series], as a signed fraction of equity."""
        if self._equity <= 0.0:
            return np.zeros(len(self._units))
        return self._units * self._prices / self._equity

    def saved(self) -> SavedPortfolio:
        """All of it, for `restore`."""
        units, prices = (row.astype("<f8").tobytes() for row in (self._units, self._prices))
        return SavedPortfolio(self._at_ms, self._equity, self._cash, self._pnl_frac, units, prices)

    def restore(self, saved: SavedPortfolio) -> None:
        """Go on from what was `saved`; series have the numbers that they had then."""
        self._at_ms, self._equity, self._cash = saved.at_ms, saved.equity, saved.cash
        self._pnl_frac = saved.pnl_frac
        self._units = np.frombuffer(saved.units, "<f8").astype(np.float64)
        self._prices = np.frombuffer(saved.prices, "<f8").astype(np.float64)

    def _reserve(self, series: int) -> None:
        if (missing := series - len(self._units)) > 0:
            self._units = np.concatenate((self._units, np.zeros(missing)))
            self._prices = np.concatenate((self._prices, np.zeros(missing)))

    def _keep_in_scale(self) -> None:
        """Close the book of who is ruined; scale that of who has more than can be counted."""
        scale = 0.0 if self._equity <= _RUINED else min(1.0, _MOST / self._equity)
        if scale == 0.0:
            self._pnl_frac = -1.0
        if scale < 1.0:
            self._units *= scale
            self._cash *= scale
            self._equity *= scale


def _checked(marks: Sequence[Mark]) -> tuple[NDArray[np.int64], _Row, _Row, _Row]:
    """Columns of the marks [n], no order as NaN. Raises ValueError."""
    if not marks:
        return np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0), np.zeros(0)
    numbers, opens, closes, targets = zip(*marks, strict=True)
    prices = np.array(opens + closes, dtype=np.float64)
    if not (prices.min() >= LOWEST_PRICE and prices.max() <= HIGHEST_PRICE):  # NaN is neither
        raise ValueError("a price of the paper portfolio is not positive and finite")
    wanted = np.array(targets, dtype=np.float64)  # None becomes NaN
    if np.count_nonzero(np.abs(wanted) <= 1.0) + targets.count(None) != len(targets):
        raise ValueError("a target of the paper portfolio is not inside −1 to 1")
    if len(set(numbers)) < len(numbers) or min(numbers) < 0:
        raise ValueError("a series is marked twice in one moment, or its number is below 0")
    n = len(numbers)
    return np.array(numbers, dtype=np.int64), prices[:n], prices[n:], wanted


def _sum(row: _Row) -> float:
    """One after the other: pairwise sums would depend on how numpy was built."""
    return float(row.cumsum()[-1]) if len(row) else 0.0


_jit = njit(error_model="numpy", inline="always")


@_jit
def _marked(held, series, prices):  # type: ignore[no-untyped-def]  # it is compiled
    """What is gained by these prices, one after the other."""
    units, before = held
    gained = 0.0
    for i in range(series.shape[0]):
        place = series[i]
        gained += units[place] * (prices[i] - before[place])
        before[place] = prices[i]
    return gained


def _one_pass(held, series, marks, cost_frac, before):  # type: ignore[no-untyped-def]
    """Mark at the open, fill targets there (NaN: no order), pay for it, and mark at the close.

    From `before` to after: equity and cash. Sums are taken one after the other: pairwise sums
    would depend on how NumPy was built.
    """
    units, _ = held
    opens, closes, targets = marks
    equity, cash = before
    equity += _marked(held, series, opens)
    bought = turned = 0.0
    for i in range(series.shape[0]):
        place = series[i]
        if not math.isnan(targets[i]):
            wanted = targets[i] * max(equity, 0.0) / opens[i]
            traded = (wanted - units[place]) * opens[i]
            bought += traded
            turned += abs(traded)
            units[place] = wanted
    cost = cost_frac * turned
    cash -= bought + cost
    equity -= cost
    equity += _marked(held, series, closes)
    return equity, cash


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_trade = njit(
    "UniTuple(float64, 2)(UniTuple(float64[::1], 2), int64[::1], UniTuple(float64[::1], 3), "
    "float64, UniTuple(float64, 2))",
    cache=True,
    error_model="numpy",
)(_one_pass)
