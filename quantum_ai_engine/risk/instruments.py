"""Instruments: one that moves a multiple of its base, or against it, held in the base's place."""

import math
from collections.abc import Mapping

from quantum_ai_engine.events import Holding, Stance
from quantum_ai_engine.risk.stance import Level, stance_of


def instrument_for(level: Level, target: float, family: Mapping[str, float]) -> Holding:
    """What to hold instead of the base so that the exposure to it is the target.

    `family` maps each instrument to how many times it moves as the base, the base (1) first; see
    `RiskSettings.families`. A strong level takes the instrument with the largest multiple on its
    side, a weak long the base, and a weak short the mildest inverse; where there is no inverse,
    the base is sold short. The multiple lowers the capital that is needed, never raises the
    exposure. A target that contradicts its level, or is not finite, holds nothing.

    >>> family = {"QQQ": 1.0, "TQQQ": 3.0, "PSQ": -1.0, "SQQQ": -3.0}
    >>> instrument_for(Level.STRONG_LONG, 0.75, family)
    Holding(instrument='TQQQ', target=0.25)
    >>> instrument_for(Level.WEAK_SHORT, -0.3, family)
    Holding(instrument='PSQ', target=0.3)
    """
    name = _choose(level, family)
    if not math.isfinite(target) or not _agree(level, target):
        return Holding(name, 0.0)
    times = family[name]
    part = target / times
    if abs(part * times) > abs(target):  # by one rounding
        part = math.nextafter(part, 0.0)
    return Holding(name, part)


def holdings(level: Level, target: float, family: Mapping[str, float]) -> tuple[Holding, ...]:
    """The targets of all instruments of a family: one is held, the others are not."""
    held = instrument_for(level, target, family)
    return tuple(held if name == held.instrument else Holding(name, 0.0) for name in family)


def _choose(level: Level, family: Mapping[str, float]) -> str:
    names = list(family)
    if level is Level.STRONG_LONG:
        return max(names, key=family.__getitem__)
    inverses = [name for name in names if family[name] < 0.0]
    if level is Level.STRONG_SHORT and inverses:
        return min(inverses, key=family.__getitem__)
    if level is Level.WEAK_SHORT and inverses:
        return max(inverses, key=family.__getitem__)
    return names[0]


def _agree(level: Level, target: float) -> bool:
    stance = stance_of(level)
    return (target > 0.0 and stance is Stance.LONG) or (target < 0.0 and stance is Stance.SHORT)
