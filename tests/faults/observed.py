"""What the tests of faults share: a daemon with bars behind it, and what is seen of it."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator, Sequence
from hashlib import sha1
from pathlib import Path
from typing import Any

import aiohttp

from quantum_ai_engine.config import RedisSettings, Settings, load
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client, Unreachable, connect
from quantum_ai_engine.daemon.commit import COMMIT
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.events import Bar, encode_bar

from ..daemon.test_app import (
    KEYS,
    changed,
    feed,
    is_at_the_end,
    published,
    run_through,
    said,
    serving,
    until,
    with_one_agent,
)

COMMIT_SHA = sha1(COMMIT.encode(), usedforsecurity=False).hexdigest().encode()
QUICK: dict[str, Any] = {"block_ms": 50, "timeout_ms": 200, "backoff_max_ms": 20}
QUIET = RedisSettings()
FIRST = 300  # bars fed before the fault
TRIMMED = 100  # bars after them that are trimmed before anybody could read them
Said = list[tuple[Any, ...]]
Event = dict[str, Any]


def quick(settings: Settings, directory: Path) -> Settings:
    """The same with one agent, short time-outs and small batches."""
    hasty = changed(with_one_agent(settings, directory), "redis", **QUICK)
    return changed(hasty, "ingest", batch=50)


async def undisturbed(bundles: Path, bars: Sequence[Bar], directory: Path) -> Said:
    """The signals of these bars, from a server and a daemon of their own."""
    async with EmbeddedRedis(directory / "redis") as server, connect(QUIET, server.url) as client:
        values = {
            "engine.clock": "bars",
            "engine.burn_in_bars": 0,
            "engine.state_dir": str(directory),
            "redis.url": server.url,
            "agents.bundles": str(bundles),
            "http.port": 0,
        }
        settings = load(None, environ={}, overrides=values).settings
        await run_through(with_one_agent(settings, directory), client, bars)
        return said(await published(client))


@contextlib.asynccontextmanager
async def fed(settings: Settings, client: Client, bars: list[Bar]) -> AsyncIterator[Daemon]:
    """A daemon that has dealt with the first bars."""
    async with serving(settings) as daemon:
        await feed(client, bars[:FIRST])
        await until(lambda: daemon.status.processed == FIRST)
        yield daemon


def metric(daemon: Daemon, name: str, **labels: str) -> float:
    """What Prometheus reads; 0 for a series that has never been moved."""
    return daemon.metrics.registry.get_sample_value(name, labels) or 0.0


def failures(daemon: Daemon) -> dict[str, float]:
    """How often Redis could not serve, by kind."""
    return {
        sample.labels["kind"]: sample.value
        for family in daemon.metrics.registry.collect()
        for sample in family.samples
        if sample.name == "qae_redis_failures_total" and sample.value
    }


def logged(events: list[Event], name: str, level: str) -> list[Event]:
    """The events of this name, all of which have this level."""
    found = [event for event in events if event.get("event_name") == name]
    assert all(event["log_level"] == level for event in found)
    return found


async def health(daemon: Daemon) -> Event:
    """The body of `/health`."""
    session = aiohttp.ClientSession(daemon.http_address)
    async with session as http, http.get("/health") as answer:
        assert answer.status == 200
        body: Event = await answer.json()
        return body


async def is_degraded(daemon: Daemon, events: list[Event], kind: str) -> None:
    """Return once the fault is seen; fail unless health, metrics and log say so."""
    await until(lambda: not daemon.status.ready and failures(daemon).get(kind))
    body = await health(daemon)
    assert body["status"] == "degraded"
    assert body["reason"].startswith("Redis cannot serve: ")
    assert not body["ready"]
    assert metric(daemon, "qae_ready") == 0
    assert logged(events, "redis_down", "warning")
    seen = failures(daemon)[kind]
    # It goes on trying: in vain, or until it is served again.
    await until(lambda: failures(daemon)[kind] > seen or daemon.status.ready)


async def is_well(daemon: Daemon, client: Client, events: list[Event], expected: Said) -> None:
    """Return once all is dealt with; fail unless it is as if nothing had happened."""
    await until(lambda: catches_up(client))
    await until(lambda: daemon.status.ready)
    assert (await health(daemon))["status"] == "ok"
    assert metric(daemon, "qae_ready") == 1
    assert logged(events, "redis_up", "info")
    assert said(await published(client)) == expected


async def catches_up(client: Client) -> bool:
    """Whether all is dealt with, as far as Redis can be asked at all."""
    try:
        return await is_at_the_end(client)
    except Unreachable:
        return False


async def kill(server: EmbeddedRedis) -> None:
    """End it as a power cut does."""
    os.kill(server.pid, signal.SIGKILL)
    await server.wait()


async def put(client: Client, bars: Sequence[Bar], *fault: Any) -> None:
    """Bars, and the fault, in one step: no commit can come between."""
    async with client.pipeline(transaction=True) as pipe:
        for bar in bars:
            pipe.xadd(KEYS.bars, {"b": encode_bar(bar)})
        pipe.execute_command(*fault)
        await pipe.execute()


async def dump_failed(client: Client) -> bool:
    """Whether the last dump went wrong."""
    return bool((await client.info("persistence"))["rdb_last_bgsave_status"] == "err")


async def has_rewritten(client: Client) -> bool:
    """Whether the rewriting of the log, with which a server of our own starts, is over."""
    info = await client.info("persistence")
    return not (info["aof_rewrite_in_progress"] or info["aof_rewrite_scheduled"])
