"""What the oracle's definitions are made of: sessions, exact sums, averages, bars and their past.

It shares nothing with the kernel. Every sum is exact; differences are taken before logarithms and
squares, so that a spread just above zero keeps its digits.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

EPSILON = 1e-10
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class OracleBar:
    open_time: int
    interval_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


@dataclass(frozen=True)
class SessionRule:
    """A venue's local opening and closing time; a close at or before the open is next day's."""

    zone: str = "UTC"
    opens: str = "00:00"
    closes: str = "24:00"

    def local(self, time_ms: int) -> datetime:
        return (EPOCH + timedelta(milliseconds=time_ms)).astimezone(ZoneInfo(self.zone))

    def session(self, time_ms: int) -> tuple[int, int]:
        """Opening and closing moment, in ms, of the session that opened last."""
        today, opens, closes = self.local(time_ms).date(), minutes(self.opens), minutes(self.closes)
        days = [today + timedelta(days=offset) for offset in (1, 0, -1, -2)]
        day = next(day for day in days if self.moment(day, opens) <= time_ms)
        return self.moment(day, opens), self.moment(day, closes + 24 * 60 * (closes <= opens))

    def moment(self, day: date, minute: int) -> int:
        wall = datetime.combine(day, time()) + timedelta(minutes=minute)
        return (wall.replace(tzinfo=ZoneInfo(self.zone)) - EPOCH) // timedelta(milliseconds=1)


def minutes(clock: str) -> int:
    return 60 * int(clock[:2]) + int(clock[3:])


def zeroed(spread: float, unit: float = 1.0) -> float:
    """The spread, or 0 where it counts as 0; the unit of a price is the bar's close."""
    return 0.0 if spread <= EPSILON * unit else spread


def over(numerator: float, denominator: float, neutral: float) -> float:
    return neutral if denominator == 0 else numerator / denominator


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def ln(a: float, b: float, add: float = 0.0) -> float:
    """ln((a + add)/(b + add)), to the last digits also where a is close to b."""
    ratio = (a + add) / (b + add)
    return math.log1p((a - b) / (b + add)) if 0.5 <= ratio <= 2 else math.log(ratio)


def lnq(a: float, b: float) -> float:
    return 0.0 if b == 0 else math.log(max(a / b, 1e-4))


def mean(xs: Sequence[float]) -> float:
    rounded = math.fsum(xs) / len(xs)
    return rounded + math.fsum(x - rounded for x in xs) / len(xs)


def above_mean(xs: Sequence[float]) -> float:
    """The newest value minus the mean, without rounding the mean."""
    return math.fsum(xs[-1] - x for x in xs) / len(xs)


def centred(xs: Sequence[float]) -> list[float]:
    shifted = [x - xs[-1] for x in xs]
    middle = mean(shifted)
    return [x - middle for x in shifted]


def dot(xs: Iterable[float], ys: Iterable[float]) -> float:
    return math.fsum(x * y for x, y in zip(xs, ys, strict=True))


def sd(xs: Sequence[float], unit: float = 1.0) -> float:
    """Population standard deviation, 0 where it counts as 0."""
    d = centred(xs)
    return zeroed(math.sqrt(dot(d, d) / len(d)), unit)


def z_score(xs: Sequence[float], unit: float = 1.0) -> float:
    return over(above_mean(xs), sd(xs, unit), 0.0)


def correlation(xs: Sequence[float], ys: Sequence[float]) -> float:
    dx, dy, spread = centred(xs), centred(ys), sd(xs) * sd(ys)
    return over(dot(dx, dy) / len(dx), spread, 0.0)


def autocorrelation(xs: Sequence[float]) -> float:
    d = centred(xs)
    return over(dot(d[1:], d[:-1]) / len(d), sd(xs) ** 2, 0.0)


def ema(xs: Sequence[float], period: int, first: int = 0) -> list[float]:
    """Seeded with the value at index `first`; NaN before it."""
    out = [math.nan] * min(first, len(xs))
    for x in xs[first:]:
        out.append(out[-1] + 2 / (period + 1) * (x - out[-1]) if len(out) > first else x)
    return out


def wilder(xs: Sequence[float], period: int, first: int = 1) -> list[float]:
    """Seeded with the mean of the `period` values from index `first` on; NaN before it."""
    out = [math.nan] * min(first + period - 1, len(xs))
    for x in xs[first + period - 1 :]:
        seeded = len(out) >= first + period
        out.append((out[-1] * (period - 1) + x) / period if seeded else mean(xs[first:][:period]))
    return out


class Past:
    """All bars as named series: a value per bar, NaN where it does not exist yet."""

    def __init__(self, bars: Sequence[OracleBar], rule: SessionRule) -> None:
        self.bars = bars
        self.sessions = [rule.session(bar.open_time) for bar in bars]
        self.weekdays = [rule.local(bar.open_time).weekday() for bar in bars]
        fields = ("open", "high", "low", "close", "volume")
        self.series: dict[str, list[float]] = {f: [getattr(b, f) for b in bars] for f in fields}

    def add(self, name: str, ready: int, column: "Column") -> None:
        moments = [Now(self, t) for t in range(len(self.bars))]
        self.series[name] = [column(n) if n.t + 1 >= ready else math.nan for n in moments]


class Now:
    """Bar t, with index from 0, and all that came before it."""

    def __init__(self, past: Past, t: int) -> None:
        self.past, self.t, self.bar = past, t, past.bars[t]
        self.o, self.h, self.l = self.bar.open, self.bar.high, self.bar.low
        self.c, self.v = self.bar.close, self.bar.volume
        self.range = zeroed(self.h - self.l, self.c)
        self.body = abs(self.c - self.o)
        self.upper, self.lower = self.h - max(self.o, self.c), min(self.o, self.c) - self.l

    def at(self, name: str, ago: int = 0) -> float:
        assert 0 <= ago <= self.t
        return self.past.series[name][self.t - ago]

    def last(self, name: str, period: int) -> list[float]:
        assert 0 < period <= self.t + 1
        return self.past.series[name][self.t + 1 - period : self.t + 1]

    def sma(self, name: str, period: int) -> float:
        return mean(self.last(name, period))

    def sd(self, name: str, period: int) -> float:
        return sd(self.last(name, period), self.c if name == "close" else 1.0)

    def less(self, a: float, b: float) -> bool:
        """a < b between derived quantities."""
        return b - a > EPSILON * self.c

    def session(self) -> list[int]:
        """The bars seen of this bar's session, as indices."""
        sessions = self.past.sessions
        return [t for t in range(self.t + 1) if sessions[t] == sessions[self.t]]

    def since_open_ms(self) -> int:
        return self.bar.open_time - self.past.sessions[self.t][0]


Column = Callable[[Now], float]
Table = dict[str, tuple[int, Column]]
