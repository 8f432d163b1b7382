"""`qae demo`: everything at once on a paper market, from nothing to signals."""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from quantum_ai_engine.cli.common import progress_bar, say
from quantum_ai_engine.cli.feed import PAPER_START_MS, paper_tables, parse_speed, plan
from quantum_ai_engine.cli.serve import expected
from quantum_ai_engine.cli.train import describe, train_with_bar
from quantum_ai_engine.cli.watch import line
from quantum_ai_engine.client import SignalClient, Target
from quantum_ai_engine.config import Loaded, Settings, load, state_dir
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.app import Daemon, stop_on_signals
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.commit import START, Ledger
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.producer import MAX_SPEED, Producer, produce
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable

SYMBOLS, HISTORY_STEPS = 8, 4_000
EPOCHS, SAMPLES_PER_EPOCH = 3, {"gru": 20_000, "patchtst": 8_000}
ENVIRONMENT = "paper"

out = Console()


def demo(
    bars: Annotated[int | None, typer.Option(help="End after so many live bars.", min=1)] = None,
    speed: Annotated[str, typer.Option(help="60 = a minute of market a second, or max.")] = "60",
    seed: Annotated[int, typer.Option(help="Seed of the paper market.")] = 1,
    port: Annotated[int, typer.Option(help="Port of the live page.")] = 8001,
    directory: Annotated[
        Path | None, typer.Option(help="Its `bundles` folder keeps the agents.")
    ] = None,
) -> None:
    """A Redis, a paper market, two freshly trained agents and the engine: watch signals."""
    pace = parse_speed(speed)
    base = load(None)
    home = directory or state_dir(base.settings) / "demo"
    market = PaperMarket(seed, SYMBOLS, start_ms=PAPER_START_MS)
    out.print(f"[bold]1[/] a paper market of {SYMBOLS} symbols: {HISTORY_STEPS} minutes of history")
    history = market.table(HISTORY_STEPS)
    _train_missing(history, home / "bundles")
    with tempfile.TemporaryDirectory(prefix="qae-demo-") as scratch:
        overrides = {
            "engine.environment": ENVIRONMENT,
            "engine.clock": "bars",
            "engine.state_dir": scratch,
            "agents.bundles": str(home / "bundles"),
            "http.port": port,
            "log.level": "warning",
        }
        log = logs.configure("warning", "auto", environ=os.environ, stream=sys.stderr)
        try:
            asyncio.run(_demo(overrides, history, market, bars, pace))
        except BaseExceptionGroup as group:
            raise expected(group) or group from None
        finally:
            log.close()


def _train_missing(history: BarTable, directory: Path) -> None:
    """Train both agents on the history, unless there are bundles already."""
    if directory.is_dir() and any(directory.iterdir()):
        out.print(f"[bold]2[/] agents: the bundles in {directory}")
        return
    from quantum_ai_engine.training.options import TrainOptions

    out.print(
        f"[bold]2[/] agents: {' and '.join(SAMPLES_PER_EPOCH)} are trained on it, into {directory}"
    )
    options = {
        kind: TrainOptions(epochs=EPOCHS, samples_per_epoch=samples)
        for kind, samples in SAMPLES_PER_EPOCH.items()
    }
    with progress_bar() as bar:
        trained = [train_with_bar(kind, history, directory, options[kind], bar) for kind in options]
    for bundle in trained:
        describe(bundle)


async def _demo(
    overrides: dict[str, Any],
    history: BarTable,
    market: PaperMarket,
    bars: int | None,
    speed: float,
) -> None:
    async with EmbeddedRedis(Path(overrides["engine.state_dir"]) / "redis") as server:
        loaded = load(None, overrides=overrides | {"redis.url": server.url})
        async with connect(loaded.settings.redis, server.url) as client:
            await _teach(client, loaded.settings, history)
            daemon = Daemon(loaded, Notifier(None))
            with stop_on_signals(daemon.stop):
                await _show(daemon, client, loaded, paper_tables(market), bars, speed)


async def _teach(client: Client, settings: Settings, history: BarTable) -> None:
    """Put the history into the stream as bars that have been dealt with already."""
    keys = Keys.of(settings.redis)
    producer = Producer(client, keys, "history", ENVIRONMENT)
    await produce(producer, plan(iter([history]), 0, None, MAX_SPEED), 0, MAX_SPEED, lambda _: None)
    newest: Any = await client.xrevrange(keys.bars, count=1)
    ledger = Ledger(client, keys, settings.redis.lease_ms, Holder.here())
    await ledger.acquire()
    await ledger.commit(START, newest[0][0].decode(), [], [])
    await ledger.release()


async def _show(
    daemon: Daemon,
    client: Client,
    loaded: Loaded,
    tables: Iterator[BarTable],
    bars: int | None,
    speed: float,
) -> None:
    keys = Keys.of(loaded.settings.redis)
    async with asyncio.TaskGroup() as tasks:
        work = tasks.create_task(daemon.run())
        await daemon.ready.wait()
        out.print(
            f"[bold]3[/] serving: the live page is {daemon.http_address}/ · redis-cli -s "
            f"{loaded.settings.redis.url.removeprefix('unix://')} · Ctrl-C ends",
            soft_wrap=True,
        )
        began = time.monotonic()
        watching = tasks.create_task(_print_signals(loaded.settings))
        producer = Producer(client, keys, "live", ENVIRONMENT)
        steps = plan(tables, 0, bars, speed)
        feeding = tasks.create_task(produce(producer, steps, 0, speed, lambda _: None))
        feeding.add_done_callback(lambda _: None)
        await _until_done(daemon, feeding, bars)
        feeding.cancel()
        daemon.stop.set()
        await work
        watching.cancel()
    _summary(daemon, time.monotonic() - began)


async def _print_signals(settings: Settings) -> None:
    async for update in SignalClient(settings.redis.url, settings).follow():
        if isinstance(update, Target):
            say(line(update.signal), out)


async def _until_done(daemon: Daemon, feeding: "asyncio.Task[int]", bars: int | None) -> None:
    """Until Ctrl-C, or until all bars that were asked for have been dealt with."""
    stopped = asyncio.ensure_future(daemon.stop.wait())
    await asyncio.wait({stopped, feeding}, return_when=asyncio.FIRST_COMPLETED)
    while not daemon.stop.is_set() and daemon.status.seen < (bars or 0):  # noqa: ASYNC110 (a demo)
        await asyncio.sleep(0.05)
    stopped.cancel()


def _summary(daemon: Daemon, seconds: float) -> None:
    status = daemon.status
    latency = daemon.metrics.bar_to_signal
    out.print(
        f"[bold]4[/] {status.processed} bars, {status.duplicates} duplicates, {status.refused} "
        f"refused, {status.signals} signals in {seconds:.1f} s "
        f"({status.processed / seconds:,.0f} bars/s); bar to signal p50 "
        f"{quantile_ms(latency, 0.5)}, p99 {quantile_ms(latency, 0.99)}",
        soft_wrap=True,
        highlight=False,
    )


def quantile_ms(histogram: Any, q: float) -> str:
    """The bucket of a Prometheus histogram in which a quantile lies, as `≤ 5 ms`."""
    samples = [s for metric in histogram.collect() for s in metric.samples]
    buckets = [(float(s.labels["le"]), s.value) for s in samples if s.name.endswith("_bucket")]
    total = buckets[-1][1]
    if not total:
        return "no data"
    bound = next(le for le, count in buckets if count >= q * total)
    return f"≤ {bound * 1000:g} ms"
