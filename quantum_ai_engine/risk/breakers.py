"""Breakers: each watches one figure, opens at its trip level and closes only when it is calm."""

import math
from enum import StrEnum

import msgspec

from quantum_ai_engine.config import BreakerLimits


class BreakerName(StrEnum):
    """What can break, in the order in which it is told."""

    MANUAL = "manual"
    DRAWDOWN = "drawdown"
    DAILY_LOSS = "daily_loss"
    VOLATILITY_RATIO = "volatility_ratio"
    STALE_FEED = "stale_feed"
    TRUST_COLLAPSED = "trust_collapsed"
    INFERENCE_ERRORS = "inference_errors"
    PNL_STALE = "pnl_stale"
    HARDER_MARKET = "harder_market"
    DATA_QUALITY = "data_quality"


MEANINGS = {
    BreakerName.MANUAL: "an operator's command",
    BreakerName.DRAWDOWN: "drawdown from the highest equity",
    BreakerName.DAILY_LOSS: "loss of the day, a fraction of the equity with which it began",
    BreakerName.VOLATILITY_RATIO: "short over long volatility",
    BreakerName.STALE_FEED: "share of series without a final bar",
    BreakerName.TRUST_COLLAPSED: "weight of the base-rate forecast (1 below one effective agent)",
    BreakerName.INFERENCE_ERRORS: "share of agents' answers that failed",
    BreakerName.PNL_STALE: "age of the equity in ms",
    BreakerName.HARDER_MARKET: "share of agents whose market got harder to predict",
    BreakerName.DATA_QUALITY: "share of feeds in quarantine",
}

# Without equity nothing says what was lost: its absence is taken for the worst. The other figures
# are absent while nothing is known yet (warm-up) or nothing was asked; then nothing is claimed,
# since a fresh engine would otherwise begin in alarm and have no way out of it.
ABSENT_IS_WORST = frozenset({BreakerName.PNL_STALE})


class BreakerState(msgspec.Struct, frozen=True, array_like=True):
    """Whether a breaker is open, its last figure, and since when it is as it is (0: ever)."""

    name: BreakerName
    is_open: bool
    value: float | None
    since_ms: int


class SavedBreaker(msgspec.Struct, frozen=True, array_like=True):
    """All that a breaker remembers."""

    name: BreakerName
    is_open: bool
    value: float | None
    since_ms: int
    last_ms: int
    calm_since_ms: int | None
    opened_at: float | None
    trip: float | None


class Breaker:
    """One breaker: open from its trip level on, closed after a dwell at or below its clear level.

    A figure between the two levels keeps it as it is, and begins the dwell anew. No figure (None)
    keeps it as it is, too: what is not known is no evidence of calm. Only where `ABSENT_IS_WORST`
    no figure opens it. Figures are worse the higher they are; times are of bars, in ms, ascending.

    >>> breaker = Breaker(BreakerName.DRAWDOWN, BreakerLimits(0.10, 0.05, 60_000, "halt"))
    >>> for at_ms, value in ((0, 0.11), (60_000, 0.04), (90_000, 0.04)):
    ...     breaker.update(at_ms, value)
    >>> breaker.get().is_open
    True
    >>> breaker.update(120_000, 0.05)
    >>> breaker.get().is_open, breaker.get().since_ms
    (False, 120000)
    """

    def __init__(self, name: BreakerName, limits: BreakerLimits) -> None:
        self._name = name
        self._limits = limits
        self._is_open = False
        self._value: float | None = None
        self._since_ms = 0
        self._last_ms = -1
        self._calm_since_ms: int | None = None
        self._opened_at: float | None = None
        self._trip: float | None = None  # above that of the limits, after an acknowledgement

    def update(self, at_ms: int, value: float | None) -> None:
        """Take the figure of a moment."""
        if value is not None and not math.isfinite(value):
            raise ValueError(f"the figure of breaker {self._name} is {value}, not a finite number")
        if at_ms <= self._last_ms:
            raise ValueError(f"{at_ms} ms is not after {self._last_ms} ms, the moment before")
        self._last_ms, self._value = at_ms, value
        is_calm = value is not None and value <= self._limits.clear
        if not self._is_open:
            self._trip = None if is_calm else self._trip
            if self._is_bad(value):
                self._turn(at_ms, is_open=True)
        elif not is_calm:
            self._calm_since_ms = None
        else:
            self._dwell(at_ms)

    def acknowledge(self, at_ms: int) -> None:
        """Close it as it is, by a person who takes the figure for known.

        It opens again when the figure is worse by the distance of trip from clear level, and from
        the trip level on as soon as the figure was calm in between.
        """
        if not self._is_open:
            return
        known = self._opened_at if self._value is None else self._value
        self._trip = None
        if known is not None and known > self._limits.clear:
            self._trip = max(known + self._limits.trip - self._limits.clear, self._limits.trip)
        self._turn(at_ms, is_open=False)

    @property
    def is_open(self) -> bool:
        return self._is_open

    def get(self) -> BreakerState:
        return BreakerState(self._name, self._is_open, self._value, self._since_ms)

    @property
    def reason(self) -> str:
        """Why it opened last, in words; the same as long as it stays open."""
        meaning = MEANINGS[self._name]
        if self._opened_at is None:
            return f"{self._name}: no figure of {meaning}"
        return f"{self._name}: {meaning} was {self._opened_at:.6g}, limit {self._trip_level():.6g}"

    def saved(self) -> SavedBreaker:
        return SavedBreaker(
            self._name,
            self._is_open,
            self._value,
            self._since_ms,
            self._last_ms,
            self._calm_since_ms,
            self._opened_at,
            self._trip,
        )

    def restore(self, saved: SavedBreaker) -> None:
        """Go on from what was `saved`."""
        if saved.name is not self._name:
            raise ValueError(f"what was saved is of breaker {saved.name}, not of {self._name}")
        self._is_open, self._value = saved.is_open, saved.value
        self._since_ms, self._last_ms = saved.since_ms, saved.last_ms
        self._calm_since_ms = saved.calm_since_ms
        self._opened_at, self._trip = saved.opened_at, saved.trip

    def _is_bad(self, value: float | None) -> bool:
        return self._name in ABSENT_IS_WORST if value is None else value >= self._trip_level()

    def _trip_level(self) -> float:
        return self._limits.trip if self._trip is None else self._trip

    def _dwell(self, at_ms: int) -> None:
        if self._calm_since_ms is None:
            self._calm_since_ms = at_ms
        if at_ms - self._calm_since_ms >= self._limits.dwell_ms:
            self._trip = None
            self._turn(at_ms, is_open=False)

    def _turn(self, at_ms: int, *, is_open: bool) -> None:
        self._is_open, self._since_ms, self._calm_since_ms = is_open, at_ms, None
        if is_open:
            self._opened_at = self._value
