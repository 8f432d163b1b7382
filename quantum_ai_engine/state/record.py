"""What is kept of each decision, so that a restart knows what was predicted and said."""

import msgspec

from quantum_ai_engine.events import Prediction
from quantum_ai_engine.risk.positions import Said


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """A decision on one bar: what was predicted and, if a signal came of it, what that said.

    A bar may be looked at again in the same round: `look` counts how often it was before.
    """

    symbol: str
    interval: str
    prediction: Prediction
    said: Said | None
    look: int = 0
