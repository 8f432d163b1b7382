"""Settings: one frozen class per room, from TOML < credentials < environment < command line.

Every layer is a flat mapping from a dotted key (`redis.url`) to a value; the last layer that has a
key wins, and `Origins` remembers which. A key that no room knows is refused by its path.
"""

import difflib
import hashlib
import itertools
import math
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin
from urllib.parse import parse_qs, urlsplit

import msgspec

from quantum_ai_engine.rooms import (
    BREAKERS,
    AgentsSettings,
    BreakerLimits,
    ConfigError,
    EngineSettings,
    HttpSettings,
    IngestSettings,
    LogSettings,
    Partitions,
    PolicySettings,
    QualitySettings,
    RedisSettings,
    ReplaySettings,
    RiskSettings,
    SessionSettings,
    Settings,
    SupervisorSettings,
    TrustSettings,
    Venue,
)

__all__ = [
    "BREAKERS",
    "CREDENTIALS",
    "ENVIRONMENT_PREFIX",
    "SECRET_KEYS",
    "AgentsSettings",
    "BreakerLimits",
    "ConfigError",
    "EngineSettings",
    "HttpSettings",
    "IngestSettings",
    "Layer",
    "Loaded",
    "LogSettings",
    "PolicySettings",
    "QualitySettings",
    "RedisSettings",
    "ReplaySettings",
    "RiskSettings",
    "SessionSettings",
    "Settings",
    "SupervisorSettings",
    "TrustSettings",
    "Venue",
    "bundle_dir",
    "config_hash",
    "environment_name",
    "flatten",
    "load",
    "read_credentials",
    "read_environment",
    "read_toml",
    "redis_dir",
    "state_dir",
]

ENVIRONMENT_PREFIX = "QAE_"
SECRET_KEYS = frozenset({"redis.password", "http.token"})
CREDENTIALS = {"redis-password": "redis.password", "http-token": "http.token"}


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
        try:
            secret = (Path(directory) / name).read_text("utf-8").strip()
            layers.append(Layer(f"credential {name}", {key: secret}))
        except FileNotFoundError:
            continue
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
    if risk.long_threshold - risk.exit_hysteresis < 0.5 + risk.dead_band:
        raise ConfigError(
            "risk.long_threshold − risk.exit_hysteresis must not lie inside the dead band "
            f"(0.5 + risk.dead_band = {0.5 + risk.dead_band:g}); raise it or lower the others"
        )
    if risk.short_threshold + risk.exit_hysteresis > 0.5 - risk.dead_band:
        raise ConfigError(
            "risk.short_threshold + risk.exit_hysteresis must not lie inside the dead band "
            f"(0.5 − risk.dead_band = {0.5 - risk.dead_band:g}); lower it or the others"
        )
    _check_url(redis.url)
    _check_policy(settings.policy)
    _check_trust(settings.trust)
    settings.sessions.by_symbol()
    _check_risk(risk)
    settings.replay.lot_sizes()
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


def _check_trust(trust: TrustSettings) -> None:
    if trust.floor > trust.cap:
        raise ConfigError(f"trust.floor = {trust.floor} is above trust.cap = {trust.cap}")
    if trust.memory_outcomes < trust.min_outcomes:
        raise ConfigError(
            f"trust.memory_outcomes = {trust.memory_outcomes} is below trust.min_outcomes = "
            f"{trust.min_outcomes}: trust would forget as fast as it learns"
        )


def _check_risk(risk: RiskSettings) -> None:
    """Every line can be read."""
    risk.members()
    risk.breaker_limits()
    risk.families()


def _check_policy(policy: PolicySettings) -> None:
    """What is left lies below what is entered, and a laxer mode allows no less."""
    ladders = (
        ("drawdown_leave_frac", "drawdown_frac"),
        ("volatility_leave_frac", "volatility_frac"),
    )
    for leave, enter in ladders:
        if getattr(policy, leave) >= getattr(policy, enter):
            raise ConfigError(f"policy.{leave} must be below policy.{enter}, or modes would flip")
    for what in ("cap", "leverage"):
        steps = [f"{mode}_{what}" for mode in ("defensive", "normal", "aggressive")]
        for stricter, laxer in itertools.pairwise(steps):
            if getattr(policy, stricter) > getattr(policy, laxer):
                raise ConfigError(f"policy.{stricter} must not be above policy.{laxer}")


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
