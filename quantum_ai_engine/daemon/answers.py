"""What the endpoints that tell how the engine is answer, as types."""

import msgspec
from msgspec import UNSET, UnsetType


class ModelHealth(msgspec.Struct, frozen=True):
    """The last work of one agent: `active` when its latest answer was a vote, else why not."""

    state: str
    reason: str | None
    votes: int
    abstentions: int
    last_vote_close_time: int | None


class EnsembleHealth(msgspec.Struct, frozen=True):
    """Effective votes of the last bar; null before the first, 0 when nobody voted."""

    effective_votes: float | None


class LastBar(msgspec.Struct, frozen=True):
    """The newest bar that was processed: when it closed, in ms, and how long ago that is."""

    close_time: int | None
    age_s: float | None


class BarCounts(msgspec.Struct, frozen=True):
    """What became of the entries that were read."""

    processed: int
    duplicates: int
    refused: int


class ConfigHealth(msgspec.Struct, frozen=True):
    """The settings in force, counted since the start; why newer ones were refused, if they were."""

    generation: int
    hash: str
    refused: str | None


class Health(msgspec.Struct, frozen=True):
    """`GET /health`: one word, the reason where it is not ok, and the work it derives from."""

    status: str
    reason: str | None
    ready: bool
    models: dict[str, ModelHealth]
    ensemble: EnsembleHealth
    last_bar: LastBar
    bars: BarCounts
    signals: int
    lag_ms: int
    lag_bars: int
    stale_series: list[str]
    loop_lag_ms: float
    engine: str
    config: ConfigHealth
    uptime_s: float


class Live(msgspec.Struct, frozen=True):
    """`GET /health/live`."""

    status: str
    loop_lag_ms: float


class Ready(msgspec.Struct, frozen=True):
    """`GET /health/ready`: the reason is there where it is not."""

    ready: bool
    reason: str | UnsetType | None = UNSET
