"""What a commit costs, beside two other ways of writing signals, and what snapshots add to it."""

import asyncio
import contextlib
import gc
import statistics
import tempfile
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

import msgspec

from benchmarks import snapshots
from benchmarks.redis_cost import Cost, show
from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.commit import SIGNALS_KEPT, Kept, Ledger
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.engine import Now
from quantum_ai_engine.events import Signal, encode_bar
from quantum_ai_engine.state.record import Record

AGENTS = ("gru", "patchtst", "xgboost", "lightgbm", "momentum", "sigor")
COMMITS = {1: 500, 20: 100, 100: 40, 1_000: 6}  # batch → commits in a run
RUNS = 9
LONGEST = max(batch * commits for batch, commits in COMMITS.items())  # bars of a run
STALL_BATCH = 100
LATENCY_US = {"decode": 812, "features": 431, "predict": 2_204, "decide": 365}
GROUP, CONSUMER = "engine", "one"

_JSON = msgspec.json.Encoder()


class Way(Protocol):
    """One way to write the signals of a step and to move the position; `of` names its commands."""

    name: str
    of: tuple[str, ...]

    async def begin(self) -> None:
        """Go back to the first bar."""

    async def commit(self, first: int, end: int, signals: Sequence[Signal]) -> None:
        """Deal with the bars from `first` up to, and without, `end`."""


class Script:
    """The engine's own, with a record of each signal."""

    name = "the commit script"
    of: tuple[str, ...] = ("evalsha",)

    def __init__(self, client: Client, ids: Sequence[str], records: Sequence[Record]) -> None:
        self.keys = Keys("script")
        self.ledger = Ledger(client, self.keys, 60_000, Holder.here())
        self._client, self._ids = client, ids
        self._records = {_bar(r.symbol, r.prediction.close_time): r for r in records}

    async def begin(self) -> None:
        await self.ledger.acquire()
        await self._client.hset(self.keys.state, "offset", self._ids[0])

    async def commit(self, first: int, end: int, signals: Sequence[Signal]) -> None:
        records = [self._records[_bar(s.symbol, s.close_time)] for s in signals]
        kept = Kept(records, risk="ACTIVE")
        await self.ledger.commit(self._ids[first], self._ids[end], signals, [], None, kept)


class Transaction:
    """MULTI/EXEC and a consumer group: what is acknowledged is not read again."""

    name = "MULTI/EXEC, consumer group"
    of: tuple[str, ...] = ("multi", "exec")

    def __init__(self, client: Client, ids: Sequence[str]) -> None:
        self.keys = Keys("transaction")
        self._client, self._ids = client, ids

    async def begin(self) -> None:
        bars = self.keys.bars
        await self._client.xgroup_destroy(bars, GROUP)
        await self._client.xgroup_create(bars, GROUP, self._ids[0])
        await self._client.xreadgroup(GROUP, CONSUMER, {bars: ">"}, count=LONGEST)

    async def commit(self, first: int, end: int, signals: Sequence[Signal]) -> None:
        async with self._client.pipeline(transaction=True) as pipe:
            for signal in signals:
                entry = _JSON.encode(signal)
                pipe.xadd(self.keys.signals, {"json": entry}, maxlen=SIGNALS_KEPT)
                pipe.publish(self.keys.signal_channel(signal.symbol), entry)
            pipe.hset(self.keys.state, "offset", self._ids[end])
            pipe.xack(self.keys.bars, GROUP, *self._ids[first + 1 : end + 1])
            await pipe.execute()


class Append:
    """Signals alone: nothing says how far the engine has come, and nobody is told."""

    name = "XADD alone"
    of: tuple[str, ...] = ("xadd",)

    def __init__(self, client: Client) -> None:
        self.keys = Keys("append")
        self._client = client

    async def begin(self) -> None:
        pass

    async def commit(self, first: int, end: int, signals: Sequence[Signal]) -> None:  # noqa: ARG002
        async with self._client.pipeline(transaction=False) as pipe:
            for signal in signals:
                entry = _JSON.encode(signal)
                pipe.xadd(self.keys.signals, {"json": entry}, maxlen=SIGNALS_KEPT)
            await pipe.execute()


def section() -> str:
    """Text and tables of the page."""
    return asyncio.run(_section())


async def _section() -> str:
    async with _redis() as client:
        signals, records, bars = await _signals()
        ids = [f"{i + 1}-0" for i in range(LONGEST + 1)]
        script = Script(client, ids, records)
        ways: list[Way] = [script, Transaction(client, ids), Append(client)]
        for keys in (Keys("script"), Keys("transaction")):
            async with client.pipeline(transaction=False) as pipe:
                for i, entry in enumerate(ids):
                    pipe.xadd(keys.bars, {"b": bars[i % len(bars)]}, id=entry)
                await pipe.execute()
        for way in ways:
            await _fill(way, signals)
        reading = Cost()
        await reading.measure(client, (), ways[1].begin)
        rows = [row for batch in COMMITS for row in await _rows(client, ways, batch, signals)]

        async def commit() -> None:
            await script.begin()
            await script.commit(0, STALL_BATCH, signals[:STALL_BATCH])

        stalls = [await snapshots.row(client, n, script.ledger, commit) for n in snapshots.SERIES]
    size = statistics.mean(len(_JSON.encode(signal)) for signal in signals)
    return "\n".join(
        [
            f"One signal of {size:,.0f} bytes per bar, into a Redis with an AOF (everysec) and "
            f"streams at their cap of {SIGNALS_KEPT:,}; the three ways in turn. *In commands* is "
            "what INFO commandstats says, in which reading a request and writing the AOF do not "
            "count; *server* is the CPU time of its main thread. Reading the bars is in no row; "
            f"with a consumer group it adds {reading.bytes_per(LONGEST)} bytes of AOF per bar.",
            "",
            "| way | batch | client, per commit | client, per bar | client CPU, per bar | "
            "in commands, per bar | server, per bar | AOF bytes per bar |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
            snapshots.TEXT + f" A commit is of {STALL_BATCH} bars.",
            "",
            snapshots.HEAD,
            *stalls,
        ]
    )


@contextlib.asynccontextmanager
async def _redis() -> AsyncIterator[Client]:
    """A server that does not rewrite its AOF, so that what is appended can be counted."""
    with tempfile.TemporaryDirectory(prefix="qae-commit-") as directory:
        async with (
            EmbeddedRedis(Path(directory)) as server,
            connect(RedisSettings(), server.url) as client,
        ):
            await client.config_set("auto-aof-rewrite-percentage", 0)
            yield client


def _bar(symbol: str, close_time: int) -> tuple[str, int]:
    return symbol, close_time


async def _signals() -> tuple[list[Signal], list[Record], list[bytes]]:
    """A thousand signals as the engine makes them, their records, and their bars in the stream."""
    engine, pool, market = snapshots.make_engine(100, AGENTS)
    await pool.start()
    bars = list(market.table(12).bars())
    done = await engine.process(bars, Now(), lambda _: contextlib.nullcontext())
    pool.close()
    made = [msgspec.structs.replace(s, latency_us=LATENCY_US) for s in done.signals[:1_000]]
    assert len(made) == 1_000
    return made, done.records, [encode_bar(bar) for bar in bars]


async def _fill(way: Way, signals: Sequence[Signal]) -> None:
    """Fill the stream of signals to its cap."""
    for _ in range(SIGNALS_KEPT // 5_000 + 1):
        await way.begin()
        for first in range(0, 5_000, 1_000):
            await way.commit(first, first + 1_000, signals)


async def _rows(
    client: Client, ways: Sequence[Way], batch: int, signals: Sequence[Signal]
) -> list[str]:
    """All ways in turn, A B C A B C …; a first run of each does not count."""
    bars, costs = batch * COMMITS[batch], [Cost() for _ in ways]
    for run in range(RUNS + 1):
        for way, cost in zip(ways, costs, strict=True):
            await way.begin()

            async def work(way: Way = way) -> None:
                for first in range(0, bars, batch):
                    at = first % (len(signals) - batch + 1)
                    await way.commit(first, first + batch, signals[at : at + batch])

            gc.collect()
            await (cost if run else Cost()).measure(client, way.of, work)
    return [
        f"| {way.name} | {batch:,} | {show(cost.wall, COMMITS[batch])} | "
        f"{show(cost.wall, bars)} | {show(cost.cpu, bars)} | "
        f"{show(cost.commands, bars)} | {show(cost.server, bars)} | "
        f"{cost.bytes_per(bars)} |"
        for way, cost in zip(ways, costs, strict=True)
    ]
