"""Tests of snapshots: when they are due, and what holds while one fails."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from hashlib import sha1
from pathlib import Path

import pytest

from quantum_ai_engine.config import EngineSettings, IngestSettings, RedisSettings, Settings
from quantum_ai_engine.daemon import snapshots as snapshots_module
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.commit import START, Ledger
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.saved import BEGIN, END, PART, Snapshot
from quantum_ai_engine.daemon.snapshots import Snapshots
from quantum_ai_engine.engine import Engine
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.proxy import Proxy

from ..state.streams import bars_at, engine_of
from .lives import (
    at_the_end,
    cut_off,
    disordered,
    memory_of,
    nervous,
    restless,
    state_of,
    told,
    uninterrupted,
)
from .test_app import KEYS, changed, feed, serving, until, with_one_agent

SCRIPTS = {"begin": BEGIN, "part": PART, "end": END}
LAST = "99-0"
OLD = Snapshot("1-0", "0-0", (b"old",))


def sha(script: str) -> bytes:
    """The name by which a script is called."""
    return sha1(script.encode(), usedforsecurity=False).hexdigest().encode()


@pytest.fixture
def engine() -> Engine:
    """An engine that knows a series."""
    engine = engine_of(ingest=IngestSettings())
    engine.learn(bars_at(range(10)))
    return engine


@pytest.fixture
async def ledger(client: Client) -> Ledger:
    """One that has come as far as `LAST`."""
    ledger = Ledger(client, KEYS, 60_000, Holder.here())
    assert await ledger.acquire() is None
    await ledger.commit(START, LAST, [], [])
    return ledger


def snapshots_of(ledger: Ledger, metrics: Metrics | None = None, **engine: float) -> Snapshots:
    settings = EngineSettings(**engine)  # type: ignore[arg-type]
    return Snapshots(ledger, settings, metrics or Metrics("1", "a", "b"))


async def test_a_snapshot_is_due_by_bars_or_by_time(ledger: Ledger, engine: Engine) -> None:
    """L43: so many bars of each series, or any and some time; none when nothing came."""
    saver = snapshots_of(ledger, snapshot_bars=10, snapshot_s=3_600.0)
    assert not saver.is_due(2)
    saver.bars = 19
    assert not saver.is_due(2)
    saver.bars = 20
    assert saver.is_due(2)
    assert not saver.is_due(3)
    await saver.take(engine, "7-0", "0-0")
    assert not saver.is_due(2)
    await saver.finish()
    assert (saver.offset, saver.bars, saver.is_needed) == ("7-0", 0, False)
    hasty = snapshots_of(ledger, snapshot_s=1e-9)
    assert not hasty.is_due(2)
    hasty.bars = 1
    assert hasty.is_due(2)
    assert not snapshots_of(ledger, snapshot_bars=1).is_due(0)


async def test_what_is_taken_is_what_was_there(ledger: Ledger, engine: Engine) -> None:
    """L43: bars that come while it is written are not in it."""
    saver, state = snapshots_of(ledger), engine.state.digest()
    await saver.take(engine, "7-0", "3-0")
    engine.learn(bars_at(range(10, 20)))
    await saver.finish()
    saved, twin = await ledger.load(), engine_of(ingest=IngestSettings())
    assert saved is not None
    twin.state.restore(saved.parts)
    assert (saved.offset, saved.record, twin.state.digest()) == ("7-0", "3-0", state)


async def test_a_failed_one_is_tried_again_after_a_while(
    client: Client, ledger: Ledger, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L41, L54: neither given up, nor tried at each turn; until then its bars count."""
    await ledger.save(OLD)
    metrics = Metrics("1", "a", "b")
    saver = snapshots_of(ledger, metrics, snapshot_bars=1)
    saver.begin(OLD.offset, 5)
    await client.config_set("maxmemory", 1)
    await saver.take(engine, "7-0", "0-0")
    await saver.finish()
    await client.config_set("maxmemory", 0)
    assert (saver.offset, saver.bars, saver.is_needed) == ("1-0", 5, True)
    failed = "qae_snapshot_failures_total", {"kind": "save"}
    assert metrics.registry.get_sample_value(*failed) == 1
    assert not saver.is_due(1)
    assert await ledger.load() == OLD
    monkeypatch.setattr(snapshots_module, "AGAIN_S", 0.0)
    assert saver.is_due(1)
    await saver.take(engine, "8-0", "0-0")
    await saver.finish()
    assert (saver.offset, saver.bars) == ("8-0", 0)


async def test_a_zombies_snapshot_is_not_saved(
    client: Client, ledger: Ledger, engine: Engine
) -> None:
    """L45: the earlier one is still there, and nothing ends."""
    await ledger.save(OLD)
    await client.hset(KEYS.state, "lease_until", 1)
    successor = Ledger(client, KEYS, 60_000, Holder.here())
    assert await successor.acquire() is None
    saver = snapshots_of(ledger)
    await saver.take(engine, "7-0", "0-0")
    await saver.finish()
    assert await successor.load() == OLD
    assert saver.is_needed


async def test_a_failure_of_ours_is_not_kept_to_itself(engine: Engine) -> None:
    """L47: the task beside the rounds dies, and they with it."""

    class Broken(Ledger):
        """A ledger with a fault in it."""

        def __init__(self) -> None:
            """There is nothing to assign."""

        async def position(self) -> str | None:
            return LAST

        async def save(self, snapshot: Snapshot) -> None:
            raise LookupError(snapshot.offset)

    saver = snapshots_of(Broken())
    saver.bars = 1
    await saver.take(engine, "7-0", "0-0")
    await asyncio.sleep(0)
    with pytest.raises(LookupError, match="7-0"):
        await saver.finish()
    with pytest.raises(LookupError, match="7-0"):
        saver.is_due(1)


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    async with Proxy(redis.socket) as proxy:
        yield proxy


@pytest.mark.parametrize("step", SCRIPTS)
async def test_a_lost_reply_leaves_a_whole_snapshot(
    client: Client, ledger: Ledger, engine: Engine, proxy: Proxy, step: str
) -> None:
    """L43: the earlier one or the new one, never half of each; and the next one is saved."""
    await ledger.save(OLD)
    holder = Holder.here()
    await client.hset(KEYS.state, "lease_until", 1)
    async with connect(RedisSettings(timeout_ms=3000), proxy.url) as far:
        through = Ledger(far, KEYS, 60_000, holder)
        assert await through.acquire() is None
        await through.save(OLD)  # the server knows the scripts
        saver = snapshots_of(through)
        proxy.cut = sha(SCRIPTS[step])
        await saver.take(engine, "7-0", "0-0")
        await saver.finish()
        assert proxy.cuts == 1
        kept = await through.load()
        assert kept is not None
        assert kept == OLD if step != "end" else kept.offset == "7-0"
        assert saver.is_needed
        await saver.take(engine, "8-0", "0-0")
        await saver.finish()
        last = await through.load()
        assert last is not None
        assert last.offset == saver.offset == "8-0"


@pytest.mark.parametrize("step", SCRIPTS)
async def test_stopped_in_the_middle_the_earlier_one_is_whole(
    client: Client, ledger: Ledger, engine: Engine, proxy: Proxy, step: str
) -> None:
    """L43, L47: nothing goes on writing, and nothing is waited for."""
    await ledger.save(OLD)
    await client.hset(KEYS.state, "lease_until", 1)
    async with connect(RedisSettings(), proxy.url) as far:
        through = Ledger(far, KEYS, 60_000, Holder.here())
        assert await through.acquire() is None
        saver = snapshots_of(through)
        proxy.withhold = sha(SCRIPTS[step])
        await saver.take(engine, "7-0", "0-0")
        await until(lambda: proxy.withheld)
        await saver.stop()
        assert await ledger.load() == OLD
        assert not saver._is_saving()


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return nervous(with_one_agent(settings, tmp_path))


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return disordered(list(history.rows(0, 300).bars()), 7)


async def test_a_save_that_hangs_does_not_hold_up_the_stop(
    settings: Settings, client: Client, proxy: Proxy, bars: list[Bar]
) -> None:
    """L43, L45: it is given up, the partition is free at once, and a restart learns the bars."""
    signals, state = await uninterrupted(settings, client, bars, memory_of)
    far = changed(settings, "redis", url=proxy.url)
    async with serving(far) as daemon:
        await feed(client, bars)
        await at_the_end(daemon, client)
        proxy.withhold = sha(PART)
        began = asyncio.get_running_loop().time()
        daemon.stop.set()
    assert asyncio.get_running_loop().time() - began < 2.5
    assert await client.hget(KEYS.state, "owner") is None
    async with serving(settings) as daemon:
        await at_the_end(daemon, client)
        assert memory_of(daemon) == state
    assert [one["id"] for one in await told(client)] == [one["id"] for one in signals]


async def test_replies_are_lost_all_the_time(
    settings: Settings, client: Client, proxy: Proxy, bars: list[Bar]
) -> None:
    """L43: of commits, snapshots and heartbeats alike; state and signals are a twin's."""
    often = restless(settings, 1)
    signals, state = await uninterrupted(often, client, bars)
    hasty = changed(often, "redis", url=proxy.url, backoff_max_ms=5, block_ms=50)
    proxy.drop_share = 0.05
    fed = 0
    for upto in range(75, len(bars) + 75, 75):
        async with cut_off(hasty, client) as daemon:
            await feed(client, bars[fed:upto])
            fed = upto
            await at_the_end(daemon, client)
    proxy.drop_share = 0.0
    async with serving(hasty) as daemon:
        await at_the_end(daemon, client)
        assert state_of(daemon) == state
    assert proxy.cuts > 10
    assert [one["id"] for one in await told(client)] == [one["id"] for one in signals]


async def test_redis_is_killed_while_a_snapshot_is_written(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L43: the daemon outlives it, and whoever restarts has a whole snapshot."""
    often = restless(settings, 1)
    signals, state = await uninterrupted(often, client, bars)
    server = EmbeddedRedis(tmp_path / "mortal")
    async with server, Proxy(server.socket) as proxy, connect(RedisSettings(), server.url) as own:
        mortal = changed(often, "redis", url=proxy.url, timeout_ms=2_100, backoff_max_ms=20)
        async with contextlib.AsyncExitStack() as revived:
            async with cut_off(mortal, own) as daemon:
                await feed(own, bars[:200])
                await at_the_end(daemon, own)
                proxy.withhold = sha(PART)
                await feed(own, bars[200:])
                await until(lambda: proxy.withheld)
                os.kill(server.pid, signal.SIGKILL)
                await server.wait()
                proxy.withhold = None
                await revived.enter_async_context(EmbeddedRedis(server.directory))
                await at_the_end(daemon, own)
                assert state_of(daemon) == state
            async with serving(changed(often, "redis", url=server.url)) as successor:
                await at_the_end(successor, own)
                assert state_of(successor) == state
            assert [one["id"] for one in await told(own)] == [one["id"] for one in signals]


async def test_what_is_the_future_to_the_server_is_not_saved(
    ledger: Ledger, engine: Engine
) -> None:
    """L43: it went back in time meanwhile; the earlier snapshot is the right one."""
    await ledger.save(OLD)
    saver = snapshots_of(ledger)
    await saver.take(engine, "100-0", "0-0")
    await saver.finish()
    assert await ledger.load() == OLD
