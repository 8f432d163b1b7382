"""Bars of many markets, for the kernel and for the oracle."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.sessions import Calendar

from .oracle import rows as oracle_rows
from .oracle_terms import OracleBar, SessionRule

Floats = NDArray[np.float64]
Times = NDArray[np.int64]

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
START_MS = 1_709_510_400_000  # 2024-03-04, a Monday: New York's clocks change six days later
UTC = Venue()
NEW_YORK = Venue("America/New_York", "09:30", "16:00")
CHICAGO = Venue("America/Chicago", "17:00", "16:00")  # futures: a session runs overnight
TOKYO = Venue("Asia/Tokyo", "09:00", "15:00")


@dataclass(frozen=True)
class Market:
    """Bars of one series: when they opened, what they were, and where they traded."""

    open_time: Times
    ohlcv: Floats
    interval_ms: int = MINUTE
    venue: Venue = UTC

    def bars(self) -> Floats:
        """As the kernel reads them."""
        return Calendar(self.venue).rows(self.open_time, self.ohlcv, self.interval_ms)

    def truth(self) -> dict[str, list[float]]:
        """Every column of the oracle, which finds the sessions for itself."""
        times, values = self.open_time.tolist(), self.ohlcv.tolist()
        bars = [OracleBar(t, self.interval_ms, *v) for t, v in zip(times, values, strict=True)]
        return oracle_rows(bars, SessionRule(self.venue.zone, self.venue.opens, self.venue.closes))

    def only(self, kept: NDArray[np.bool_] | slice) -> "Market":
        return replace(self, open_time=self.open_time[kept], ohlcv=self.ohlcv[kept])


def market(ohlcv: Floats, interval_ms: int = MINUTE, venue: Venue = UTC) -> Market:
    """A bar at each interval from START_MS on."""
    times = START_MS + np.arange(len(ohlcv), dtype=np.int64) * interval_ms
    return Market(times, ohlcv, interval_ms, venue)


def kernel_bars(ohlcv: Floats, interval_ms: int = MINUTE) -> Floats:
    """Such bars as the kernel reads them, in sessions of 24 hours UTC."""
    return market(ohlcv, interval_ms).bars()


def around(closes: Floats, spread: float, seed: int) -> Floats:
    """Values [n, 5] around the given closes, with wicks of about `spread` and some volume."""
    random = np.random.default_rng(seed)
    opens = np.concatenate([closes[:1], closes[:-1]])
    wicks = np.exp(-spread * random.random((2, len(closes))))
    highs, lows = np.maximum(opens, closes) / wicks[0], np.minimum(opens, closes) * wicks[1]
    return np.column_stack([opens, highs, lows, closes, random.exponential(1e3, len(closes))])


def walk(n: int, seed: int, price: float = 100.0, step: float = 1e-3) -> Floats:
    moves = np.random.default_rng(seed).normal(0.0, step, n)
    return around(price * np.exp(np.cumsum(moves)), step, seed)


def dots(closes: list[float], volumes: list[float] | None = None) -> Floats:
    """Values of bars whose four prices are one."""
    prices = np.repeat(np.array(closes)[:, np.newaxis], 4, axis=1)
    return np.column_stack([prices, np.ones(len(closes)) if volumes is None else volumes])


def ticks(n: int, seed: int, price: float, tick: float) -> Floats:
    """A walk of at most two ticks, whose bars often tie."""
    random = np.random.default_rng(seed)
    closes = np.round(price / tick) + np.cumsum(random.integers(-2, 3, n))
    opens = np.concatenate([closes[:1], closes[:-1] + random.integers(-1, 2, n - 1)])
    highs = np.maximum(opens, closes) + random.integers(0, 2, n)
    lows = np.minimum(opens, closes) - random.integers(0, 2, n)
    prices = np.column_stack([opens, highs, lows, closes]) * tick
    return np.column_stack([prices, random.integers(0, 50, n)])


def one_tick_ranges(n: int, seed: int) -> Floats:
    random = np.random.default_rng(seed)
    lows = 60_000.0 + random.integers(-3, 4, n)
    prices = np.column_stack([lows + random.integers(0, 2, n), lows + 1, lows, lows])
    prices[:, 3] += random.integers(0, 2, n)
    return np.column_stack([prices * 0.01, random.exponential(1e3, n)])


def flat_stretches(n: int, seed: int) -> Floats:
    values = walk(n, seed)
    for start in range(0, n - 70, 150):
        values[start : start + 70, :4] = values[start, 3]
        values[start + 30 : start + 60, 4] = 0.0
    return values


def odd_volumes(n: int, seed: int) -> Floats:
    """Stretches and single bars without volume, and prints of 1e12."""
    values = walk(n, seed)
    values[::7, 4] = 0.0
    values[::53, 4] = 1e12
    values[100:165, 4] = 0.0
    return values


def jumps(n: int, seed: int) -> Floats:
    """From time to time the price goes to another order of magnitude, and back."""
    values = walk(n, seed)
    for i, start in enumerate(range(40, n, 90)):
        values[start : start + 45, :4] *= (1e6, 1e-5, 30.0)[i % 3]
    return values


def bad_print(n: int, seed: int) -> Floats:
    values = walk(n, seed)
    values[n // 2, [1, 3]] = 6e9
    return values


def hardly_moving(n: int, seed: int) -> Floats:
    """Around 60,000 in moves of 0.01."""
    moves = np.random.default_rng(seed).integers(-2, 3, n)
    return around(60_000.0 + moves * 0.01, 1e-7, seed)


def moves_of_1e_7(n: int, seed: int) -> Floats:
    return walk(n, seed, step=1e-7)


VALUES: dict[str, Callable[[int, int], Floats]] = {
    "a random walk": walk,
    "a wild walk": lambda n, seed: walk(n, seed, step=0.2),
    "prices near 1e-8": lambda n, seed: walk(n, seed, price=1e-8),
    "prices near 1e8": lambda n, seed: walk(n, seed, price=1e8),
    "coarse ticks": lambda n, seed: ticks(n, seed, 400.0, 0.5),
    "fine ticks": lambda n, seed: ticks(n, seed, 60_000.0, 0.01),
    "ranges of one tick": one_tick_ranges,
    "flat stretches": flat_stretches,
    "no volume and huge volume": odd_volumes,
    "huge jumps": jumps,
    "one bad print": bad_print,
    "moves of 0.01 at 60,000": hardly_moving,
    "moves of 1e-7": moves_of_1e_7,
}


def with_gaps(whole: Market, seed: int) -> Market:
    """Without a third of the bars, and without two whole days."""
    kept = np.random.default_rng(seed).random(len(whole.open_time)) > 1 / 3
    day = (whole.open_time - START_MS) // DAY
    return whole.only(kept & (day != 2) & (day != 3))


def in_session(whole: Market, extra_ms: int = 0) -> Market:
    """Only the bars from `extra_ms` before the opening to as long after the close; no weekends."""
    bars = whole.bars()
    since, length = bars[:, 5] - bars[:, 7], bars[:, 8] - bars[:, 7]
    near = (since < length + extra_ms) | (since >= DAY - extra_ms)
    return whole.only(near & (bars[:, 9] < 5))


def venue_market(n: int, interval_ms: int, venue: Venue, extra_ms: int = 0) -> Market:
    """The first n bars of a walk at a venue's hours."""
    calendar_days = 12 + 6 * n * interval_ms // DAY  # a quarter of a day, five days of seven
    whole = market(walk(calendar_days * DAY // interval_ms, 5), interval_ms, venue)
    return in_session(whole, extra_ms).only(slice(n))


def markets(n: int) -> dict[str, Market]:
    """One of every kind, n bars or a little less of each; sessions pass in most of them."""
    intervals = [10 * MINUTE, 30 * MINUTE, HOUR]
    kinds = {
        name: market(values(n, seed), intervals[seed % 3])
        for seed, (name, values) in enumerate(VALUES.items())
    }
    return kinds | {
        "minutes": market(walk(n, 21), MINUTE),
        "days": market(walk(n, 22), DAY),
        "gaps": with_gaps(market(ticks(3 * n // 2, 23, 100.0, 0.01), 30 * MINUTE), 23),
        "New York": venue_market(n, 15 * MINUTE, NEW_YORK),
        "New York with early and late bars": venue_market(n, 30 * MINUTE, NEW_YORK, 3 * HOUR),
        "Chicago overnight": venue_market(n, HOUR, CHICAGO),
        "Tokyo": venue_market(n, 5 * MINUTE, TOKYO),
    }
