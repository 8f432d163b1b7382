"""What holds while Redis dies, hangs, comes late, or its replies are lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import pytest

from quantum_ai_engine.config import RedisSettings, Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.producer import Producer, produce, steps
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.proxy import Proxy

from ..daemon.test_app import (
    BARS,
    KEYS,
    answers,
    changed,
    due,
    feed,
    is_at_the_end,
    published,
    ready_at,
    run_through,
    said,
    serving,
    until,
    with_one_agent,
)
from .observed import COMMIT_SHA, QUICK


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def table(history: BarTable) -> BarTable:
    return history.rows(0, BARS)


@pytest.fixture
def bars(table: BarTable) -> list[Bar]:
    return list(table.bars())


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    async with Proxy(redis.socket) as proxy:
        yield proxy


@pytest.fixture
def behind(settings: Settings, proxy: Proxy) -> Settings:
    """The daemon speaks to Redis through the proxy; short time-outs, small batches."""
    quick = changed(settings, "redis", url=proxy.url, **QUICK)
    return changed(quick, "ingest", batch=50)


def ready_metric(daemon: Daemon) -> float | None:
    """What Prometheus reads."""
    return daemon.metrics.registry.get_sample_value("qae_ready")


async def is_complete(client: Client, daemon: Daemon, bars: list[Bar]) -> None:
    """Assert that each due signal is in the stream once, in order."""
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(daemon))


@pytest.mark.parametrize(
    "command", [COMMIT_SHA, b"XREAD", b"XREVRANGE"], ids=["commit", "XREAD", "XREVRANGE"]
)
async def test_a_lost_reply(
    behind: Settings, proxy: Proxy, client: Client, bars: list[Bar], command: bytes
) -> None:
    """L43: whether it was done is unknown, yet each signal is written exactly once."""
    async with serving(behind) as daemon:
        await until(lambda: daemon.status.ready)
        proxy.cut = command
        await feed(client, bars[:300])
        await until(lambda: proxy.cuts == 1)
        await feed(client, bars[300:])
        await until(lambda: daemon.status.processed >= len(bars))
        await until(lambda: daemon.status.ready)
        assert ready_metric(daemon) == 1
    await is_complete(client, daemon, bars)


async def test_every_commits_reply_is_lost(
    behind: Settings, proxy: Proxy, client: Client, bars: list[Bar]
) -> None:
    """L43: as above, time and again."""
    async with serving(behind) as daemon:
        await until(lambda: daemon.status.ready)
        for start in range(0, len(bars), 150):
            proxy.cut = COMMIT_SHA
            await feed(client, bars[start : start + 150])
            await until(lambda upto=start + 150: daemon.status.processed >= upto)
    assert proxy.cuts == 4
    await is_complete(client, daemon, bars)


async def test_slow_replies_cost_nothing_but_time(
    behind: Settings, proxy: Proxy, client: Client, bars: list[Bar]
) -> None:
    proxy.delay_s = 0.01
    async with serving(behind) as daemon:
        await feed(client, bars)
        await until(lambda: daemon.status.processed == len(bars))
    await is_complete(client, daemon, bars)


async def test_replies_slower_than_the_timeout(
    behind: Settings, proxy: Proxy, client: Client, bars: list[Bar]
) -> None:
    """L10: it is degraded meanwhile, commits that were done are not done again, it recovers."""
    async with serving(behind) as daemon:
        await feed(client, bars[:300])
        await until(lambda: daemon.status.processed == 300)
        proxy.delay_s = 0.4
        await feed(client, bars[300:])
        await until(lambda: not daemon.status.ready)
        assert ready_metric(daemon) == 0
        proxy.delay_s = 0.0
        await until(lambda: daemon.status.processed >= len(bars))
    await is_complete(client, daemon, bars)


async def test_a_commit_that_never_arrives_is_tried_again(
    behind: Settings, proxy: Proxy, client: Client, bars: list[Bar]
) -> None:
    proxy.withhold = COMMIT_SHA
    async with serving(behind) as daemon:
        await feed(client, bars)
        await until(lambda: proxy.withheld >= 3)
        assert await published(client) == []
        proxy.withhold = None
        await until(lambda: daemon.status.processed == len(bars))
    await is_complete(client, daemon, bars)


@pytest.fixture
def stopped(redis: EmbeddedRedis) -> Iterator[EmbeddedRedis]:
    """A server that hangs, until the test wakes it up, or at its end."""
    yield redis
    os.kill(redis.pid, signal.SIGCONT)


async def test_redis_hangs_for_a_while(
    behind: Settings, stopped: EmbeddedRedis, client: Client, bars: list[Bar]
) -> None:
    """L05, L10: degraded with the reason while it hangs, and right again after."""
    quick = changed(behind, "redis", url=stopped.url)
    async with serving(quick) as daemon, aiohttp.ClientSession(daemon.http_address) as http:
        await feed(client, bars[:300])
        await until(lambda: daemon.status.processed >= 100)
        os.kill(stopped.pid, signal.SIGSTOP)
        await until(lambda: not daemon.status.ready)
        async with http.get("/health") as answer:
            health = await answer.json()
        assert health["status"] == "degraded"
        assert health["reason"].startswith("Redis cannot serve: ")
        async with http.get("/health/ready") as answer:
            assert answer.status == 503
        os.kill(stopped.pid, signal.SIGCONT)
        await feed(client, bars[300:])
        await until(lambda: daemon.status.processed >= len(bars))
        async with http.get("/health") as answer:
            assert (await answer.json())["status"] == "ok"
    await is_complete(client, daemon, bars)


async def test_redis_is_killed_in_the_middle_of_a_feed(
    settings: Settings, client: Client, table: BarTable, bars: list[Bar], tmp_path: Path
) -> None:
    """L43: neither a bar nor a signal is lost or doubled, and the state is that of a twin."""
    directory = tmp_path / "mortal"
    url = EmbeddedRedis(directory).url
    mortal = changed(changed(settings, "redis", url=url, **QUICK), "ingest", batch=20)
    async with connect(mortal.redis, url) as own, serving(mortal) as daemon:
        feeding = asyncio.create_task(feed_slowly(own, table))
        for upto in (150, 400):
            async with EmbeddedRedis(directory) as server:
                await until(lambda upto=upto: daemon.status.processed >= upto)
                assert not feeding.done()
                os.kill(server.pid, signal.SIGKILL)
                await server.wait()
        async with EmbeddedRedis(directory):
            assert await feeding == len(table)
            await until(lambda: is_at_the_end(own))
            assert await own.xlen(KEYS.bars) == len(bars)
            signals = await published(own)
    await run_through(settings, client, bars)
    assert said(signals) == said(await published(client))


async def feed_slowly(client: Client, table: BarTable) -> int:
    """A producer that takes some seconds, and outlives Redis."""
    await until(lambda: answers(client))
    producer = Producer(client, KEYS, "test", None)
    plan = steps(table, 60_000, 0, together=False)
    return await produce(producer, plan, 0, 5_000, lambda _: None)


async def test_redis_comes_late(settings: Settings, bars: list[Bar], tmp_path: Path) -> None:
    """L10, L47: the daemon waits for Redis, says so, and then works."""
    late = EmbeddedRedis(tmp_path / "late")
    waiting = changed(settings, "redis", url=late.url, backoff_max_ms=20)
    async with serving(waiting) as daemon, aiohttp.ClientSession(daemon.http_address) as http:
        async with http.get("/health/ready") as answer:
            assert answer.status == 503
            assert "Redis cannot serve" in (await answer.json())["reason"]
        async with http.get("/health/live") as answer:
            assert answer.status == 200
        async with late, connect(RedisSettings(), late.url) as client:
            await until(lambda: daemon.status.ready)
            async with http.get("/health/ready") as answer:
                assert answer.status == 200
            await feed(client, bars)
            await until(lambda: daemon.status.processed == len(bars))
            await is_complete(client, daemon, bars)
