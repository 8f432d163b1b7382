"""What a scrape of /metrics costs: its size, and for how long the event loop stands still."""

import asyncio
import statistics
import time
from collections.abc import Callable, Iterator
from itertools import cycle, islice

from benchmarks.day import by_minute, round_the_clock
from benchmarks.judging_cost import LEFT_OUT, SEED, START_MS, Constant, Ready
from benchmarks.measure import Timing, measure
from quantum_ai_engine.agents.pool import AgentPool
from quantum_ai_engine.config import EngineSettings, Settings
from quantum_ai_engine.daemon.judged import JudgedCollector
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.stopwatch import Stopwatch
from quantum_ai_engine.engine import Engine, Identity, Now
from quantum_ai_engine.events import Bar
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.paper import PaperMarket

AGENTS, SYMBOLS = 8, (1, 1_000)
LEARNT, SERVED = 300, 30  # minutes without predictions, and with
TEXT = (
    f"`/metrics` of an engine with {AGENTS} agents whose predictions have settled. It is written "
    "on the event loop, which does nothing else meanwhile; its CPU time is what a machine of its "
    "own would take. Nothing is by symbol."
)
HEAD = "| symbols | samples | bytes | written in | CPU |\n|---|---|---|---|---|"
RUNS = 99


def section() -> str:
    """The section's text."""
    return "\n".join([TEXT, "", HEAD, *(row(symbols) for symbols in SYMBOLS)])


def row(symbols: int) -> str:
    metrics = asyncio.run(served(symbols))
    text = metrics.render()
    samples = sum(not line.startswith(b"#") for line in text.splitlines())
    took = measure(metrics.render, 1, runs=RUNS).show("ms")
    return f"| {symbols:,} | {samples:,} | {len(text):,} | {took} | {cpu_of(metrics.render)} |"


def cpu_of(work: Callable[[], object]) -> str:
    """CPU time of this thread for the work, over as many runs."""
    seconds = []
    for _ in range(RUNS):
        began = time.thread_time()
        work()
        seconds.append(time.thread_time() - began)
    return Timing(statistics.median(seconds), min(seconds), max(seconds)).show("ms")


async def served(symbols: int) -> Metrics:
    """The metrics of an engine that has served so many symbols for a while."""
    sets = islice(cycle(SETS.values()), AGENTS)
    agents = [Constant(f"agent{i}", feature_set) for i, feature_set in enumerate(sets)]
    settings = Settings(engine=EngineSettings(clock="bars"))
    engine = Engine(settings, Ready(agents), Identity("cost", "", ""), Calendars({}))
    metrics = Metrics("0.1.0", "benchmark", "0123456789ab")
    metrics.observe_pool(AgentPool(agents, 1, 60.0, lambda *_: None, lambda *_: None))
    metrics.registry.register(JudgedCollector(lambda: [engine.state.judgement]))
    minutes = minutes_of(symbols)
    for minute in islice(minutes, LEARNT):
        engine.learn(minute)
    for minute in minutes:
        watch = Stopwatch(metrics)
        done = await engine.process(minute, Now(), watch)
        for agent in agents:
            metrics.inference.labels(agent.name).observe(0.01)
        metrics.update(done, [], watch.seconds())
    return metrics


def minutes_of(symbols: int) -> Iterator[list[Bar]]:
    """The bars of a paper market, minute by minute."""
    paper = PaperMarket(SEED, symbols + LEFT_OUT, start_ms=START_MS)
    table = round_the_clock(paper.table(LEARNT + SERVED))
    kept = set(table.symbols[:symbols])
    for bars in by_minute(table):
        yield [bar for bar in bars if bar.symbol in kept]
