"""The models by the kind that a bundle names."""

from quantum_ai_engine.training.models.gru import Gru
from quantum_ai_engine.training.models.patchtst import PatchTst

MODELS: dict[str, type[Gru] | type[PatchTst]] = {"gru": Gru, "patchtst": PatchTst}
