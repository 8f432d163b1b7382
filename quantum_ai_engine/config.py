"""Settings: one frozen class per room, from TOML < credentials < environment < command line.

Every layer is a flat mapping from a dotted key (`redis.url`) to a value; the last layer that has a
key wins, and `Origins` remembers which. A key that no room knows is refused by its path.
"""

import difflib
import hashlib
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin
from urllib.parse import parse_qs, urlsplit
from zoneinfo import available_timezones

import msgspec
from msgspec import Meta

ENVIRONMENT_PREFIX = "QAE_"
SECRET_KEYS = frozenset({"redis.password"})
CREDENTIALS = {"redis-password": "redis.password"}

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


class RiskSettings(_Room, frozen=True, kw_only=True):
    """From probability to stance and target."""

    long_threshold: Annotated[float, Meta(gt=0.5, lt=1)] = 0.60
    short_threshold: Annotated[float, Meta(gt=0, lt=0.5)] = 0.40
    hysteresis: Fraction = 0.02
    dead_band: Annotated[float, Meta(ge=0, lt=0.5)] = 0.02
    exposure_cap: Annotated[float, Meta(gt=0, le=1)] = 0.7


class HttpSettings(_Room, frozen=True, kw_only=True):
    """Where the daemon answers HTTP."""

    enabled: bool = True
    host: str = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 8001


class LogSettings(_Room, frozen=True, kw_only=True):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["auto", "journal", "console", "json"] = "auto"


class Settings(_Room, frozen=True, kw_only=True):
    """All rooms' settings; each part of the daemon is handed its own."""

    engine: EngineSettings = EngineSettings()
    redis: RedisSettings = RedisSettings()
    ingest: IngestSettings = IngestSettings()
    agents: AgentsSettings = AgentsSettings()
    sessions: SessionSettings = SessionSettings()
    risk: RiskSettings = RiskSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()


class Layer(msgspec.Struct, frozen=True):
    """One source of settings: where it comes from, and dotted key → value."""

    origin: str
    values: dict[str, Any]


class Loaded(msgspec.Struct, frozen=True):
    """The settings in force and, for each dotted key that was set, the layer that set it."""

    settings: Settings
    origins: dict[str, str]

    @property
    def config_hash(self) -> str:
        return config_hash(self.settings)


def load(
    path: Path | None,
    *,
    environ: Mapping[str, str] | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Loaded:
    """Read, layer and check the settings. Raises `ConfigError` with one sentence."""
    environ = os.environ if environ is None else environ
    layers = [
        *([read_toml(path)] if path is not None else []),
        *read_credentials(environ),
        read_environment(environ),
        Layer("command line", dict(overrides or {})),
    ]
    values: dict[str, Any] = {}
    origins: dict[str, str] = {}
    for layer in layers:
        for key, value in layer.values.items():
            values[key] = value
            origins[key] = layer.origin
    return Loaded(_convert(values, origins), origins)


def read_toml(path: Path) -> Layer:
    """The file's keys, flattened. Secrets are refused: they come as credentials."""
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {error}") from error
    values: dict[str, Any] = {}
    for room, table in tables.items():
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {room} = … stands outside a table; put it under [section]")
        values |= {f"{room}.{key}": value for key, value in table.items()}
    for key in SECRET_KEYS & values.keys():
        raise ConfigError(
            f"{path}: {key} is a secret; give it as a credential ({_credential_of(key)}) "
            f"or as {environment_name(key)}"
        )
    return Layer(str(path), values)


def read_credentials(environ: Mapping[str, str]) -> list[Layer]:
    """The secrets that systemd's LoadCredential= laid down, one file each."""
    directory = environ.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return []
    layers = []
    for name, key in CREDENTIALS.items():
        file = Path(directory) / name
        if not file.exists():
            continue
        try:
            layers.append(Layer(f"credential {name}", {key: file.read_text("utf-8").strip()}))
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the credential {name}: {error}") from error
    return layers


def read_environment(environ: Mapping[str, str]) -> Layer:
    """`QAE_REDIS__URL=…` sets `redis.url`; lists are separated by commas."""
    values = {}
    for name, text in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            room, mark, key = name.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
            if not mark:
                raise ConfigError(f"{name}: write {ENVIRONMENT_PREFIX}<SECTION>__<KEY>")
            values[f"{room}.{key}"] = text
    return Layer("environment", values)


def environment_name(key: str) -> str:
    """The variable that sets a dotted key.

    >>> environment_name("redis.url")
    'QAE_REDIS__URL'
    """
    return ENVIRONMENT_PREFIX + key.upper().replace(".", "__")


def state_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where the engine keeps files: the setting, else systemd's directory, else the user's.

    >>> state_dir(Settings(), {"STATE_DIRECTORY": "/var/lib/quantum-ai-engine"}).as_posix()
    '/var/lib/quantum-ai-engine'
    """
    environ = os.environ if environ is None else environ
    if settings.engine.state_dir:
        return Path(settings.engine.state_dir).expanduser()
    if given := environ.get("STATE_DIRECTORY"):
        return Path(given.partition(":")[0])
    base = environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "quantum-ai-engine"


def bundle_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where the bundles are: `agents.bundles`, else `bundles` in the state directory."""
    if settings.agents.bundles:
        return Path(settings.agents.bundles).expanduser()
    return state_dir(settings, environ) / "bundles"


def redis_dir(settings: Settings, environ: Mapping[str, str] | None = None) -> Path:
    """Where a Redis of our own keeps its socket and data, when `redis.url` is not set."""
    return state_dir(settings, environ) / "redis"


def flatten(settings: Settings) -> dict[str, Any]:
    """Dotted key → value, in the order of the rooms; secrets are masked."""
    values = {
        f"{room}.{key}": value
        for room, table in msgspec.to_builtins(settings).items()
        for key, value in table.items()
    }
    return values | {key: "********" for key in SECRET_KEYS if values[key]}


def config_hash(settings: Settings) -> str:
    """The first 12 hex digits of the settings' SHA-256, secrets masked."""
    return hashlib.sha256(msgspec.json.encode(flatten(settings))).hexdigest()[:12]


def _credential_of(key: str) -> str:
    return next(name for name, target in CREDENTIALS.items() if target == key)


def _convert(values: Mapping[str, Any], origins: Mapping[str, str]) -> Settings:
    known = _known_keys()
    tables: dict[str, dict[str, Any]] = {}
    for dotted, value in values.items():
        if dotted not in known:
            raise ConfigError(f"unknown key {dotted} ({origins[dotted]}){_hint(dotted, known)}")
        room, _, key = dotted.partition(".")
        tables.setdefault(room, {})[key] = _typed(dotted, value, known[dotted], origins[dotted])
    settings = msgspec.convert(tables, Settings)
    _check(settings)
    return settings


def _known_keys() -> dict[str, Any]:
    return {
        f"{room.name}.{field.name}": field.type
        for room in msgspec.structs.fields(Settings)
        for field in msgspec.structs.fields(room.type)
    }


def _typed(key: str, value: Any, kind: Any, origin: str) -> Any:
    from_text = isinstance(value, str) and origin in ("environment", "command line")
    if from_text and kind == tuple[str, ...]:
        value = [part.strip() for part in value.split(",") if part.strip()]
    try:
        return msgspec.convert(value, kind, strict=not from_text)
    except msgspec.ValidationError as error:
        shown = "" if key in SECRET_KEYS else f" = {value!r}"
        raise ConfigError(f"{key}{shown} ({origin}): {_wrong(kind, error)}") from error


def _wrong(kind: Any, error: msgspec.ValidationError) -> str:
    """What is wrong with a value, in words."""
    if get_origin(kind) is Literal:
        return f"it is not one of {', '.join(get_args(kind))}"
    if kind == Partitions:
        return "write a number, a range as 0-3, or all"
    text = str(error)
    return text[:1].lower() + text[1:]


def _hint(key: str, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(key, known, n=1)
    return f"; did you mean {close[0]}?" if close else "; see config/engine.toml for all keys"


def _check(settings: Settings) -> None:
    """What no single key can break alone."""
    risk, redis = settings.risk, settings.redis
    if risk.long_threshold - risk.hysteresis < 0.5 + risk.dead_band:
        raise ConfigError(
            "risk.long_threshold − risk.hysteresis must not lie inside the dead band "
            f"(0.5 + risk.dead_band = {0.5 + risk.dead_band:g}); raise it or lower the others"
        )
    if risk.short_threshold + risk.hysteresis > 0.5 - risk.dead_band:
        raise ConfigError(
            "risk.short_threshold + risk.hysteresis must not lie inside the dead band "
            f"(0.5 − risk.dead_band = {0.5 - risk.dead_band:g}); lower it or the others"
        )
    _check_url(redis.url)
    settings.sessions.by_symbol()
    for key, value in flatten(settings).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{key} = {value} is not a finite number")
    if settings.engine.replay_bars < settings.engine.burn_in_bars:
        raise ConfigError(
            f"engine.replay_bars = {settings.engine.replay_bars} is below engine.burn_in_bars = "
            f"{settings.engine.burn_in_bars}: after a restart there would be no signals"
        )
    if not redis.served or redis.served[-1] >= redis.partitions:
        raise ConfigError(
            f"redis.partition = {redis.partition} is not inside redis.partitions = "
            f"{redis.partitions}; count from 0 upward, as in 0 or 0-3, or say all"
        )
    if redis.cluster and (redis.partitions == 1 or not redis.url):
        raise ConfigError(
            "redis.cluster needs redis.partitions above 1, since the keys of a commit must lie on "
            "one node, and redis.url, the address of any node"
        )
    if redis.block_ms >= redis.timeout_ms:
        raise ConfigError(
            f"redis.timeout_ms = {redis.timeout_ms} must be above redis.block_ms = "
            f"{redis.block_ms}, or every idle read would count as a failure"
        )


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    if not (hours.isdigit() and minutes.isdigit() and int(minutes) < 60):
        raise ValueError(f"{text!r} is not a time of day: write HH:MM")
    total = 60 * int(hours) + int(minutes)
    if total > 1440:
        raise ValueError(f"{text!r} is after 24:00")
    return total


def _check_url(url: str) -> None:
    """An address that can be read, without the password that would then be shown with it."""
    try:
        parts = urlsplit(url)
        has_password = bool(parts.password) or "password" in parse_qs(parts.query)
        if url and parts.scheme not in ("redis", "rediss", "unix"):
            raise ValueError("write redis://host:port/0, rediss://… or unix:///path")
        _ = parts.port  # raises when it is none
    except ValueError as error:
        raise ConfigError(f"redis.url = {url!r} is not a URL: {error}") from error
    if has_password:
        raise ConfigError(
            "redis.url holds a password; give it as a credential (redis-password) or as "
            f"{environment_name('redis.password')}"
        )
