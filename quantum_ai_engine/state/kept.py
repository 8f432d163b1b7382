"""What a snapshot holds of the judgement."""

from collections.abc import Sequence
from typing import TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Equity
from quantum_ai_engine.risk.brain import SavedBrain
from quantum_ai_engine.risk.policy import SavedPolicy
from quantum_ai_engine.state.told import SavedTold
from quantum_ai_engine.supervisor.ledger import Open, Void
from quantum_ai_engine.supervisor.quality import SavedQuality
from quantum_ai_engine.supervisor.scores import SavedScores
from quantum_ai_engine.supervisor.standing import Check, SavedStanding
from quantum_ai_engine.supervisor.trust import SavedTrust

Floats: TypeAlias = NDArray[np.float64]


class SavedJudgement(msgspec.Struct, frozen=True, array_like=True):
    """What belongs to no series: of `portfolio` the time, equity, cash and last profit."""

    agents: tuple[tuple[str, str], ...]
    settled: int
    voids: tuple[tuple[Void, int], ...]
    trust: SavedTrust
    standings: tuple[SavedStanding | None, ...]
    portfolio: tuple[int, float, float, float]
    policy: SavedPolicy
    common: Check | None
    reported: Equity | None
    brain: SavedBrain


class SavedPlaces(msgspec.Struct, frozen=True, array_like=True):
    """What belongs to some series; figures are little-endian float64."""

    open: tuple[tuple[Open, ...], ...]
    told: tuple[SavedTold, ...]
    scores: SavedScores
    quality: SavedQuality
    volatility: bytes
    units: bytes
    prices: bytes


def padded(data: bytes, series: int) -> Floats:
    """Figures of some series, with 0 for the others [series]."""
    rows = np.zeros(series)
    held = np.frombuffer(data, "<f8")
    rows[: len(held)] = held
    return rows


def taken(data: bytes, at: Sequence[int]) -> bytes:
    """The figures of the series at these places; 0 for one that has none."""
    return padded(data, max(at, default=-1) + 1 + len(data) // 8)[list(at)].astype("<f8").tobytes()
