"""The ensemble: agents' probabilities combined in log-odds by trust."""

import math
from collections.abc import Sequence

from quantum_ai_engine.events import Abstention, Forecast, Vote

_LIMIT = 1e-6  # a certainty of 0 or 1 would outvote everybody for ever


def combine(votes: Sequence[Vote], abstained: Sequence[Abstention]) -> Forecast | None:
    """The trust-weighted mean of log-odds (logarithmic pooling, Genest and Zidek 1986).

    Effective votes are 1 / Σ trust² (Kish 1965). None when nobody with trust voted: there is no
    fallback.

    >>> both = combine([Vote("a", "x", 0.5, 0.5), Vote("b", "y", 0.8, 0.5)], [])
    >>> round(both.probability, 4), both.effective_votes
    (0.6667, 2.0)
    >>> combine([], []) is None
    True
    """
    log_odds = squares = 0.0
    is_heard = False
    for vote in votes:
        trust = vote.trust
        is_heard |= trust > 0.0
        log_odds += trust * _log_odds(vote.probability)
        squares += trust**2
    if not is_heard:
        return None
    probability = 1.0 / (1.0 + math.exp(-log_odds))
    confidence = 2.0 * abs(probability - 0.5)
    return Forecast(probability, confidence, tuple(votes), tuple(abstained), 1.0 / squares)


def _log_odds(probability: float) -> float:
    p = min(max(probability, _LIMIT), 1.0 - _LIMIT)
    return math.log(p / (1.0 - p))
