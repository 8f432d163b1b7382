"""Dividing the series of some states among others."""

from collections.abc import Callable, Sequence

from quantum_ai_engine.config import EngineSettings, IngestSettings
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.state.state import EngineState


def regroup(
    snapshots: Sequence[Sequence[bytes]],
    calendars: Calendars,
    partition_of: Callable[[str], int],
    partitions: int,
) -> list[list[bytes]]:
    """Snapshots of some partitions as snapshots of `partitions` others, each symbol in its own.

    Raises `SnapshotError`.
    """
    state = EngineState((), calendars, EngineSettings(), IngestSettings())
    for parts in snapshots:
        state.restore(parts)
    names = state.names()
    return [
        state.snapshot([name for name in names if partition_of(name[0]) == partition])
        for partition in range(partitions)
    ]
