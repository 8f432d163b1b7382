"""The families by the kind that a bundle names; each is imported only when it is trained."""

import pkgutil
from typing import TYPE_CHECKING

from quantum_ai_engine.training.options import TrainingError

if TYPE_CHECKING:
    from quantum_ai_engine.training.family import Family

FAMILIES = {
    kind: f"quantum_ai_engine.training.models.{place}"
    for kind, place in {
        "gru": "gru:FAMILY",
        "transformer": "transformer:FAMILY",
        "patchtst": "patchtst:FAMILY",
        "nhits": "nhits:FAMILY",
        "xgboost": "trees:XGBOOST",
        "lightgbm": "trees:LIGHTGBM",
        "sigor": "sigor:FAMILY",
        "momentum": "momentum:FAMILY",
    }.items()
}


def family(kind: str) -> "Family":
    """The family of that kind. Raises `TrainingError` when there is none or it cannot be used."""
    if kind not in FAMILIES:
        raise TrainingError(f"no kind {kind!r} can be trained; there are {', '.join(FAMILIES)}")
    try:
        found: Family = pkgutil.resolve_name(FAMILIES[kind])
    except ModuleNotFoundError as error:
        raise TrainingError(
            f"training {kind} needs {error.name}: pip install 'quantum-ai-engine[torch,trees]'"
        ) from error
    return found
