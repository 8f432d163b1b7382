"""What a snapshot of the engine's state costs, and how long commits stand still for it."""

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from benchmarks.redis_cost import Cost, show
from quantum_ai_engine.agents.load import load_agents
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import Ledger
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.snapshots import MOST_BARS, Snapshots
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.proof.agents import START_MS, train_agents

SERIES, TIMES = (200, 5_000), 7
HISTORY, STEPS_AT_ONCE = 340, 10  # as many bars as a series keeps, and then some
TEXT = (
    f"Snapshots at their default: one for every {EngineSettings().snapshot_bars} bars of each "
    f"series, for {MOST_BARS:,} bars at most. It is taken between two rounds and saved beside the "
    "next ones; CPU and bytes are those of both, per bar, and come on top of a commit's. The stall "
    "is the longest time from the end of one commit to the end of the next, made one after the "
    "other, while a snapshot is taken and saved, and for as long without one; medians of "
    f"{TIMES}."
)
HEAD = (
    "| series | snapshot | for bars | client CPU, per bar | server, per bar | AOF bytes per bar "
    "| taken in | saved in | stall | without |\n|" + "---|" * 10
)
Commit = Callable[[], Awaitable[None]]


def make_engine(
    series: int, agents: Sequence[str] = ("momentum", "sigor")
) -> tuple[Engine, AgentPool, PaperMarket]:
    """An engine whose series have a full history, its agents, and the market that goes on."""
    with tempfile.TemporaryDirectory() as directory:
        loaded = load_agents(train_agents(agents, Path(directory)), agents)
    pool = AgentPool(loaded, 1, 60.0, lambda *_: None, lambda *_: None)
    settings = Settings(engine=EngineSettings(clock="bars"))
    identity = Identity("live", "0.1.0+benchmark", "0123456789abcdef")
    engine = Engine(settings, pool, identity, Calendars({}))
    market = PaperMarket(4, series, start_ms=START_MS)
    for _ in range(HISTORY // STEPS_AT_ONCE):
        engine.learn(list(market.table(STEPS_AT_ONCE).bars()))
    return engine, pool, market


async def row(client: Client, n: int, ledger: Ledger, commit: Commit) -> str:
    """Of so many series: alone, and while `commit` commits one batch after the other."""
    engine, _, _ = make_engine(n)
    metrics = Metrics("", "", "")
    snapshots = Snapshots(ledger, EngineSettings(), metrics)
    cost, taken, saved = Cost(), [], []

    async def alone() -> None:
        began = time.perf_counter()
        await snapshots.take(engine, "1-0", "0-0")
        taken.append(time.perf_counter() - began)
        await snapshots.finish()
        saved.append(time.perf_counter() - began - taken[-1])

    for _ in range(TIMES):
        await cost.measure(client, (), alone)
    quiet, stalls = [], []
    for _ in range(TIMES):
        stalls.append(await _stall(commit, snapshots, engine))
        quiet.append(await _longest(commit, asyncio.sleep(statistics.median(cost.wall))))
    bars = min(EngineSettings().snapshot_bars * n, MOST_BARS)
    size = metrics.snapshot_bytes.collect()[0].samples[0].value
    return (
        f"| {n:,} | {size / 2**20:,.1f} MiB | {bars:,} | {show(cost.cpu, bars)} | "
        f"{show(cost.server, bars)} | {cost.bytes_per(bars)} | {show(taken, unit='ms')} | "
        f"{show(saved, unit='ms')} | {show(stalls, unit='ms')} | {show(quiet, unit='ms')} |"
    )


async def _stall(commit: Commit, snapshots: Snapshots, engine: Engine) -> float:
    await commit()
    began = time.perf_counter()
    await snapshots.take(engine, "1-0", "0-0")  # in place of a round
    await commit()
    return max(time.perf_counter() - began, await _longest(commit, snapshots.finish()))


async def _longest(commit: Commit, while_: Awaitable[None]) -> float:
    """The longest time from the end of one commit to that of the next, in the meantime."""
    meantime, longest, last = asyncio.ensure_future(while_), 0.0, time.perf_counter()
    while not meantime.done():
        await commit()
        longest, last = max(longest, time.perf_counter() - last), time.perf_counter()
    return longest
