"""Sizing: how much to hold is what the forecast is worth, or the smallest of all limits."""

import math
from enum import StrEnum

import msgspec

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.stance import Level, level_size, stance_of

YEAR_MS = 365 * 86_400_000


class Limit(StrEnum):
    """What can bind a target: a reason on the wire."""

    NON_FINITE = "non_finite"
    HALTED = "halted"
    REDUCING = "reducing"
    MODE_CAP = "mode_cap"
    SYMBOL_CAP = "symbol_cap"
    GROSS_CAP = "gross_cap"
    NET_CAP = "net_cap"
    GROUP_CAP = "group_cap"
    CHANGE_PER_BAR = "change_per_bar"
    LEVERAGE = "leverage"
    VOLATILITY_TARGET = "volatility_target"
    VOLATILITY_UNKNOWN = "volatility_unknown"
    KELLY = "kelly"
    BASE_RATE = "base_rate"


class Room(msgspec.Struct, frozen=True):
    """How much of the caps over all symbols one series may use, long and short, as fractions.

    The limits say which cap it is.
    """

    long: float = 1.0
    short: float = 1.0
    long_limit: Limit = Limit.GROSS_CAP
    short_limit: Limit = Limit.GROSS_CAP


class Mandate(msgspec.Struct, frozen=True):
    """What holds for all symbols: the brain's state, and cap and leverage of the policy's mode.

    Leverage is how much of the risk budget is used: above 1 it widens what Kelly and volatility
    allow, below 1 it shrinks everything. It never lifts a target above confidence or cap.
    """

    state: State
    mode_cap: float
    leverage: float


class Ask(msgspec.Struct, frozen=True):
    """What is known of one symbol: its level and forecast, and what it held before.

    `previous` is the target of the bar before. `volatility` is that of its returns, annualised,
    a fraction; None: not known. `base_share` is the base-rate forecast's weight. `reliability` is
    how much of the edge the evidence supports, 0 to 1. All numbers are fractions.
    """

    level: Level
    probability: float
    confidence: float
    previous: float
    volatility: float | None
    base_share: float
    reliability: float = 1.0


class Sized(msgspec.Struct, frozen=True):
    """A target, and which limits held it there; none where the forecast itself is the bound."""

    target: float
    reasons: tuple[Limit, ...]

    @property
    def stance(self) -> Stance:
        if self.target == 0.0:
            return Stance.FLAT
        return Stance.LONG if self.target > 0.0 else Stance.SHORT


def annualised(volatility: float, interval_ms: int) -> float:
    """A volatility per bar as one of a year of 365 days, by the square root of time.

    >>> round(annualised(0.01, 86_400_000), 4)
    0.191
    """
    return volatility * math.sqrt(YEAR_MS / interval_ms)


def size(ask: Ask, mandate: Mandate, room: Room, settings: RiskSettings) -> Sized:
    """The target of a symbol: its confidence, or the smallest limit; its sign is the level's.

    Each limit is a number that |target| may not exceed; they are listed in docs/risk.md. A figure
    that is not finite, or a volatility below 0, gives 0 and `non_finite`. Kelly's bet at even odds
    is 2p − 1 of the equity (Kelly 1956; Thorp 2006); a fraction of it, with p drawn to 0.5 by the
    reliability of the evidence, stands for what is not known of p (MacLean, Thorp, Ziemba 2010).

    >>> ask = Ask(Level.STRONG_LONG, 0.8, 0.6, 0.0, 0.5, 0.1)
    >>> size(ask, Mandate(State.ACTIVE, 0.7, 1.0), Room(), RiskSettings())
    Sized(target=0.25, reasons=(<Limit.CHANGE_PER_BAR: 'change_per_bar'>,))
    """
    if not _is_usable(ask, mandate, room):
        return Sized(0.0, (Limit.NON_FINITE,))
    if mandate.state is State.HALTED:
        return Sized(0.0, (Limit.HALTED,))
    direction = _direction(ask.level)
    if not direction:
        return Sized(0.0, ())
    wanted, limits = _own_limits(ask, mandate, settings, direction)
    held = max(direction * ask.previous, 0.0)
    limits.append((Limit.CHANGE_PER_BAR, held + settings.change_per_bar))
    limits.append((room.long_limit, room.long) if direction > 0 else (room.short_limit, room.short))
    if mandate.state is State.REDUCING:
        limits.append((Limit.REDUCING, held))
    allowed = max(min(value for _, value in limits), 0.0)
    if allowed >= wanted:
        return Sized(direction * wanted if wanted else 0.0, ())
    reasons = tuple(limit for limit, value in limits if value <= allowed)
    return Sized(direction * allowed if allowed else 0.0, reasons)


def wanted_target(ask: Ask, mandate: Mandate, settings: RiskSettings) -> float:
    """The target that a symbol would have alone: for `allot`, which shares out what is there.

    What it held before and what the brain says do not count. 0 for figures that cannot be used.
    """
    direction = _direction(ask.level)
    if not direction or not _is_usable(ask, mandate, Room()):
        return 0.0
    wanted, limits = _own_limits(ask, mandate, settings, direction)
    return direction * max(min(wanted, *(value for _, value in limits)), 0.0)


def _own_limits(
    ask: Ask, mandate: Mandate, settings: RiskSettings, direction: int
) -> tuple[float, list[tuple[Limit, float]]]:
    """What the forecast is worth, and the limits that need nothing but the symbol itself."""
    edge = max(direction * (ask.probability - 0.5), 0.0)
    share = level_size(ask.level, settings)
    leverage = max(mandate.leverage, 0.0)
    appetite = leverage * share
    # Confidence only falls: neither what is given nor what the probability says is exceeded.
    wanted = share * max(min(ask.confidence, 2.0 * edge, 1.0), 0.0)
    shrunk = edge * min(max(ask.reliability, 0.0), 1.0)
    limits = [
        (Limit.MODE_CAP, mandate.mode_cap),
        (Limit.SYMBOL_CAP, settings.exposure_cap),
        (Limit.LEVERAGE, wanted * leverage),
        (Limit.BASE_RATE, wanted * (1.0 - min(max(ask.base_share, 0.0), 1.0))),
        (Limit.KELLY, settings.kelly_fraction * appetite * 2.0 * shrunk),
    ]
    if ask.volatility is None:
        limits.append((Limit.VOLATILITY_UNKNOWN, settings.unknown_volatility_cap))
    elif ask.volatility > 0.0:
        allowed = appetite * settings.volatility_target / ask.volatility
        limits.append((Limit.VOLATILITY_TARGET, allowed))
    return wanted, limits


def _is_usable(ask: Ask, mandate: Mandate, room: Room) -> bool:
    """Whether all is finite; a sum would not say, since it could overflow."""
    return (
        math.isfinite(ask.probability)
        and math.isfinite(ask.confidence)
        and math.isfinite(ask.previous)
        and (ask.volatility is None or 0.0 <= ask.volatility < math.inf)
        and math.isfinite(ask.base_share)
        and math.isfinite(ask.reliability)
        and math.isfinite(mandate.mode_cap)
        and math.isfinite(mandate.leverage)
        and math.isfinite(room.long)
        and math.isfinite(room.short)
    )


def _direction(level: Level) -> int:
    stance = stance_of(level)
    return 1 if stance is Stance.LONG else -1 if stance is Stance.SHORT else 0
