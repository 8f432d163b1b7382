"""The stance: levels by thresholds with hysteresis, after an absolute dead band."""

import math
from enum import StrEnum

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance


class Level(StrEnum):
    """A stance and how sure of it: what the stance machine moves between."""

    STRONG_SHORT = "strong_short"
    WEAK_SHORT = "weak_short"
    FLAT = "flat"
    WEAK_LONG = "weak_long"
    STRONG_LONG = "strong_long"


_FLAT = Level.FLAT
_STANCES = {
    Level.STRONG_SHORT: Stance.SHORT,
    Level.WEAK_SHORT: Stance.SHORT,
    Level.FLAT: Stance.FLAT,
    Level.WEAK_LONG: Stance.LONG,
    Level.STRONG_LONG: Stance.LONG,
}
_DIRECTIONS = {
    level: (stance is Stance.LONG) - (stance is Stance.SHORT) for level, stance in _STANCES.items()
}
_WEAK = (Level.WEAK_LONG, Level.WEAK_SHORT)
_LONGS = (Level.FLAT, Level.WEAK_LONG, Level.STRONG_LONG)
_SHORTS = (Level.FLAT, Level.WEAK_SHORT, Level.STRONG_SHORT)


def stance_of(level: Level) -> Stance:
    """The stance of a level, as it is on the wire.

    >>> str(stance_of(Level.WEAK_SHORT))
    'short'
    """
    return _STANCES[level]


def direction_of(level: Level) -> int:
    """The sign of what a level holds.

    >>> [direction_of(level) for level in Level]
    [-1, -1, 0, 1, 1]
    """
    return _DIRECTIONS[level]


def level_size(level: Level, settings: RiskSettings) -> float:
    """What a level holds of what a strong one would, a fraction.

    >>> [level_size(level, RiskSettings()) for level in Level]
    [1.0, 0.5, 0.0, 0.5, 1.0]
    """
    if not _DIRECTIONS[level]:
        return 0.0
    return settings.weak_size if level in _WEAK else 1.0


def next_level(previous: Level, probability: float, settings: RiskSettings) -> Level:
    """The level after a forecast, given the level before it.

    A stance is entered at its threshold, and is strong from `strong_margin` beyond it; from weak
    to strong it takes `add_hysteresis` more. A level is left when the probability falls back by
    more than `exit_hysteresis`. A long never becomes short in one step, nor a short long: it is
    flat in between. Inside the dead band it is flat whatever the thresholds say, and so it is
    when the probability is not a number.

    >>> s = RiskSettings()  # long at 0.60, strong at 0.70, adding 0.02, exiting 0.05
    >>> [str(next_level(was, 0.71, s)) for was in (Level.FLAT, Level.WEAK_LONG, Level.STRONG_SHORT)]
    ['strong_long', 'weak_long', 'flat']
    """
    if not abs(probability - 0.5) > settings.dead_band:
        return _FLAT
    if probability > 0.5:
        weak, strong = _beyond(previous, 1, settings)
        at = settings.long_threshold
        return _LONGS[(probability >= at + weak) + (probability >= at + strong)]
    weak, strong = _beyond(previous, -1, settings)
    at = settings.short_threshold
    return _SHORTS[(probability <= at - weak) + (probability <= at - strong)]


def _beyond(previous: Level, side: int, settings: RiskSettings) -> tuple[float, float]:
    """How far beyond its threshold the probability makes a side weak, and strong."""
    was = _DIRECTIONS[previous]
    if not was:
        return 0.0, settings.strong_margin
    if was != side:
        return math.inf, math.inf
    moved = settings.add_hysteresis if previous in _WEAK else -settings.exit_hysteresis
    return -settings.exit_hysteresis, settings.strong_margin + moved
