"""The whole daemon: bars into a real Redis, signals committed, with both agents."""

import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from quantum_ai_engine.cli.demo import quantile_ms
from quantum_ai_engine.cli.feed import plan
from quantum_ai_engine.config import load
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.producer import MAX_SPEED, Producer, produce
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

SYMBOLS, WARM_STEPS, FAST_STEPS, PACED_STEPS = 8, 3_000, 4_000, 30
START_MS = 1_735_689_600_000


def section() -> str:
    """Text and table of the page."""
    return "\n".join(
        [
            "Bars into a real Redis on the same machine, `gru` and `patchtst`, "
            f"{SYMBOLS} symbols of the paper market; from XREAD to the committed and published "
            "signal. The producer, the daemon and Redis share the cores; CPU and memory are those "
            "of producer and daemon together. At full speed a batch holds up to 1,000 bars, and "
            "every bar of it waits for the whole batch.",
            "",
            "| load | bars | signals | bars/s | p50 | p99 | CPU, cores | peak memory |",
            "|---|---|---|---|---|---|---|---|",
            *table(),
        ]
    )


def table() -> list[str]:
    """Rows of a markdown table."""
    log = logs.configure("warning", "console", environ={}, stream=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return asyncio.run(_run(Path(directory)))
    finally:
        log.close()


async def _run(directory: Path) -> list[str]:
    market = PaperMarket(1, SYMBOLS, start_ms=START_MS)
    warm = market.table(WARM_STEPS)
    options = TrainOptions(epochs=1, samples_per_epoch=8_000)
    for kind in ("gru", "patchtst"):
        train_bundle(kind, warm, directory / "bundles", options, lambda _: None)
    fast, paced = market.table(FAST_STEPS), market.table(PACED_STEPS)
    async with EmbeddedRedis(directory / "redis") as server:
        await _phase(directory, server.url, warm, MAX_SPEED)
        return [
            await _row("at full speed", directory, server.url, fast, MAX_SPEED),
            await _row("one bar per symbol per second", directory, server.url, paced, 60.0),
        ]


async def _row(what: str, directory: Path, url: str, bars: BarTable, speed: float) -> str:
    daemon, seconds, cpu_s = await _phase(directory, url, bars, speed)
    latency = daemon.metrics.bar_to_signal
    return (
        f"| {what} | {len(bars):,} | {daemon.status.signals:,} | {len(bars) / seconds:,.0f} | "
        f"{quantile_ms(latency, 0.5)} | {quantile_ms(latency, 0.99)} | {cpu_s / seconds:.2f} | "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB |"
    )


async def _phase(
    directory: Path, url: str, bars: BarTable, speed: float
) -> tuple[Daemon, float, float]:
    """One daemon, fed with these bars until all are dealt with."""
    overrides = {
        "engine.clock": "bars",
        "redis.url": url,
        "agents.bundles": str(directory / "bundles"),
        "http.enabled": False,
    }
    loaded = load(None, environ={}, overrides=overrides)
    daemon = Daemon(loaded, Notifier(None))
    async with connect(loaded.settings.redis, url) as client, asyncio.TaskGroup() as tasks:
        tasks.create_task(daemon.run())
        await daemon.ready.wait()
        began, cpu = time.perf_counter(), time.process_time()
        source = f"{bars.open_time[0]}"
        producer = Producer(client, Keys.of(loaded.settings.redis), source, None)
        await produce(producer, plan(iter([bars]), 0, None, speed), 0, speed, lambda _: None)
        while daemon.status.seen < len(bars):  # noqa: ASYNC110 (nothing announces it)
            await asyncio.sleep(0.002)
        seconds, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        daemon.stop.set()
    return daemon, seconds, cpu_s
