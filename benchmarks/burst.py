"""A thousand symbols close at one minute: time to the last signal, and who was shed."""

import asyncio
import contextlib
import os
import statistics
import tempfile
import time
from collections import Counter
from pathlib import Path

from quantum_ai_engine.agents.budget import bound_threads
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool, worker_count
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.events import Abstained, Signal
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

START_MS = 1_735_689_600_000
SYMBOLS, HISTORY, MINUTES = 1_000, 300, 12
FIRST_FOUR = ("gru", "patchtst", "xgboost", "lightgbm")
ALL = (*FIRST_FOUR, "sigor", "momentum", "nhits", "transformer")
CASES = ((FIRST_FOUR, 5.0), (ALL, 5.0), (ALL, 1.0))
OPTIONS = {
    "transformer": TrainOptions(epochs=1, samples_per_epoch=1_024, learning_rate=3e-4),
    "nhits": TrainOptions(epochs=1, samples_per_epoch=8_000),
    "gru": TrainOptions(epochs=1, samples_per_epoch=8_000),
    "patchtst": TrainOptions(epochs=1, samples_per_epoch=8_000),
}


def section() -> str:
    """Text and table of the page."""
    bound_threads()
    cores = len(os.sched_getaffinity(0))
    workers = worker_count(3.5, cores)
    return "\n".join(
        [
            f"{SYMBOLS:,} symbols of the paper market, each with {HISTORY} bars behind it, close "
            f"one minute together, {MINUTES} times; {workers} worker(s) on {cores} cores. Time is "
            "from the decoded batch to the last decided signal (features, all agents, decision), "
            "without Redis. CPU is that of the whole process while a burst lasts, per second. "
            "Agents are declared in the order in which they are named.",
            "",
            "| agents | deadline | burst, median | slowest | signals per burst | CPU, cores | "
            "abstained by deadline, per burst |",
            "|---|---|---|---|---|---|---|",
            *asyncio.run(_rows(workers)),
        ]
    )


async def _rows(workers: int) -> list[str]:
    with tempfile.TemporaryDirectory() as directory:
        market = PaperMarket(2, 8, start_ms=START_MS).table(3_000)
        for kind in ALL:
            train_bundle(
                kind, market, Path(directory), OPTIONS.get(kind, TrainOptions()), lambda _: None
            )
        return [
            await _row(Path(directory), names, deadline_s, workers) for names, deadline_s in CASES
        ]


async def _row(directory: Path, names: tuple[str, ...], deadline_s: float, workers: int) -> str:
    agents = [agent for agent in load_agents(directory, names) if agent.name in names]
    pool = AgentPool(agents, workers, deadline_s, lambda *_: None, lambda *_: None)
    await pool.start()
    identity = Identity("paper", "benchmark", "")
    settings = Settings(engine=EngineSettings(burn_in_bars=256))
    engine = Engine(settings, pool, identity, Calendars({}))
    market = PaperMarket(3, SYMBOLS, start_ms=START_MS)
    engine.learn(list(market.table(HISTORY).bars()))
    seconds, cpu, signals = [], [], []
    for _ in range(MINUTES):
        bars = list(market.table(1).bars())
        began, used = time.perf_counter(), time.process_time()
        done = await engine.process(bars, Now(), lambda _: contextlib.nullcontext())
        seconds.append(time.perf_counter() - began)
        cpu.append((time.process_time() - used) / seconds[-1])
        signals.append(done.signals)
    pool.close()
    return (
        f"| {', '.join(names)} | {deadline_s:g} s | {statistics.median(seconds) * 1e3:,.0f} ms | "
        f"{max(seconds) * 1e3:,.0f} ms | {statistics.median(map(len, signals)):,.0f} | "
        f"{statistics.median(cpu):.2f} | {_shed(signals)} |"
    )


def _shed(bursts: list[list[Signal]]) -> str:
    late = Counter(
        abstention.agent
        for signals in bursts
        for signal in signals
        for abstention in signal.abstained
        if abstention.reason is Abstained.DEADLINE
    )
    return ", ".join(f"{name} {n / len(bursts):,.0f}" for name, n in late.items()) or "nobody"
