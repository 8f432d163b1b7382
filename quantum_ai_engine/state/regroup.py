"""Dividing the series of some states among others."""

from collections.abc import Callable, Sequence

from quantum_ai_engine.config import EngineSettings, IngestSettings, Settings
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.state.judged import Judged
from quantum_ai_engine.state.judgement import Judgement
from quantum_ai_engine.state.saved import Head, decode
from quantum_ai_engine.state.state import EngineState
from quantum_ai_engine.supervisor.ledger import Known
from quantum_ai_engine.supervisor.trust import BASE_PRIOR


def regroup(
    snapshots: Sequence[Sequence[bytes]],
    calendars: Calendars,
    partition_of: Callable[[str], int],
    partitions: int,
) -> list[list[bytes]]:
    """Snapshots of some partitions as snapshots of `partitions` others, each symbol in its own.

    Evidence and policy of the partition with most settled predictions go to all, and so does the
    strictest state of the risk brain; paper portfolios become cash. Raises `SnapshotError`.
    """
    heads = [decode(parts[0] if parts else b"", Head) for parts in snapshots]
    # What belongs to no series is that of the partition that has seen most.
    order = sorted(range(len(heads)), key=lambda i: heads[i].judgement.settled)
    agents = heads[order[-1]].judgement.agents if heads else ()
    judged = [Judged(Known(*agent), BASE_PRIOR, 0.5, None) for agent in agents]
    judgement = Judgement(judged, 1, Settings(), calendars)
    state = EngineState((), calendars, EngineSettings(), IngestSettings(), judgement)
    for i in order:
        state.restore(snapshots[i])
    judgement.liquidate()
    names = state.names()
    return [
        state.snapshot([name for name in names if partition_of(name[0]) == partition])
        for partition in range(partitions)
    ]
