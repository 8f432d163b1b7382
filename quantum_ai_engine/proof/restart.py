"""How soon a killed engine signals again: from a snapshot, with a bar of each symbol waiting.

A process with nothing to restore, on keys of its own, tells what imports, models and their warm-up
take; what a restart takes longer than that is the price of its state.
"""

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import numpy as np

from quantum_ai_engine.config import environment_name
from quantum_ai_engine.daemon.commit import Ledger
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.saved import SavedStateError, Snapshot
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.process import EngineProcess, ProofError
from quantum_ai_engine.proof.rig import Layout, Rig

WARM_STEPS = 160
STEP_ROWS = 2_000
SETTINGS: Mapping[str, Any] = {
    "engine.clock": "bars",
    # Until the bars have taught the state nobody need be asked.
    "engine.burn_in_bars": WARM_STEPS - 10,
    "ingest.lagging_ms": 86_400_000,
    "agents.deadline_ms": 60_000,
    "http.enabled": "false",
    "log.format": "json",
}


class Times(msgspec.Struct, frozen=True):
    """When things happened after the start of a process, in s.

    `load` is when another one, with nothing to restore, was ready; `beyond` is `signal` − `load`.
    """

    load: float
    ready: float
    restored: float
    signal: float

    @property
    def beyond(self) -> float:
        return self.signal - self.load


class Restarts(msgspec.Struct, frozen=True):
    """The restarts of an engine with so many symbols.

    `waiting` bars were there at each start, `replayed` is how many bars came after the snapshot,
    at most, `snapshot_bytes` how long that is.
    """

    symbols: int
    agents: tuple[str, ...]
    waiting: int
    replayed: int
    snapshot_bytes: int
    runs: tuple[Times, ...]

    def median(self, name: str) -> float:
        """Of a time by its name, over the runs."""
        return float(median(getattr(times, name) for times in self.runs))


@dataclass(frozen=True, slots=True, kw_only=True)
class RestartPlan:
    """What is restarted, and how often; nothing is in `home` yet."""

    table: BarTable
    bundles: Path
    home: Path
    runs: int


async def measure_restarts(plan: RestartPlan, report: Callable[[str], None]) -> Restarts:
    """Warm an engine up, then kill it and start it again, `runs` times.

    `report(what is done now)` is called now and then. Raises `ProofError` when nothing goes on.
    """
    settings = {**SETTINGS, "engine.state_dir": str(plan.home), "agents.bundles": str(plan.bundles)}
    rig = Rig(Layout(directory=plan.home, settings=settings), plan.table, os.environ, seed=0)
    steps = _steps(plan.table)[-plan.runs - 1 :]
    async with rig.running():
        report(f"warming up with {steps[0]:,} bars")
        rig.feeder.most_rows = STEP_ROWS
        await rig.revive()
        rig.feeder.want(steps[0])
        await rig.idle()
        await rig.patiently(lambda: _saved(rig), "no snapshot has been saved")
        runs = list[Times]()
        for upto in steps[1:]:
            report(f"restart {len(runs) + 1} of {plan.runs}")
            runs.append(await _restart(rig, upto))
        snapshot = await rig.patiently(lambda: _saved(rig), "no snapshot can be read")
    last = rig.processes[-plan.runs :]
    return Restarts(
        symbols=len(plan.table.symbols),
        agents=tuple(sorted(path.name for path in plan.bundles.iterdir())),
        waiting=steps[-1] - steps[-2],
        replayed=max(process.restored[0].bars for process in last),
        snapshot_bytes=sum(map(len, snapshot.parts)),
        runs=tuple(runs),
    )


async def _restart(rig: Rig, upto: int) -> Times:
    """Kill the engine, let bars arrive, start it again."""
    await rig.engines[0].kill()
    rig.feeder.want(upto)
    await rig.fed()
    load_s = await _load_s(rig)
    await rig.revive()
    process = rig.engines[0]
    await rig.idle()
    await rig.patiently(lambda: process.ready and process.restored, "an engine is not ready")
    assert process.ready is not None
    first: Any = await rig.client.xrange(rig.keys.signals, process.spawned_ms, count=1)
    if not first:
        raise ProofError("the bars that waited gave no signal")
    moments = (process.ready.at_ms, process.restored[0].at_ms, int(first[0][0].partition(b"-")[0]))
    return Times(load_s, *((moment - process.spawned_ms) / 1000 for moment in moments))


async def _load_s(rig: Rig) -> float:
    """How long a process with nothing to restore takes until it is ready."""
    process = EngineProcess({**rig.environ, environment_name("redis.prefix"): "nobody"})
    await process.start()
    try:
        await rig.patiently(lambda: process.ready, "an engine without a state is not ready")
    finally:
        await process.kill()
    assert process.ready is not None
    return (process.ready.at_ms - process.spawned_ms) / 1000


async def _saved(rig: Rig) -> Snapshot | None:
    """The snapshot, if there is one that is not being replaced by the next."""
    lease_ms = rig.loaded.settings.redis.lease_ms
    with contextlib.suppress(SavedStateError):
        return await Ledger(rig.client, rig.keys, lease_ms, Holder.here()).load()
    return None


def _steps(table: BarTable) -> list[int]:
    """After how many bars each moment of the table ends."""
    edges = np.flatnonzero(np.diff(table.open_time)) + 1
    return [*edges.tolist(), len(table)]
