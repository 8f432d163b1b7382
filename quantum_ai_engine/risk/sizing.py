"""Sizing: how much to hold is what the forecast is worth, or the smallest of all limits."""

import math
from enum import StrEnum

import msgspec

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.stance import Level, direction_of, level_size

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


_OWN = (Limit.MODE_CAP, Limit.SYMBOL_CAP, Limit.LEVERAGE, Limit.BASE_RATE, Limit.KELLY)
_OWN_KNOWN = (*_OWN, Limit.VOLATILITY_TARGET)
_OWN_UNKNOWN = (*_OWN, Limit.VOLATILITY_UNKNOWN)
# In Python 3.11 a member that is asked of its class costs a call: these are asked for every bar.
_LONG, _SHORT, _FLAT = Stance
_HALTED, _REDUCING = State.HALTED, State.REDUCING


class Room(msgspec.Struct, frozen=True, gc=False):
    """How much of the caps over all symbols one series may use, long and short, as fractions.

    The limits say which cap it is.
    """

    long: float = 1.0
    short: float = 1.0
    long_limit: Limit = Limit.GROSS_CAP
    short_limit: Limit = Limit.GROSS_CAP


class Mandate(msgspec.Struct, frozen=True, gc=False):
    """What holds for all symbols: the brain's state, and cap and leverage of the policy's mode.

    Leverage is how much of the risk budget is used: above 1 it widens what Kelly and volatility
    allow, below 1 it shrinks everything. It never lifts a target above confidence or cap.
    """

    state: State
    mode_cap: float
    leverage: float


class Ask(msgspec.Struct, frozen=True, gc=False):
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


class Sized(msgspec.Struct, frozen=True, gc=False):
    """A target, and which limits held it there; none where the forecast itself is the bound.

    `wanted` is the target that the symbol would have alone: for `allot`, which shares out what is
    there. What it held before and what the brain says do not count. 0 for figures that cannot be
    used.
    """

    target: float
    reasons: tuple[Limit, ...] = ()
    wanted: float = 0.0

    @property
    def stance(self) -> Stance:
        if self.target == 0.0:
            return _FLAT
        return _LONG if self.target > 0.0 else _SHORT


_NOTHING, _UNUSABLE = Sized(0.0), Sized(0.0, (Limit.NON_FINITE,))


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
    >>> sized = size(ask, Mandate(State.ACTIVE, 0.7, 1.0), Room(), RiskSettings())
    >>> sized.target, [str(limit) for limit in sized.reasons], round(sized.wanted, 6)
    (0.25, ['change_per_bar'], 0.3)
    """
    if not _is_usable(ask, mandate):
        return _UNUSABLE
    direction, wanted = direction_of(ask.level), 0.0
    if direction:
        worth, names, limits = _own_limits(ask, mandate, settings, direction)
        wanted = direction * max(min(worth, *limits), 0.0)
    if not math.isfinite(room.long) or not math.isfinite(room.short):
        return Sized(0.0, _UNUSABLE.reasons, wanted)
    if mandate.state is _HALTED:
        return Sized(0.0, (Limit.HALTED,), wanted)
    if not direction:
        return _NOTHING
    is_long, held = direction > 0, max(direction * ask.previous, 0.0)
    limits += (held + settings.change_per_bar, room.long if is_long else room.short)
    if mandate.state is _REDUCING:
        limits.append(held)
    allowed = max(min(limits), 0.0)
    if allowed >= worth:
        return Sized(direction * worth if worth else 0.0, (), wanted)
    shared = room.long_limit if is_long else room.short_limit
    names = (*names, Limit.CHANGE_PER_BAR, shared, Limit.REDUCING)  # the last, where it reduces
    reasons = tuple(name for name, value in zip(names, limits, strict=False) if value <= allowed)
    return Sized(direction * allowed if allowed else 0.0, reasons, wanted)


def _own_limits(
    ask: Ask, mandate: Mandate, settings: RiskSettings, direction: int
) -> tuple[float, tuple[Limit, ...], list[float]]:
    """What the forecast is worth, and the limits that need nothing but the symbol itself."""
    edge = max(direction * (ask.probability - 0.5), 0.0)
    share = level_size(ask.level, settings)
    leverage = max(mandate.leverage, 0.0)
    appetite = leverage * share
    # Confidence only falls: neither what is given nor what the probability says is exceeded.
    worth = share * max(min(ask.confidence, 2.0 * edge, 1.0), 0.0)
    shrunk = edge * min(max(ask.reliability, 0.0), 1.0)
    limits = [
        mandate.mode_cap,
        settings.exposure_cap,
        worth * leverage,
        worth * (1.0 - min(max(ask.base_share, 0.0), 1.0)),
        settings.kelly_fraction * appetite * 2.0 * shrunk,
    ]
    if ask.volatility is None:
        limits.append(settings.unknown_volatility_cap)
        return worth, _OWN_UNKNOWN, limits
    if ask.volatility > 0.0:
        limits.append(appetite * settings.volatility_target / ask.volatility)
        return worth, _OWN_KNOWN, limits
    return worth, _OWN, limits


def _is_usable(ask: Ask, mandate: Mandate) -> bool:
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
    )
