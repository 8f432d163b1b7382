"""From a forecast to how much to hold, by what is ruled."""

import msgspec

from quantum_ai_engine.config import RiskSettings
from quantum_ai_engine.events import Forecast, Stance
from quantum_ai_engine.risk.brain import State
from quantum_ai_engine.risk.sizing import Ask, Mandate, Room, size
from quantum_ai_engine.risk.stance import Level, next_level

_FLAT, _HALTED = Level.FLAT, State.HALTED
DATA_QUALITY = "data_quality"  # the reason why nothing is held of a feed that is not believed


class Terms(msgspec.Struct, frozen=True, gc=False):
    """What a ruling says of one series; `volatility` is annualised, None where it is not known."""

    mandate: Mandate
    room: Room
    volatility: float | None
    is_quarantined: bool


class Decision(msgspec.Struct, frozen=True, gc=False):
    """How much to hold, at which level, and which limits held it there.

    `wanted` is what it would be without the caps over all symbols.
    """

    level: Level
    stance: Stance
    target: float
    wanted: float
    reasons: tuple[str, ...]


def decide(
    before: tuple[Level, float],
    forecast: Forecast,
    base_share: float,
    terms: Terms,
    settings: RiskSettings,
) -> Decision:
    """What to hold after a forecast, given level and target before it.

    The base-rate forecast's share of trust says how little the evidence supports of the edge.
    """
    was, held = before
    level = next_level(was, forecast.probability, settings)
    if terms.is_quarantined or terms.mandate.state is _HALTED:
        level = _FLAT
    asked = Ask(
        level,
        forecast.probability,
        forecast.confidence,
        held,
        terms.volatility,
        base_share,
        1.0 - base_share,
    )
    sized = size(asked, terms.mandate, terms.room, settings)
    reasons = tuple(limit.value for limit in sized.reasons) if sized.reasons else ()
    if terms.is_quarantined:
        reasons = (DATA_QUALITY, *reasons)
    return Decision(level, sized.stance, sized.target, sized.wanted, reasons)
