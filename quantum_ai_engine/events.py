"""The messages of the engine: bars in, signals out, and what passes between.

All are frozen and validated at birth, so that whoever holds one need not check it again.
Times are milliseconds since the epoch, UTC; prices and volumes are in the symbol's own units.
"""

import math
import re
from enum import StrEnum
from functools import lru_cache
from typing import Literal

import msgspec

SIGNAL_SCHEMA = 1
INTERVAL_UNITS_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
SYMBOL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}")
INTERVALS = "1s 5s 10s 15s 30s 1m 2m 3m 5m 10m 15m 20m 30m 1h 2h 3h 4h 6h 8h 12h 1d".split()
INTERVAL_MS = {name: int(name[:-1]) * INTERVAL_UNITS_MS[name[-1]] for name in INTERVALS}
# Outside of these no feature could be computed exactly; no market has been there.
LOWEST_PRICE, HIGHEST_PRICE = 1e-15, 1e15
LOWEST_VOLUME, HIGHEST_VOLUME = 1e-15, 1e21  # or 0
LAST_TIME_MS = 7_258_118_399_999  # the end of the year 2199
LAST_REVISION = 2**53  # a whole number of this size is still exact as a float


class Reason(StrEnum):
    """Why an entry was refused: the `reason` of a dead letter."""

    UNDECODABLE = "undecodable"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    BAD_VALUE = "bad_value"
    BAD_SYMBOL = "bad_symbol"
    UNKNOWN_INTERVAL = "unknown_interval"
    NON_FINITE = "non_finite"
    NON_POSITIVE_PRICE = "non_positive_price"
    HIGH_BELOW_LOW = "high_below_low"
    OUTSIDE_RANGE = "outside_range"
    NEGATIVE_VOLUME = "negative_volume"
    OUT_OF_BAND = "out_of_band"
    MISALIGNED_TIME = "misaligned_time"
    FUTURE_TIME = "future_time"
    NOT_CLOSED = "not_closed"
    OTHER_ENVIRONMENT = "other_environment"
    LATE = "late"
    REVISION = "revision"
    TOO_MANY_SERIES = "too_many_series"
    UNKNOWN_COMMAND = "unknown_command"
    HALT_FILE = "halt_file"


class Abstained(StrEnum):
    """Why an agent gives no prediction for a bar."""

    UNAVAILABLE = "unavailable"
    WARMING_UP = "warming_up"
    OTHER_INTERVAL = "other_interval"
    GAP = "gap"
    DEADLINE = "deadline"
    NON_FINITE = "non_finite"
    ERROR = "error"


# Abstentions that say that an agent does not work; the others that it was not to be asked.
FAILURES = frozenset(
    {Abstained.UNAVAILABLE, Abstained.DEADLINE, Abstained.NON_FINITE, Abstained.ERROR}
)


class Refused(ValueError):  # noqa: N818 (what happened, as the glossary has it)
    """An entry that must not enter: a typed reason and one sentence that names the field."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class Bar(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """One closed OHLCV interval of one symbol.

    Of several versions of it the one with the highest `revision` holds, of equal ones the last.
    Raises `Refused` at birth when it is not a bar that could have happened.

    >>> bar = Bar("BTCUSDT", "1m", 60_000, 100.0, 102.0, 99.0, 101.0, 5.0)
    >>> bar.close_time
    120000
    >>> Bar("BTCUSDT", "1m", 60_000, 100.0, 98.0, 99.0, 101.0, 5.0)
    Traceback (most recent call last):
    quantum_ai_engine.events.Refused: high 98.0 is below low 99.0
    """

    symbol: str
    interval: str
    open_time: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    revision: int = 0

    def __post_init__(self) -> None:
        # One condition, since every bar goes through it; which part does not hold is asked then.
        low, high, volume = self.low, self.high, self.volume
        interval_ms = INTERVAL_MS.get(self.interval)
        if not (
            LOWEST_PRICE <= low <= self.open <= high <= HIGHEST_PRICE
            and low <= self.close <= high
            and (LOWEST_VOLUME <= volume <= HIGHEST_VOLUME or volume == 0.0)
            and interval_ms is not None
            and 0 <= self.open_time <= LAST_TIME_MS
            and self.open_time % interval_ms == 0
            and 0 <= self.revision <= LAST_REVISION
            and len(self.symbol) <= 64
            and _is_name(self.symbol)
        ):
            raise _refused(self)

    @property
    def ohlcv(self) -> tuple[float, float, float, float, float]:
        return self.open, self.high, self.low, self.close, self.volume

    @property
    def interval_ms(self) -> int:
        return INTERVAL_MS[self.interval]

    @property
    def close_time(self) -> int:
        return self.open_time + INTERVAL_MS[self.interval]


@lru_cache(maxsize=4096)
def _is_name(symbol: str) -> bool:
    return SYMBOL.fullmatch(symbol) is not None


def _refused(bar: Bar) -> Refused:
    """Why it is no bar, by the first thing that is wrong with it."""
    low, high = bar.low, bar.high
    if not low <= bar.open <= high or not low <= bar.close <= high:
        return _refused_range(bar)
    # From here no price is NaN: a comparison with one would have failed above.
    if not -math.inf < low or not high < math.inf or not math.isfinite(bar.volume):
        return _refused_non_finite(bar)
    if low <= 0.0:
        return Refused(Reason.NON_POSITIVE_PRICE, f"low {low} is not positive")
    if bar.volume < 0.0:
        return Refused(Reason.NEGATIVE_VOLUME, f"volume {bar.volume} is negative")
    is_small = low < LOWEST_PRICE or 0.0 < bar.volume < LOWEST_VOLUME
    if is_small or high > HIGHEST_PRICE or bar.volume > HIGHEST_VOLUME:
        return _refused_band(bar)
    return _refused_identity(bar)


def _refused_identity(bar: Bar) -> Refused:
    """The same of what says which bar it is."""
    interval_ms = INTERVAL_MS.get(bar.interval)
    if interval_ms is None:
        return Refused(
            Reason.UNKNOWN_INTERVAL,
            f"interval {bar.interval!r} is not one of {', '.join(INTERVALS)}",
        )
    if bar.open_time % interval_ms or not 0 <= bar.open_time <= LAST_TIME_MS:
        return Refused(
            Reason.MISALIGNED_TIME,
            f"open_time {bar.open_time} is not a multiple of {bar.interval} in ms since 1970",
        )
    if SYMBOL.fullmatch(bar.symbol):
        detail = f"revision {bar.revision} is not from 0 to {LAST_REVISION}"
        return Refused(Reason.BAD_VALUE, detail)
    return Refused(
        Reason.BAD_SYMBOL, f"symbol {bar.symbol!r} is not 1 to 64 letters, digits or ._:/-"
    )


def _refused_non_finite(bar: Bar) -> Refused:
    bad = [
        f"{name} {value}"
        for name in ("open", "high", "low", "close", "volume")
        if not math.isfinite(value := getattr(bar, name))
    ]
    return Refused(Reason.NON_FINITE, f"not a finite number: {', '.join(bad)}")


def _refused_band(bar: Bar) -> Refused:
    return Refused(
        Reason.OUT_OF_BAND,
        f"low {bar.low}, high {bar.high} or volume {bar.volume} is outside prices of "
        f"{LOWEST_PRICE:g} to {HIGHEST_PRICE:g} and volumes of 0 or {LOWEST_VOLUME:g} to "
        f"{HIGHEST_VOLUME:g}",
    )


def _refused_range(bar: Bar) -> Refused:
    if not all(map(math.isfinite, (bar.open, bar.high, bar.low, bar.close))):
        return _refused_non_finite(bar)
    if bar.high < bar.low:
        return Refused(Reason.HIGH_BELOW_LOW, f"high {bar.high} is below low {bar.low}")
    return Refused(
        Reason.OUTSIDE_RANGE,
        f"open {bar.open} or close {bar.close} is outside low {bar.low} to high {bar.high}",
    )


class Command(StrEnum):
    """What an operator can tell a running engine."""

    HALT = "halt"
    REDUCE = "reduce"
    RESUME = "resume"


class Control(msgspec.Struct, frozen=True, array_like=True):
    """A command that took effect, and where: after the entry `at` of the bar stream.

    `source` is its id in the control stream. The position is kept with it, since a restart must
    take bars and commands in the same order again.
    """

    at: str
    command: Command
    source: str


class Vote(msgspec.Struct, frozen=True, gc=False):
    """One agent's calibrated P(up over the horizon) and its share of the forecast."""

    agent: str
    bundle: str
    probability: float
    trust: float

    def __post_init__(self) -> None:
        if not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"probability {self.probability} of {self.agent} is outside 0 to 1")
        if not 0.0 <= self.trust <= 1.0:
            raise ValueError(f"trust {self.trust} of {self.agent} is outside 0 to 1")


class Prediction(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What was predicted of one bar, whether or not a signal came of it.

    `votes` are those of all agents that answered, of the quarantined ones with a trust of 0, and
    `failed` counts those that were asked and failed; `base` is the base-rate forecast's share of
    trust beside them, `probability` the ensemble's forecast, None when nobody with trust voted.
    `clamped` is the share of the bar's row that lay beyond the range that agents were trained on,
    of the agent for which it is largest; None where no agent knows its range.
    """

    close_time: int
    votes: tuple[Vote, ...]
    failed: int
    base: float
    probability: float | None
    clamped: float | None = None


class Abstention(msgspec.Struct, frozen=True, gc=False):
    """One agent's typed reason for having no prediction."""

    agent: str
    reason: Abstained


class Forecast(msgspec.Struct, frozen=True, gc=False):
    """What the ensemble believes of one bar; confidence is 2·|probability − 0.5|."""

    probability: float
    confidence: float
    votes: tuple[Vote, ...]
    abstained: tuple[Abstention, ...]
    effective_votes: float

    def __post_init__(self) -> None:
        if not 0.0 < self.probability < 1.0:
            raise ValueError(f"forecast {self.probability} is not inside 0 to 1")
        trust = 0.0
        for vote in self.votes:
            trust += vote.trust
        if abs(trust - 1.0) > 1e-9:
            raise ValueError("the trust of the votes does not sum to 1")


class Stance(StrEnum):
    """Which way the target points."""

    LONG = "long"
    SHORT = "short"
    FLAT = "flat"


# In Python 3.11 a member that is asked of its class costs a call.
_LONG, _SHORT = Stance.LONG, Stance.SHORT


class Equity(msgspec.Struct, frozen=True, array_like=True):
    """What execution reports: its equity, net of deposits, in any unit, and when it was that."""

    time_ms: int
    equity: float

    def __post_init__(self) -> None:
        if not 0 <= self.time_ms <= LAST_TIME_MS:
            raise Refused(Reason.BAD_VALUE, f"time {self.time_ms} is not in ms since 1970")
        if not math.isfinite(self.equity):
            raise Refused(Reason.NON_FINITE, f"not a finite number: equity {self.equity}")


class Change(msgspec.Struct, frozen=True):
    """A change of the policy's mode, of the risk brain's state, or of what is thought of an agent.

    `at_ms` is the time of the bars from which on it holds; `subject` names the agent or symbol,
    where it is about one.
    """

    room: Literal["risk", "policy", "supervisor"]
    at_ms: int
    subject: str
    before: str
    after: str
    reasons: tuple[str, ...]


class Thresholds(msgspec.Struct, frozen=True):
    """The probabilities at which long and short are entered."""

    long: float
    short: float


class Policy(msgspec.Struct, frozen=True):
    """What the adaptive policy allowed: its mode, the largest exposure, and how boldly.

    `equity` says what it judged by: `reported` by execution, or the `paper` portfolio.
    """

    mode: str
    exposure_cap: float
    leverage: float = 1.0
    equity: str = "paper"


class Risk(msgspec.Struct, frozen=True, gc=False):
    """What the risk brain says: its state, open breakers, and reasons for a constraint."""

    state: str
    breakers: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()


class Holding(msgspec.Struct, frozen=True):
    """An instrument and the target of it, a signed fraction of equity."""

    instrument: str
    target: float


class Signal(msgspec.Struct, frozen=True, omit_defaults=True, gc=False):
    """What subscribers receive: an absolute target for one symbol, with its reasons and its end.

    `target` is a signed fraction of equity; it is never a delta, so that a subscriber that missed
    one signal is right again with the next. A signal that takes the place of an earlier one of the
    same bar, because a bar came late or was revised, `amends` that one's id and has an id of its
    own. `filled` bars of the longest window were missing and stand as flat ones. `holdings` say how
    the target is held in leveraged and inverse instruments. These are on the wire only where they
    say something.
    """

    schema: int
    id: str
    environment: str
    symbol: str
    interval: str
    close_time: int
    produced_at: int
    valid_until: int
    horizon_bars: int
    probability: float
    confidence: float
    stance: Stance
    target: float
    votes: tuple[Vote, ...]
    abstained: tuple[Abstention, ...]
    effective_votes: float
    thresholds: Thresholds
    policy: Policy
    risk: Risk
    schema_hash: str
    row_hash: str
    engine: str
    config_hash: str
    latency_us: dict[str, int]
    amends: str | None = None
    filled: int = 0
    holdings: tuple[Holding, ...] = ()

    def __post_init__(self) -> None:
        if not abs(self.target) <= self.policy.exposure_cap <= 1.0:
            raise ValueError(f"target {self.target} is outside the cap {self.policy.exposure_cap}")
        if not abs(self.target) <= self.confidence <= 1.0:
            raise ValueError(f"target {self.target} is beyond the confidence {self.confidence}")
        if not 0.0 < self.probability < 1.0:
            raise ValueError(f"probability {self.probability} is not inside 0 to 1")
        if not 0.0 < self.effective_votes <= len(self.votes) + 1e-9:
            raise ValueError(f"{self.effective_votes} effective votes of {len(self.votes)}")
        is_long, is_short = self.stance is _LONG, self.stance is _SHORT
        if (self.target > 0.0) != is_long or (self.target < 0.0) != is_short:
            raise ValueError(f"target {self.target} contradicts stance {self.stance}")


class Tombstone(msgspec.Struct, frozen=True):
    """What the channel of a symbol says when its bars have stopped: no target holds any more.

    `close_time` is that of the last bar, `produced_at` when it was found to be stale. It is
    published, not kept: who reads the stream has `valid_until` of the last signal.
    """

    schema: int
    id: str
    environment: str
    symbol: str
    interval: str
    close_time: int
    produced_at: int
    stale: Literal[True] = True
    stance: Literal["flat"] = "flat"
    target: float = 0.0


def signal_id(symbol: str, interval: str, close_time: int, version: int = 0) -> str:
    """The key by which receivers tell one signal from another.

    >>> signal_id("BTCUSDT", "1m", 120_000), signal_id("BTCUSDT", "1m", 120_000, version=1)
    ('BTCUSDT|1m|120000', 'BTCUSDT|1m|120000|1')
    """
    name = f"{symbol}|{interval}|{close_time}"
    return f"{name}|{version}" if version else name


_ENCODER = msgspec.msgpack.Encoder()


def encode_bar(bar: Bar) -> bytes:
    """The bar as msgpack: the value of the one field `b` of an entry of the bar stream.

    >>> bar = Bar("BTCUSDT", "1m", 60_000, 100.0, 102.0, 99.0, 101.0, 5.0)
    >>> msgspec.msgpack.decode(encode_bar(bar), type=Bar) == bar
    True
    """
    return _ENCODER.encode(bar)
