"""HTTP under load while 1,000 symbols stream: answers, and what they do to live signals."""

import asyncio
import contextlib
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.burst import ALL, FIRST_FOUR, OPTIONS
from benchmarks.http_asker import Asked, Plan
from quantum_ai_engine.agents.budget import bound_threads
from quantum_ai_engine.config import load
from quantum_ai_engine.daemon import logs
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.events import Bar, encode_bar
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.options import TrainOptions

START_MS = 1_735_689_600_000
SYMBOLS, HISTORY, MINUTES = 1_000, 256, 12
MINUTE_S = 60.0
PHASE_S = 20.0
CASES = (FIRST_FOUR, ALL)
# What is asked, how many times a second (0: as often as it is answered), over how many connections.
LOADS = {
    "nothing": ("", 0.0, 0),
    "`/predict`, 100 a second": ("single", 100.0, 16),
    "`/predict` of ten, 20 a second": ("ten", 20.0, 16),
    "`/predict`, as fast as it goes": ("single", 0.0, 8),
    "`/metrics`, as fast as it goes": ("metrics", 0.0, 1),
    "200 browsers follow the overview: updates": ("page", 0.0, 200),
}


def section() -> str:
    """Text and table of the page."""
    bound_threads()
    return "\n".join(
        [
            f"{SYMBOLS:,} symbols of the paper market, each with {HISTORY} bars behind it, send "
            "one bar a minute each, spread evenly over the minute, through a real Redis. Meanwhile "
            "another process on the same machine asks over 127.0.0.1, at a fixed rate (a request's "
            "time begins when it is due) or as fast as 8 connections are answered, for "
            f"{PHASE_S:g} s each. *To signal* is from XADD to the published signal, with its ratio "
            "to that of the same run while nothing is asked; *in the round* is "
            "`qae_bar_to_signal_seconds`. CPU is that of the daemon and the producer. Redis and "
            "who asks share the cores with them.",
            "",
            "| agents | asked | answers/s | p50 | p99 | not 200 | to signal, p50 | p99 | ratio of "
            "p99 | in the round, p99 | ratio | CPU, cores |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
            *table(),
        ]
    )


def table() -> list[str]:
    """Rows of a markdown table."""
    log = logs.configure("warning", "console", environ={}, stream=sys.stderr)
    try:
        with tempfile.TemporaryDirectory() as directory:
            return asyncio.run(_cases(Path(directory)))
    finally:
        log.close()


async def _cases(directory: Path) -> list[str]:
    market, rows = PaperMarket(2, 8, start_ms=START_MS).table(3_000), []
    for kind in dict.fromkeys(name for names in CASES for name in names):
        options = OPTIONS.get(kind, TrainOptions())
        train_bundle(kind, market, directory / "bundles", options, lambda _: None)
    for names in CASES:
        bundles = directory / str(len(names))
        bundles.mkdir()
        for name in names:
            (bundles / name).symlink_to(directory / "bundles" / name)
        async with EmbeddedRedis(directory / f"redis{len(names)}") as server:
            rows += await _case(names, bundles, server.url)
    return rows


async def _case(names: tuple[str, ...], bundles: Path, url: str) -> list[str]:
    """One daemon: each load in turn, while bars stream."""
    rows, quiet = [], Live()
    async with _streaming(names, bundles, url) as (daemon, live):
        for what, (kind, rate, connections) in LOADS.items():
            live.clear()
            cpu_s = time.process_time()
            symbols = sorted({series[0] for series in daemon.rounds[0].engine.series()})
            plan = Plan(daemon.http_address, kind, rate, connections, PHASE_S, symbols)
            asked = await _load(plan)
            quiet = Live(list(live.to_signal_s), list(live.in_round_s)) if not kind else quiet
            lasted_s = PHASE_S if asked is None else asked.lasted_s
            cores = (time.process_time() - cpu_s) / lasted_s
            rows.append(f"{_row(f'{len(names)}', what, asked, live, quiet)} {cores:.2f} |")
            rested = daemon.metrics.registry.get_sample_value("qae_rest_seconds_total")
            print(rows[-1], f"rested {rested} s", file=sys.stderr, flush=True)
    return rows


@dataclass(slots=True)
class Live:
    """Seconds of live signals: from XADD until they were heard, and in their rounds.

    It stands in for the `histogram` of the latter, since buckets are too coarse for a ratio.
    """

    to_signal_s: list[float] = field(default_factory=list)
    in_round_s: list[float] = field(default_factory=list)
    histogram: Any = None

    def observe(self, seconds: float) -> None:
        self.in_round_s.append(seconds)
        self.histogram.observe(seconds)

    def collect(self) -> Any:
        return self.histogram.collect()

    def clear(self) -> None:
        self.to_signal_s.clear()
        self.in_round_s.clear()


@contextlib.asynccontextmanager
async def _streaming(
    names: tuple[str, ...], bundles: Path, url: str
) -> AsyncIterator[tuple[Daemon, Live]]:
    """A daemon with all symbols known, to which their bars stream; ended after."""
    overrides: dict[str, Any] = {
        "engine.clock": "bars",
        "engine.state_dir": str(bundles),
        "redis.url": url,
        "agents.bundles": str(bundles),
        "agents.order": list(names),
        "http.port": 0,
    }
    loaded = load(None, environ={}, overrides=overrides)
    daemon = Daemon(loaded, Notifier(None))
    live = Live(histogram=daemon.metrics.bar_to_signal)
    daemon.metrics.bar_to_signal = live  # type: ignore[assignment]
    market = PaperMarket(3, SYMBOLS, start_ms=START_MS)
    async with connect(loaded.settings.redis, url) as client, asyncio.TaskGroup() as tasks:
        life = tasks.create_task(daemon.run())
        await daemon.ready.wait()
        for _ in range(HISTORY):
            daemon.rounds[0].engine.learn(list(market.table(1).bars()))
            await asyncio.sleep(0)
        sent: dict[str, float] = {}
        others = [
            tasks.create_task(_produce(client, market.table(MINUTES).bars(), sent)),
            tasks.create_task(_listen(client, sent, live)),
        ]
        await asyncio.sleep(PHASE_S / 2)  # until costs are known and all is warm
        try:
            yield daemon, live
        finally:
            for task in others:
                task.cancel()
            daemon.stop.set()
            await life


async def _produce(client: Client, bars: Any, sent: dict[str, float]) -> None:
    """Send the bars of a minute evenly over a minute."""
    keys, began = Keys(load(None, environ={}).settings.redis.prefix), time.perf_counter()
    for i, bar in enumerate(bars):
        assert isinstance(bar, Bar)
        due = began + i * MINUTE_S / SYMBOLS
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent[bar.symbol] = time.perf_counter()
        await client.xadd(keys.bars, {"b": encode_bar(bar)})


async def _listen(client: Client, sent: dict[str, float], live: Live) -> None:
    """Take the time of every signal that is heard."""
    keys = Keys(load(None, environ={}).settings.redis.prefix)
    async with client.pubsub() as channel:
        await channel.psubscribe(keys.signal_channels)
        async for message in channel.listen():
            if message["type"] == "pmessage":
                symbol = message["channel"].decode().rpartition(":")[2]
                live.to_signal_s.append(time.perf_counter() - sent[symbol])


async def _load(plan: Plan) -> Asked | None:
    """Ask from another process for a phase; None when nothing is asked."""
    if not plan.kind:
        await asyncio.sleep(plan.seconds)
        return None
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.http_asker",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate(msgspec.json.encode(plan))
    return msgspec.json.decode(output, type=Asked)


def _row(agents: str, what: str, asked: Asked | None, live: Live, quiet: Live) -> str:
    signal, round_ = np.array(live.to_signal_s), np.array(live.in_round_s)
    cells = ["", "", "", ""]
    if asked is not None:
        size = f" ({asked.size:,} bytes)" if "metrics" in what else ""
        what += size
        cells = [
            f"{len(asked.seconds) / asked.lasted_s:,.0f}",
            _ms(np.array(asked.seconds), 0.5),
            _ms(np.array(asked.seconds), 0.99),
            f"{asked.refused}",
        ]
    ratios = [
        np.quantile(now, 0.99) / np.quantile(np.array(before), 0.99)
        for now, before in ((signal, quiet.to_signal_s), (round_, quiet.in_round_s))
    ]
    cells += [
        _ms(signal, 0.5),
        _ms(signal, 0.99),
        f"{ratios[0]:.2f} ×",
        _ms(round_, 0.99),
        f"{ratios[1]:.2f} ×",
    ]
    return f"| {agents} | {what} | {' | '.join(cells)} |"


def _ms(seconds: Any, quantile: float) -> str:
    return f"{1e3 * float(np.quantile(seconds, quantile)):,.1f} ms"
