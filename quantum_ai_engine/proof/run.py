"""A fault run: a scenario played on a rig, and its outcome judged by the twin."""

import bisect
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import msgspec

from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.faults import Scenario
from quantum_ai_engine.proof.process import EngineProcess
from quantum_ai_engine.proof.rig import Layout, Rig
from quantum_ai_engine.proof.twin import run_twin
from quantum_ai_engine.replay.verdict import Restored, States, Verdict, compare, compare_states

PAGE = 1000

# What every engine of a run is set to. Nothing here decides what a signal says: recorded bars have
# a clock of their own, and neither lag nor a slow machine may take an agent's vote away.
SETTINGS: Mapping[str, Any] = {
    "engine.clock": "bars",
    "engine.burn_in_bars": 0,
    "engine.snapshot_bars": 10,
    "redis.block_ms": 200,
    "redis.timeout_ms": 2000,
    "redis.backoff_max_ms": 50,
    "redis.lease_ms": 1000,
    "ingest.batch": 20,
    "ingest.lagging_ms": 86_400_000,
    "agents.deadline_ms": 60_000,
    "http.enabled": "false",
    "log.format": "json",
}


class Starts(msgspec.Struct, frozen=True):
    """How long processes took from their start: median and longest, s; None without a sample.

    `ready` until they were ready to serve, `restored` until they owned the partition and had its
    state, `signal` until the first signal was in the stream, where bars were waiting and one
    engine ran alone.
    """

    processes: int
    ready: tuple[float, float] | None
    restored: tuple[float, float] | None
    signal: tuple[float, float] | None


class Result(msgspec.Struct, frozen=True):
    """What came of a scenario; `bars` are those in the stream at its end."""

    scenario: str
    agents: tuple[str, ...]
    seed: int
    faults: int
    bars: int
    verdict: Verdict
    states: States
    starts: Starts
    seconds: float

    @property
    def is_exact(self) -> bool:
        return self.verdict.is_exact and not self.states.wrong and self.states.checked > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a scenario is played with; nothing is in `home` yet."""

    name: str
    scenario: Scenario
    faults: int
    table: BarTable
    bundles: Path
    home: Path
    seed: int


async def prove(plan: Plan, report: Callable[[int], None]) -> Result:
    """Play a scenario and judge it; `report(faults so far)` is called after each.

    Raises `ProofError` when it cannot be played to its end.
    """
    began = time.monotonic()
    rig = Rig(_layout(plan), plan.table, os.environ, plan.seed)
    async with rig.running():
        await _play(rig, plan, report)
        restored = [
            Restored(said.position or "", said.state_hash or "")
            for process in rig.processes
            for said in process.restored
        ]
        twin = await run_twin(rig.loaded, rig.client, {one.position for one in restored})
        signals = [entry async for entry in _signals(rig)]
    return Result(
        scenario=plan.name,
        agents=twin.agents,
        seed=plan.seed,
        faults=plan.faults + rig.proxy.cuts,
        bars=twin.bars,
        verdict=compare([signal for _, signal in signals], twin.signals),
        states=compare_states(restored, twin.hashes),
        starts=_starts(rig.processes, [at for at, _ in signals], plan.scenario.engines == 1),
        seconds=time.monotonic() - began,
    )


def _layout(plan: Plan) -> Layout:
    scenario = plan.scenario
    return Layout(
        directory=plan.home,
        settings={
            **SETTINGS,
            "engine.state_dir": str(plan.home),
            "agents.bundles": str(plan.bundles),
        },
        engines=scenario.engines,
        drop_share=scenario.drop_share,
        tear_share=scenario.tear_share,
    )


async def _play(rig: Rig, plan: Plan, report: Callable[[int], None]) -> None:
    """Feed the bars with the strikes spread over them: half of a strike's share comes before it."""
    bars, strikes = len(plan.table), plan.faults
    for done in range(strikes):
        rig.wanted = bars * (2 * done + 1) // (2 * strikes)
        await rig.revive()
        await rig.chance.choice(plan.scenario.strikes)(rig)
        rig.feeder.want(bars * (done + 1) // strikes)
        await rig.fed()
        report(done + 1)
    rig.feeder.want(bars)
    await rig.drained()


async def _signals(rig: Rig) -> AsyncIterator[tuple[int, bytes]]:
    """When each signal was written, in ms, and what it is."""
    after = "-"
    while True:
        page: Any = await rig.client.xrange(rig.keys.signals, after, count=PAGE)
        if not page:
            return
        for name, fields in page:
            yield int(name.partition(b"-")[0]), fields[b"json"]
        after = "(" + page[-1][0].decode()


def _starts(processes: Sequence[EngineProcess], written: Sequence[int], alone: bool) -> Starts:
    """How long starts took; `written` are the times of the signals, in ms."""
    ready = [p.ready.at_ms - p.spawned_ms for p in processes if p.ready is not None]
    restored = [p.restored[0].at_ms - p.spawned_ms for p in processes if p.restored]
    signal = [
        written[first] - begun
        for begun, ended in _spans(processes)
        if (first := bisect.bisect_left(written, begun)) < len(written) and written[first] < ended
    ]
    return Starts(
        len(processes), _summary(ready), _summary(restored), _summary(signal) if alone else None
    )


def _spans(processes: Sequence[EngineProcess]) -> list[tuple[int, float]]:
    """From the start of each process for which bars waited to the start of the next, in ms."""
    ends = [*(float(process.spawned_ms) for process in processes[1:]), float("inf")]
    return [
        (process.spawned_ms, end)
        for process, end in zip(processes, ends, strict=True)
        if process.bars_wait
    ]


def _summary(times_ms: Sequence[int]) -> tuple[float, float] | None:
    if not times_ms:
        return None
    return round(median(times_ms) / 1000, 3), round(max(times_ms) / 1000, 3)
