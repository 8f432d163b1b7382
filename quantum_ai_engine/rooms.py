"""The settings of each room, frozen, with their defaults; what a line of a list means."""

import math
from collections.abc import Mapping
from typing import Annotated, Literal
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta

Positive = Annotated[float, Meta(gt=0)]
Count = Annotated[int, Meta(ge=1)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
Partitions = Annotated[int, Meta(ge=0)] | Annotated[str, Meta(pattern=r"^(all|[0-9]+(-[0-9]+)?)$")]
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,32}$")]


class ConfigError(Exception):
    """A setting that cannot be used: one sentence that names the key and what to do."""


class _Room(msgspec.Struct, frozen=True, kw_only=True):
    """A frozen group of settings."""


class EngineSettings(_Room, frozen=True, kw_only=True):
    """The core: what is fresh, what is warm, how many series."""

    environment: Name = "live"
    state_dir: str = ""
    clock: Literal["wall", "bars"] = "wall"
    burn_in_bars: Annotated[int, Meta(ge=0)] = 256
    valid_intervals: Annotated[float, Meta(gt=0, le=100)] = 2.0
    stale_intervals: Positive = 2.5
    snapshot_bars: Count = 40
    snapshot_s: Positive = 600.0
    replay_bars: Annotated[int, Meta(ge=256)] = 2048
    max_series: Count = 5000


class RedisSettings(_Room, frozen=True, kw_only=True):
    """Where Redis is, and how its keys are named and kept."""

    url: str = ""
    password: str = ""
    prefix: Name = "quantum"
    partitions: Count = 1
    partition: Partitions = "all"
    cluster: bool = False
    standby: Literal["wait", "refuse"] = "wait"
    lease_ms: Annotated[int, Meta(ge=1000, le=600_000)] = 5000
    checks: Literal["normal", "strict", "warn"] = "normal"
    block_ms: Count = 2000
    timeout_ms: Count = 5000
    backoff_max_ms: Count = 5000
    bars_retention_hours: Positive = 168.0

    @property
    def served(self) -> range:
        """The partitions that this process serves.

        >>> RedisSettings(partitions=8, partition="2-5").served
        range(2, 6)
        """
        if self.partition == "all":
            return range(self.partitions)
        first, _, last = str(self.partition).partition("-")
        return range(int(first), int(last or first) + 1)


class IngestSettings(_Room, frozen=True, kw_only=True):
    """How bars come in."""

    batch: Annotated[int, Meta(ge=1, le=1000)] = 1000
    pubsub_bridge: bool = False
    future_tolerance_ms: Annotated[int, Meta(ge=0)] = 2000
    late_bars: Annotated[int, Meta(ge=0, le=64)] = 3
    gap_fill: Literal["none", "flat"] = "none"
    lagging_ms: Count = 5000


class AgentsSettings(_Room, frozen=True, kw_only=True):
    """Which bundles serve, and with how much of the machine."""

    bundles: str = ""
    order: tuple[str, ...] = ()
    budget_cores: Positive = 3.5
    deadline_ms: Count = 5000


class Venue(msgspec.Struct, frozen=True):
    """Where a symbol trades: an IANA time zone, and when a session opens and closes there.

    A close at or before the opening is on the next day. The default is a day of 24 hours UTC.
    """

    zone: str = "UTC"
    opens: str = "00:00"
    closes: str = "24:00"

    def __post_init__(self) -> None:
        if self.zone not in available_timezones():
            raise ValueError(f"there is no time zone {self.zone!r}")
        self.minutes()

    def minutes(self) -> tuple[int, int]:
        """Opening and close, in minutes after midnight.

        >>> Venue("America/New_York", "09:30", "16:00").minutes()
        (570, 960)
        """
        return _minutes(self.opens), _minutes(self.closes)

    def line(self) -> str:
        """As it is written in `sessions.venues`."""
        return f"{self.zone} {self.opens} {self.closes}"


class SessionSettings(_Room, frozen=True, kw_only=True):
    """Which symbols trade at which venue: `AAPL|MSFT America/New_York 09:30 16:00`."""

    venues: tuple[str, ...] = ()

    def by_symbol(self) -> dict[str, Venue]:
        """Symbol → venue, of all symbols that are named. Raises `ConfigError`."""
        venues: dict[str, Venue] = {}
        for line in self.venues:
            words = line.split()
            try:
                symbols, zone, opens, closes = words
                venue = Venue(zone, opens, closes)
            except ValueError as error:
                why = "write SYMBOL|… ZONE HH:MM HH:MM" if len(words) != 4 else str(error)
                raise ConfigError(f"sessions.venues: {line!r}: {why}") from error
            venues |= dict.fromkeys(symbols.split("|"), venue)
        return venues


class BreakerLimits(msgspec.Struct, frozen=True):
    """When a breaker opens and closes, and what it does then: figures at or above `trip` open it.

    It closes after `dwell_ms` of the bars' time at or below `clear`.
    """

    trip: float
    clear: float
    dwell_ms: int
    severity: Literal["reduce", "halt", "off"]

    def __post_init__(self) -> None:
        if not 0.0 <= self.clear < self.trip < math.inf:
            raise ValueError("the second number, its clear level, must be below the trip level")
        if self.dwell_ms < 0:
            raise ValueError("the dwell is below 0 ms")


_MINUTE_MS, _HOUR_MS = 60_000, 3_600_000
BREAKERS = {
    "drawdown": BreakerLimits(0.10, 0.05, _HOUR_MS, "halt"),
    "daily_loss": BreakerLimits(0.03, 0.01, _HOUR_MS, "halt"),
    "volatility_ratio": BreakerLimits(3.0, 1.5, _HOUR_MS, "reduce"),
    "stale_feed": BreakerLimits(0.25, 0.05, 5 * _MINUTE_MS, "reduce"),
    "trust_collapsed": BreakerLimits(0.9, 0.7, _HOUR_MS, "reduce"),
    "inference_errors": BreakerLimits(0.5, 0.1, 15 * _MINUTE_MS, "reduce"),
    "pnl_stale": BreakerLimits(15.0 * _MINUTE_MS, 5.0 * _MINUTE_MS, 5 * _MINUTE_MS, "reduce"),
    "harder_market": BreakerLimits(0.5, 0.25, 4 * _HOUR_MS, "reduce"),
    "data_quality": BreakerLimits(0.25, 0.05, 15 * _MINUTE_MS, "reduce"),
}


class RiskSettings(_Room, frozen=True, kw_only=True):
    """From probability to stance and target."""

    long_threshold: Annotated[float, Meta(gt=0.5, lt=1)] = 0.60
    short_threshold: Annotated[float, Meta(gt=0, lt=0.5)] = 0.40
    dead_band: Annotated[float, Meta(ge=0, lt=0.5)] = 0.02
    exposure_cap: Annotated[float, Meta(gt=0, le=1)] = 0.7
    strong_margin: Annotated[float, Meta(gt=0, le=0.5)] = 0.10
    add_hysteresis: Annotated[float, Meta(ge=0, le=0.5)] = 0.02
    exit_hysteresis: Annotated[float, Meta(ge=0, le=0.5)] = 0.05
    weak_size: Annotated[float, Meta(gt=0, le=1)] = 0.5
    gross_cap: Annotated[float, Meta(gt=0, le=100)] = 1.0
    net_cap: Annotated[float, Meta(gt=0, le=100)] = 0.9
    group_cap: Annotated[float, Meta(gt=0, le=100)] = 0.7
    groups: tuple[str, ...] = ()
    newcomer_share: Fraction = 0.1
    change_per_bar: Annotated[float, Meta(gt=0, le=1)] = 0.25
    volatility_target: Annotated[float, Meta(gt=0, le=100)] = 0.4
    unknown_volatility_cap: Fraction = 0.1
    kelly_fraction: Annotated[float, Meta(gt=0, le=1)] = 0.5
    day_starts_hour: Annotated[int, Meta(ge=0, le=23)] = 0
    breakers: tuple[str, ...] = ()
    instruments: tuple[str, ...] = ()

    def members(self) -> dict[str, tuple[str, ...]]:
        """Group → its symbols. Raises `ConfigError`.

        >>> RiskSettings(groups=("majors BTCUSDT|ETHUSDT",)).members()
        {'majors': ('BTCUSDT', 'ETHUSDT')}
        """
        members: dict[str, tuple[str, ...]] = {}
        for line in self.groups:
            name, _, symbols = line.strip().partition(" ")
            words = symbols.strip().split("|")
            if not all(words) or len("".join(words).split()) != 1 or name in members:
                raise ConfigError(f"risk.groups: {line!r}: write NAME SYMBOL|…, each name once")
            members[name] = tuple(dict.fromkeys(words))
        return members

    def breaker_limits(self) -> dict[str, BreakerLimits]:
        """Breaker → its limits: the defaults, and what lines say instead. Raises `ConfigError`.

        >>> RiskSettings(breakers=("drawdown 0.2 0.1 0 halt",)).breaker_limits()["drawdown"].trip
        0.2
        """
        limits = dict(BREAKERS)
        for line in self.breakers:
            words = line.split()
            try:
                name, trip, clear, dwell_ms, severity = words
                values = (float(trip), float(clear), int(dwell_ms), severity)
                if name not in BREAKERS:
                    raise ValueError(f"breakers are {', '.join(BREAKERS)}")
                if severity not in ("reduce", "halt", "off"):
                    raise ValueError("it can reduce, halt, or be off")
                limits[name] = BreakerLimits(*values)  # type: ignore[arg-type]
            except ValueError as error:
                why = "write NAME TRIP CLEAR DWELL_MS reduce|halt|off"
                why = why if len(words) != 5 else str(error)
                raise ConfigError(f"risk.breakers: {line!r}: {why}") from error
        return limits

    def families(self) -> dict[str, dict[str, float]]:
        """Base symbol → instrument → how many times it moves as the base. Raises `ConfigError`.

        >>> RiskSettings(instruments=("QQQ TQQQ:3 PSQ:-1",)).families()
        {'QQQ': {'QQQ': 1.0, 'TQQQ': 3.0, 'PSQ': -1.0}}
        """
        families: dict[str, dict[str, float]] = {}
        for line in self.instruments:
            base, *others = line.split() or [""]
            family = {base: 1.0}
            try:
                for symbol, times in (other.rsplit(":", 1) for other in others):
                    family |= {symbol: _times(times, family)}
                if len(family) != len(others) + 1 or not others or base in families:
                    raise ValueError("a base or symbol stands there twice, or alone")
            except ValueError as error:
                why = "write BASE SYMBOL:TIMES …, each symbol and number once, as in QQQ TQQQ:3"
                raise ConfigError(f"risk.instruments: {line!r}: {why}") from error
            families[base] = family
        return families


class TrustSettings(_Room, frozen=True, kw_only=True):
    """How far each agent is listened to; outcomes are counted as moments at which some settled."""

    floor: Annotated[float, Meta(ge=0, lt=0.5)] = 0.02
    cap: Annotated[float, Meta(gt=0, le=1)] = 0.6
    min_outcomes: Annotated[int, Meta(ge=1, le=1_000_000)] = 100
    memory_outcomes: Annotated[int, Meta(ge=2, le=100_000_000)] = 2000


class QualitySettings(_Room, frozen=True, kw_only=True):
    """When the feed of a symbol is not to be believed."""

    clamped_frac: Annotated[float, Meta(gt=0, le=1)] = 0.25
    clamped_bars: Count = 3
    constant_bars: Annotated[int, Meta(ge=2)] = 60
    jump_frac: Annotated[float, Meta(gt=0, le=1)] = 0.1
    jump_times: Annotated[float, Meta(ge=1)] = 30.0
    stay_bars: Count = 3
    clear_bars: Count = 20
    settle_bars: Count = 256


class SupervisorSettings(_Room, frozen=True, kw_only=True):
    """When an agent's settled predictions are evidence against it."""

    block_bars: Annotated[int, Meta(ge=1, le=10_000)] = 20
    warmup_blocks: Count = 20
    brier_tolerance_frac: Annotated[float, Meta(gt=0, le=1)] = 0.05
    bias_tolerance: Annotated[float, Meta(gt=0, le=0.2)] = 0.01
    false_alarm_bars: Annotated[int, Meta(ge=1000)] = 250_000
    watch_bars: Annotated[int, Meta(ge=10, le=100_000)] = 500
    quarantine_factor: Annotated[float, Meta(ge=1, le=1e6)] = 20.0


class PolicySettings(_Room, frozen=True, kw_only=True):
    """Modes from equity; volatility is that of equity per `volatility_period_ms`."""

    drawdown_frac: Annotated[float, Meta(gt=0, le=1)] = 0.05
    drawdown_leave_frac: Annotated[float, Meta(gt=0, le=1)] = 0.02
    volatility_frac: Annotated[float, Meta(gt=0, le=10)] = 0.02
    volatility_leave_frac: Annotated[float, Meta(gt=0, le=10)] = 0.01
    volatility_period_ms: Count = 24 * _HOUR_MS
    volatility_halflife_ms: Count = 24 * _HOUR_MS
    defensive_cap: Annotated[float, Meta(gt=0, le=1)] = 0.5
    normal_cap: Annotated[float, Meta(gt=0, le=1)] = 0.7
    aggressive_cap: Annotated[float, Meta(gt=0, le=1)] = 0.9
    defensive_leverage: Annotated[float, Meta(gt=0, le=100)] = 0.5
    normal_leverage: Annotated[float, Meta(gt=0, le=100)] = 1.0
    aggressive_leverage: Annotated[float, Meta(gt=0, le=100)] = 1.5
    aggressive_entry: Annotated[float, Meta(gt=0, le=1)] = 0.5
    review_ms: Count = 5 * _MINUTE_MS
    dwell_ms: Count = _HOUR_MS
    min_samples: Count = 30
    recovery_halflife_ms: Count = 24 * _HOUR_MS
    block_ms: Count = _HOUR_MS
    block_bound_frac: Annotated[float, Meta(gt=0, le=1)] = 0.01
    min_blocks: Count = 24
    error_rate: Annotated[float, Meta(gt=0, lt=0.5)] = 0.05
    equity_stale_ms: Count = 15 * _MINUTE_MS
    cost_bps: Annotated[float, Meta(ge=0, le=1000)] = 5.0


class HttpSettings(_Room, frozen=True, kw_only=True):
    """Where the daemon answers HTTP, and how many callers may wait for predictions."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8001
    predict_queue: Annotated[int, Meta(ge=64, le=100_000)] = 256
    predict_deadline_ms: Count = 10_000
    token: str = ""
    tls_cert: str = ""
    tls_key: str = ""
    max_browsers: Annotated[int, Meta(ge=1, le=10_000)] = 256


class LogSettings(_Room, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "console", "json"] = "auto"
    burst_lines: Count = 10
    again_s: Positive = 60.0


class ReplaySettings(_Room, frozen=True, kw_only=True):
    """What the account of a replay pays, owns and may borrow; money is in units of `capital`."""

    capital: Annotated[float, Meta(ge=1, le=1e12)] = 100_000.0
    fee_bps: Annotated[float, Meta(ge=0, le=1000)] = 4.0
    slippage_bps: Annotated[float, Meta(ge=0, le=1000)] = 1.0
    short_borrow_bps_per_year: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    cash_borrow_bps_per_year: Annotated[float, Meta(ge=0, le=100_000)] = 0.0
    leverage: Annotated[float, Meta(gt=0, le=100)] = 2.0
    lots: tuple[str, ...] = ()
    random_draws: Annotated[int, Meta(ge=20, le=10_000)] = 200
    bootstrap_draws: Annotated[int, Meta(ge=100, le=100_000)] = 1000
    seed: Annotated[int, Meta(ge=0)] = 1

    def lot_sizes(self) -> dict[str, float]:
        """Instrument → the smallest amount of it that is traded. Raises `ConfigError`.

        >>> ReplaySettings(lots=("AAPL|MSFT 1", "BTCUSDT 0.001")).lot_sizes()
        {'AAPL': 1.0, 'MSFT': 1.0, 'BTCUSDT': 0.001}
        """
        sizes: dict[str, float] = {}
        for line in self.lots:
            names, _, size = line.strip().partition(" ")
            try:
                units = float(size)
                if not 0.0 < units < math.inf or not all(names.split("|")):
                    raise ValueError(line)
            except ValueError as error:
                raise ConfigError(
                    f"replay.lots: {line!r}: write SYMBOL|… UNITS, as in BTCUSDT 0.001"
                ) from error
            sizes |= dict.fromkeys(names.split("|"), units)
        return sizes


class Settings(_Room, frozen=True, kw_only=True):
    """All rooms' settings; each part of the daemon is handed its own."""

    engine: EngineSettings = EngineSettings()
    redis: RedisSettings = RedisSettings()
    ingest: IngestSettings = IngestSettings()
    agents: AgentsSettings = AgentsSettings()
    sessions: SessionSettings = SessionSettings()
    risk: RiskSettings = RiskSettings()
    trust: TrustSettings = TrustSettings()
    quality: QualitySettings = QualitySettings()
    supervisor: SupervisorSettings = SupervisorSettings()
    policy: PolicySettings = PolicySettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    replay: ReplaySettings = ReplaySettings()


def _times(text: str, family: Mapping[str, float]) -> float:
    times = float(text)
    if not 0.0 < abs(times) <= 10.0 or times in family.values():
        raise ValueError(f"{text} is 0, beyond 10, or there already")
    return times


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(minutes) < 60):
        raise ValueError(f"{text!r} is not a time of day: write HH:MM")
    total = 60 * int(hours) + int(minutes)
    if total > 1440:
        raise ValueError(f"{text!r} is after 24:00")
    return total
