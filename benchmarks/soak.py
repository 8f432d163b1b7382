"""A long feed, accelerated, into a real `serve`: what its memory does, plotted.

`python -m benchmarks.soak [--bars N] [--symbols N] [--agents KIND,…] [--in-order] [--keep FILE]`
writes a row and the plot into docs/benchmarks.md; Ctrl-C ends it early, with what it has. With
`--show FILE` the samples kept there are shown again, and nothing is run.
"""

import argparse
import asyncio
import os
import signal
import socket
import tempfile
import time
from collections import deque
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import msgspec
import numpy as np

from benchmarks.__main__ import read, write
from benchmarks.soak_report import MIB, Sample, is_longest, parse, plot, table
from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.producer import Producer, Step
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.agents import train_agents
from quantum_ai_engine.proof.process import EngineProcess, environ_of

SECTION, BARS, SHORT_BARS = "soak", 10_000_000, 300_000
START_MS = 1_262_304_000_000  # 2010: even 10 million minutes are over by now
AHEAD = 20_000  # entries that the producer is in front of the engine at most
EVERY = 50_000  # bars between two samples
STEPS = 4  # of the market, sent together
LATE, REPEATED, REVISED, BROKEN, SILENT = 0.01, 0.01, 0.001, 0.0001, 0.002  # shares of bars
PATIENCE_S, POLL_S = 60.0, 0.005
SETTINGS = {
    "engine.clock": "bars",
    "http.host": "127.0.0.1",
    "log.level": "warning",
    "redis.bars_retention_hours": 0.01,
}
TEXT = (
    "A real `serve` with a Redis beside it (AOF, snapshots at their default), fed with bars of "
    f"the paper market as fast as it takes them, the producer at most {AHEAD:,} entries ahead. "
    f"{LATE:.0%} of the bars come late by 1 to {STEPS - 1}, {REPEATED:.0%} twice, {REVISED:.1%} "
    f"once more with another volume; {BROKEN:.2%} cannot have happened; for {SILENT:.1%} a symbol "
    f"is silent {STEPS} bars long, which come later in about every other case. *Growth* is that of "
    "the engine's resident memory, by least squares after the first tenth of the bars, in brackets "
    "the lowest and highest when any tenth of the rest is left out. Rates are medians of "
    f"{EVERY:,} bars each; p50 and p99 are from XREAD to the committed signal."
)


@dataclass
class Soak:
    """One run: what is asked for, and the samples so far."""

    bars: int
    symbols: int = 50
    agents: str = "momentum,sigor"
    in_order: bool = False
    keep: BinaryIO | None = None
    samples: list[Sample] = field(default_factory=list)
    stop: bool = False

    async def run(self) -> None:
        """Feed until all bars have been dealt with, or `stop`."""
        async with self._rig() as rig:
            began, due, sent = time.monotonic(), 0, 0
            for bars in self._tables():
                sent = await rig.send(bars, sent)
                done = await rig.until_near(sent, self.bars)
                is_last = done >= self.bars or self.stop
                if done >= due or is_last:
                    due = done - done % EVERY + EVERY
                    self._note(await rig.sample(self._what, began))
                if is_last:
                    return

    @property
    def _what(self) -> str:
        order = ", in order" if self.in_order else ""
        return f"{self.symbols}, {self.agents.replace(',', ' ')}{order}"

    def _tables(self) -> Iterator[BarTable]:
        market = PaperMarket(1, self.symbols, start_ms=START_MS)
        tables = iter(lambda: market.table(STEPS), None)
        return tables if self.in_order else mixed(tables)

    @asynccontextmanager
    async def _rig(self) -> AsyncIterator["Rig"]:
        """A server, and an engine that serves; both end with us."""
        async with AsyncExitStack() as stack:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="qae-soak-")))
            server = await stack.enter_async_context(EmbeddedRedis(home / "redis"))
            client = await stack.enter_async_context(connect(RedisSettings(), server.url))
            base = f"http://127.0.0.1:{(port := _free_port())}"
            session = await stack.enter_async_context(aiohttp.ClientSession(base))
            settings = SETTINGS | {
                "redis.url": server.url,
                "engine.state_dir": home,
                "agents.bundles": train_agents(self.agents.split(","), home / "agents"),
                "http.port": port,
            }
            engine = EngineProcess(environ_of(settings, os.environ))
            await engine.start()
            stack.push_async_callback(engine.stop)
            rig = Rig(server, engine, client, session)
            await rig.until_ready()
            yield rig

    def _note(self, sample: Sample) -> None:
        self.samples.append(sample)
        if self.keep is not None:
            self.keep.write(msgspec.json.encode(sample) + b"\n")
            self.keep.flush()
        print(
            f"{sample.bars:,} bars in {sample.seconds:,.0f} s, engine {sample.rss / MIB:.1f} MiB",
            flush=True,
        )


class Rig:
    """The running processes, and how far the engine is behind what was sent."""

    def __init__(
        self,
        server: EmbeddedRedis,
        engine: EngineProcess,
        client: Client,
        session: aiohttp.ClientSession,
    ) -> None:
        self._server = server
        self._engine = engine
        self._client = client
        self._session = session
        self._keys = Keys.of(RedisSettings())
        self._producer = Producer(client, self._keys, "soak", None)
        self._ahead: deque[tuple[tuple[int, int], int]] = deque([((0, 0), 0)])

    async def send(self, bars: BarTable, sent: int) -> int:
        """Send them after the first `sent`; how many have been sent then."""
        sent = await self._producer.send(Step(bars, 0, len(bars), 0), sent)
        newest: Any = await self._client.xrevrange(self._keys.bars, count=1)
        self._ahead.append((_order(newest[0][0]), sent))
        return sent

    async def until_near(self, sent: int, last: int) -> int:
        """How many have been dealt with, once that is near enough: all, from the last one on."""
        until, near = time.monotonic() + PATIENCE_S, 0 if sent >= last else AHEAD
        while True:
            offset: Any = await self._client.hget(self._keys.state, "offset")
            here = _order(offset or b"0-0")
            while len(self._ahead) > 1 and self._ahead[1][0] <= here:
                self._ahead.popleft()
            done = self._ahead[0][1]
            if sent - done <= near:
                return done
            if time.monotonic() > until or self._engine.status is not None:
                raise RuntimeError(f"the engine does not go on: {self._engine.last_words}")
            await asyncio.sleep(POLL_S)

    async def until_ready(self) -> None:
        until = time.monotonic() + PATIENCE_S
        while time.monotonic() < until and self._engine.status is None:
            try:
                async with self._session.get("/health/ready") as response:
                    if response.ok:
                        return
            except aiohttp.ClientConnectionError:
                pass  # it does not listen yet
            await asyncio.sleep(POLL_S * 10)
        raise RuntimeError(f"the engine has not become ready: {self._engine.last_words}")

    async def sample(self, what: str, began: float) -> Sample:
        """What there is to be seen now."""
        async with self._session.get("/metrics") as response:
            counts, latency = parse(await response.text())
        info: dict[str, Any] = await self._client.info()
        proc = Path("/proc", str(self._engine.pid))
        status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
        return Sample(
            what=what,
            bars=round(sum(counts.get(name, 0.0) for name in ("processed", "duplicate", "dead"))),
            seconds=time.monotonic() - began,
            rss=int(status["VmRSS"].split()[0]) * 1024,
            highest=int(status["VmHWM"].split()[0]) * 1024,
            threads=int(status["Threads"]),
            files=len(list((proc / "fd").iterdir())),
            redis=info["used_memory"],
            aof=info["aof_current_size"],
            cpu_s=(_cpu_s(self._engine.pid), _cpu_s(self._server.pid), time.process_time()),
            counts=counts,
            latency=latency,
        )


def mixed(tables: Iterator[BarTable], seed: int = 1) -> Iterator[BarTable]:
    """The same bars with some late, repeated, revised, broken or missing; each table in order."""
    chance = np.random.default_rng(seed)
    later: list[BarTable] = []
    for bars in tables:
        draw, newest = chance.random(len(bars)), bars.open_time == bars.open_time[-1]
        late = (draw < LATE * STEPS / (STEPS - 1)) & ~newest
        again = (draw > 1.0 - REPEATED) | late
        revised = (draw > 0.5) & (draw < 0.5 + REVISED)
        broken = chance.random(len(bars)) < BROKEN
        quiet = np.flatnonzero(chance.random(len(bars.symbols)) < SILENT)
        silent = np.isin(bars.symbol_index, quiet)
        bars.ohlcv[broken, 1] = 0.0  # a high below everything
        yield bars.where(~late & ~silent)
        bars.ohlcv[revised, 4] += 1.0
        after = bars.where((again | revised) & ~silent & ~broken)
        yield from (some for some in (after, *later) if len(some))
        later = [bars.where(silent)] if chance.random() < 0.5 else []


def _order(entry: bytes) -> tuple[int, int]:
    ms, _, number = entry.partition(b"-")
    return int(ms), int(number)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        return int(listening.getsockname()[1])


def _cpu_s(pid: int) -> float:
    fields = Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def section() -> str:
    """Text and table of the page; the plot beside it."""
    return shown(run(Soak(SHORT_BARS)))


def run(soak: Soak) -> list[Sample]:
    """The samples until all is done, or Ctrl-C."""

    async def watched() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, setattr, soak, "stop", True)
        await soak.run()

    asyncio.run(watched())
    return soak.samples


def shown(samples: list[Sample]) -> str:
    """The section with this run and those of other lengths; the longest one is plotted."""
    page = read(SECTION)
    if is_longest(samples, page):
        plot(samples)
    picture = "![memory of engine and Redis, as bars go by](soak.svg)"
    return "\n\n".join([TEXT, picture, table(samples, page)])


def show(samples: list[Sample]) -> None:
    """Write what there is into the page, and print it."""
    if len(samples) < 2:
        print("too few bars for a table")
        return
    text = shown(samples)
    write(SECTION, text)
    print(text, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak")
    parser.add_argument("--bars", type=int, default=BARS)
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--agents", default="momentum,sigor", help="kinds, separated by commas")
    parser.add_argument("--in-order", action="store_true", help="nothing late, twice or revised")
    parser.add_argument("--keep", type=Path, help="write samples to this file as they come")
    parser.add_argument("--show", type=Path, help="show the samples of this file; run nothing")
    given = parser.parse_args()
    if given.show is not None:
        lines = given.show.read_bytes().splitlines()
        show([msgspec.json.decode(line, type=Sample) for line in lines])
        return
    with open(given.keep or os.devnull, "wb") as keep:  # noqa: PTH123 (a device, too)
        soak = Soak(given.bars, given.symbols, given.agents, given.in_order, keep)
        try:
            run(soak)
        finally:
            show(soak.samples)


if __name__ == "__main__":
    main()
