"""Stance and target: thresholds with hysteresis, an absolute dead band, and a cap."""

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Stance


def next_stance(previous: Stance, probability: float, settings: RiskSettings) -> Stance:
    """The stance after a forecast, given the stance before it.

    A stance is entered at its threshold and left only when the probability falls back by more
    than the hysteresis. Inside the dead band around 0.5 it is flat whatever the thresholds say.

    >>> s = RiskSettings()  # long at 0.60, hysteresis 0.02
    >>> [str(next_stance(was, 0.59, s)) for was in (Stance.FLAT, Stance.LONG, Stance.SHORT)]
    ['flat', 'long', 'flat']
    """
    if abs(probability - 0.5) <= settings.dead_band:
        return Stance.FLAT
    long_at, short_at = settings.long_threshold, settings.short_threshold
    if previous is Stance.LONG:
        long_at -= settings.hysteresis
    if previous is Stance.SHORT:
        short_at += settings.hysteresis
    if probability >= long_at:
        return Stance.LONG
    if probability <= short_at:
        return Stance.SHORT
    return Stance.FLAT


def target_of(stance: Stance, confidence: float, exposure_cap: float) -> float:
    """Wanted exposure, a signed fraction of equity: the confidence, at most the cap.

    >>> target_of(Stance.SHORT, 0.9, 0.7), target_of(Stance.FLAT, 0.9, 0.7)
    (-0.7, 0.0)
    """
    if stance is Stance.FLAT:
        return 0.0
    size = min(confidence, exposure_cap)
    return size if stance is Stance.LONG else -size
