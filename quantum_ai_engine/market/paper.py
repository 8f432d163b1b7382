"""A paper market: endless synthetic bars from a seed, for demonstrations, tests and load."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import INTERVAL_MS, INTERVALS, Bar
from quantum_ai_engine.market.table import BarTable, Times

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]
Regimes = NDArray[np.int64]

BLOCK_STEPS = 256
MINUTE_MS, DAY_MS = 60_000, 86_400_000
SESSION_MS = (int(13.5 * 3_600_000), 20 * 3_600_000)  # of New York, in summer, UTC

GARCH_SHOCK, GARCH_MEMORY = 0.08, 0.90  # Bollerslev 1986, fitted ranges for intraday returns
TREND_UP, TREND_DOWN, QUIET = range(3)
REGIME_SHARES = (0.4, 0.4, 0.2)
REGIME_STEPS = 90.0  # mean steps between draws of a regime
DRIFT_SIGMAS = 0.28  # drift per step of a trend, in volatilities
BOUNCE = 0.25  # share of the last step's surprise that a quiet market takes back
QUIET_SIGMAS = 0.6
MARKET_WEIGHT = 0.7  # loading on the common factor; its square is the share of variance
JUMP_CHANCE, JUMP_SIGMAS = 1 / 2_500, 6.0
MISSING_CHANCE = 1 / 4_000
OPEN_SIGMAS = 0.1  # an open slips from the last close by so many volatilities
VOLUME_NOISE = 0.4
BUSIEST_MS = 15 * 3_600_000
OVERNIGHT = 0.3  # activity of a symbol outside its session; its first bar opens where that led
LEVEL_SPREAD = 0.35  # long-run standard deviation of a log price around its start, or
LEVEL_SIGMAS = 40.0  # so many volatilities where steps are so long that trends need the room
# Trends that add up widen the long-run variance per step.
TREND_SPREAD = (1.0 + 2.0 * sum(REGIME_SHARES[:2]) * DRIFT_SIGMAS**2 * REGIME_STEPS) ** 0.5


class Listing(NamedTuple):
    """A tradable symbol: its first price, decimals of the tick, volatility and volume a minute."""

    symbol: str
    price: float
    decimals: int
    volatility: float
    volume: float
    has_session: bool = False


LISTINGS = (
    Listing("BTCUSDT", 64_000.0, 2, 0.0006, 20.0),
    Listing("ETHUSDT", 3_200.0, 2, 0.0008, 300.0),
    Listing("AAPL", 190.0, 3, 0.0005, 150_000.0, has_session=True),
    Listing("SOLUSDT", 150.0, 3, 0.0011, 3_000.0),
    Listing("MSFT", 420.0, 3, 0.0005, 60_000.0, has_session=True),
    Listing("BNBUSDT", 580.0, 3, 0.0007, 200.0),
    Listing("XRPUSDT", 0.55, 5, 0.0010, 400_000.0),
    Listing("ADAUSDT", 0.45, 5, 0.0011, 300_000.0),
    Listing("DOGEUSDT", 0.14, 6, 0.0013, 2_000_000.0),
    Listing("LTCUSDT", 82.0, 3, 0.0009, 900.0),
    Listing("LINKUSDT", 14.5, 4, 0.0012, 8_000.0),
    Listing("AVAXUSDT", 35.0, 4, 0.0013, 5_000.0),
)


class PaperMarket:
    """A seeded market whose bars are the same however they are taken.

    Parameters: `seed`; `symbols`, how many; `start_ms`, at or after which the first bar opens;
    `interval`. Both `table` and iteration go on where the last of either stopped.

    What it is made of:
    - volatility clusters: GARCH(1,1) (Bollerslev 1986);
    - trends up and down and quiet times: a Markov chain (Hamilton 1989);
    - the bounce of a quiet market: a negative moving average (Roll 1984);
    - one common factor beside each symbol's own (Sharpe 1963);
    - jumps: a Poisson mixture (Merton 1976);
    - prices that wander around a level: mean reversion (Uhlenbeck and Ornstein 1930);
    - high and low between open and close: extremes of a Brownian bridge (Glasserman 2004, 6.4);
    - busy and calm hours, sessions that open and close busily (Admati and Pfleiderer 1988);
    - volume that rises with the size of the move (Karpoff 1987);
    - bars that are missing at random, and, for AAPL and MSFT, outside their daily session.

    >>> market = PaperMarket(7, symbols=2, start_ms=0)
    >>> market.table(steps=3).symbols
    ('BTCUSDT', 'ETHUSDT')
    >>> next(iter(market)).open_time
    180000
    """

    def __init__(self, seed: int, symbols: int = 8, *, start_ms: int, interval: str = "1m") -> None:
        if symbols < 1:
            raise ValueError(f"symbols = {symbols} is below 1")
        if interval not in INTERVAL_MS:
            raise ValueError(f"interval {interval!r} is not one of {', '.join(INTERVALS)}")
        self._interval = interval
        self._interval_ms = INTERVAL_MS[interval]
        self._next_ms = -(-start_ms // self._interval_ms) * self._interval_ms
        self._drawn_ms = self._next_ms
        self._prices = _Prices(seed, [_listing(place) for place in range(symbols)], interval)
        self._block = _joined(self._prices.symbols, interval, [])
        self._row = 0

    def __iter__(self) -> Iterator[Bar]:
        while True:
            while self._row == len(self._block):
                self._draw()
            bar = self._block.bar(self._row)
            self._row += 1
            open_time = self._block.open_time
            in_step = self._row < len(open_time) and open_time[self._row] == bar.open_time
            self._next_ms = bar.open_time if in_step else bar.close_time
            yield bar

    def table(self, steps: int) -> BarTable:
        """The bars of the next steps; of a step that iteration has begun, the rest."""
        end_ms = self._next_ms + steps * self._interval_ms
        pieces = []
        while self._next_ms < end_ms:
            if self._next_ms == self._drawn_ms:
                self._draw()
            stop = int(np.searchsorted(self._block.open_time, end_ms))
            pieces.append(self._block.rows(self._row, stop))
            self._row = stop
            self._next_ms = min(end_ms, self._drawn_ms)
        return _joined(self._prices.symbols, self._interval, pieces)

    def _draw(self) -> None:
        """Draw the next block; always of one size, so that its bars do not depend on who asks."""
        open_time = self._drawn_ms + np.arange(BLOCK_STEPS) * self._interval_ms  # [steps]
        self._drawn_ms += BLOCK_STEPS * self._interval_ms
        ohlcv, traded = self._prices.draw(open_time)
        step, symbol = np.nonzero(traded)
        self._block = BarTable(
            self._prices.symbols,
            symbol.astype(np.int32),
            self._interval,
            open_time[step],
            ohlcv[step, symbol],
        )
        self._row = 0


class _Prices:
    """All symbols' prices and volumes, a block of steps at a time."""

    def __init__(self, seed: int, listings: Sequence[Listing], interval: str) -> None:
        minutes = INTERVAL_MS[interval] / MINUTE_MS
        self.symbols = tuple(listing.symbol for listing in listings)
        self._interval_ms = INTERVAL_MS[interval]
        self._price: Floats = np.array([listing.price for listing in listings])
        self._ticks: Floats = np.array([10.0**listing.decimals for listing in listings])  # per 1.0
        self._volatility = np.array([listing.volatility for listing in listings]) * minutes**0.5
        self._volume = np.array([listing.volume for listing in listings]) * minutes
        self._has_session = np.array([listing.has_session for listing in listings])
        self._rng = np.random.Generator(np.random.PCG64(seed))
        self._shocks = _Shocks(self._rng, len(listings) + 1)
        self._level = np.zeros(len(listings))  # log of price over first price

    def draw(self, open_time: Times) -> tuple[Floats, Flags]:
        """OHLCV [steps, symbols, 5], and which of these bars are traded [steps, symbols]."""
        activity, in_session = self._activity(open_time)
        shape = activity.shape
        shocks, sigmas = self._shocks.draw(len(open_time))
        own_weight = (1.0 - MARKET_WEIGHT**2) ** 0.5
        scale = self._volatility * activity
        moves = scale * (MARKET_WEIGHT * shocks[:, :1] + own_weight * shocks[:, 1:])
        spread = scale * np.hypot(MARKET_WEIGHT * sigmas[:, :1], own_weight * sigmas[:, 1:])
        jumps = self._rng.random(shape) < JUMP_CHANCE
        moves += jumps * JUMP_SIGMAS * spread * self._rng.standard_normal(shape)
        before, close = self._wander(moves)
        open_ = before + OPEN_SIGMAS * spread * self._rng.standard_normal(shape)
        rise, fall = (self._excursion(close - open_, spread) for _ in range(2))
        middle = (open_ + close) / 2.0
        levels = np.stack([open_, middle + rise, middle - fall, close], axis=-1)  # […, 4]
        noise = np.exp(VOLUME_NOISE * self._rng.standard_normal(shape))
        volume = self._volume * activity * noise * (0.5 + np.abs(moves) / self._volatility)
        ohlcv = np.concatenate([self._rounded(levels), np.round(volume, 3)[..., None]], axis=-1)
        return ohlcv, in_session & (self._rng.random(shape) >= MISSING_CHANCE)

    def _activity(self, open_time: Times) -> tuple[Floats, Flags]:
        """How busy each symbol is around 1, and whether it trades at all [steps, symbols]."""
        time_ms = (open_time % DAY_MS)[:, None]
        start_ms, end_ms = SESSION_MS
        around_the_clock = 1.0 + 0.35 * np.cos(2.0 * np.pi * (time_ms - BUSIEST_MS) / DAY_MS)
        in_session = (time_ms < end_ms) & (time_ms + self._interval_ms > start_ms)
        part = np.clip((time_ms - start_ms) / (end_ms - start_ms), 0.0, 1.0)  # of the session
        session = np.where(in_session, 0.7 + 0.9 * np.square(2.0 * part - 1.0), OVERNIGHT)
        return (
            np.where(self._has_session, session, around_the_clock),
            ~self._has_session | in_session,
        )

    def _wander(self, moves: Floats) -> tuple[Floats, Floats]:
        """The levels before and after each move, drawn back towards 0."""
        level_spread = np.maximum(LEVEL_SPREAD, LEVEL_SIGMAS * self._volatility)
        keep = 1.0 - np.square(TREND_SPREAD * self._volatility / level_spread) / 2.0
        levels = np.empty((len(moves) + 1, moves.shape[1]))
        levels[0] = self._level
        for step, move in enumerate(moves):
            levels[step + 1] = levels[step] * keep + move
        self._level = levels[-1]
        return levels[:-1], levels[1:]

    def _excursion(self, move: Floats, spread: Floats) -> Floats:
        """How far a bridge over this move strays from its middle, to one side."""
        log_chance = np.log1p(-self._rng.random(move.shape))
        return 0.5 * np.sqrt(np.square(move) - 2.0 * np.square(spread) * log_chance)

    def _rounded(self, levels: Floats) -> Floats:
        """Prices in whole ticks, one at least; levels are [steps, symbols, 4]."""
        ticks = self._ticks[:, None]
        counts = np.rint(self._price[:, None] * np.exp(levels) * ticks)
        return np.maximum(counts, 1.0) / ticks


class _Shocks:
    """Independent series of returns in volatilities, with regimes and clusters, one per column."""

    def __init__(self, rng: np.random.Generator, series: int) -> None:
        self._rng = rng
        self._regime = rng.choice(len(REGIME_SHARES), series, p=REGIME_SHARES)
        self._variance = np.ones(series)
        self._surprise = np.zeros(series)

    def draw(self, steps: int) -> tuple[Floats, Floats]:
        """The shocks and the volatility of each [steps, series]."""
        shape = (steps, len(self._variance))
        regime = self._regimes(shape)
        normal = self._rng.standard_normal(shape)
        quiet = regime == QUIET
        sigma = self._volatility(normal) * np.where(quiet, QUIET_SIGMAS, 1.0)
        surprise = np.vstack([self._surprise[None], sigma * normal])
        self._surprise = surprise[-1]
        drift = DRIFT_SIGMAS * ((regime == TREND_UP) * 1.0 - (regime == TREND_DOWN))
        return surprise[1:] + drift * sigma - quiet * BOUNCE * surprise[:-1], sigma

    def _regimes(self, shape: tuple[int, int]) -> Regimes:
        drawn = self._rng.choice(len(REGIME_SHARES), shape, p=REGIME_SHARES)
        switched = self._rng.random(shape) < 1.0 / REGIME_STEPS
        steps = np.arange(1, shape[0] + 1)[:, None]
        since = np.maximum.accumulate(np.where(switched, steps, 0))  # 0: from before
        regime = np.take_along_axis(np.vstack([self._regime[None], drawn]), since, axis=0)
        self._regime = regime[-1]
        return regime

    def _volatility(self, normal: Floats) -> Floats:
        growth = GARCH_SHOCK * np.square(normal) + GARCH_MEMORY
        variances = np.empty_like(normal)
        variance = self._variance
        for step, factor in enumerate(growth):
            variances[step] = variance
            variance = 1.0 - GARCH_SHOCK - GARCH_MEMORY + factor * variance
        self._variance = variance
        return np.sqrt(variances)


def _listing(place: int) -> Listing:
    """The known symbols first, then invented ones that behave like them."""
    like = LISTINGS[place % len(LISTINGS)]
    invented = like._replace(symbol=f"PAPER{place}USDT", has_session=False)
    return like if place < len(LISTINGS) else invented


def _joined(symbols: tuple[str, ...], interval: str, pieces: Sequence[BarTable]) -> BarTable:
    if not pieces:
        empty = np.empty(0, np.int64)
        return BarTable(symbols, empty.astype(np.int32), interval, empty, np.empty((0, 5)))
    return BarTable(
        symbols,
        np.concatenate([piece.symbol_index for piece in pieces]),
        interval,
        np.concatenate([piece.open_time for piece in pieces]),
        np.concatenate([piece.ohlcv for piece in pieces]),
    )
