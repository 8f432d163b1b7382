"""The rows of docs/redis.md in which Redis cannot serve: each fault against a real server.

Afterwards the signal stream is that of a twin to whom nothing ever happened.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.exceptions import NoPermissionError

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.checks import check_server
from quantum_ai_engine.daemon.client import Client, Unreachable, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.events import Bar
from quantum_ai_engine.proof.proxy import Proxy

from ..daemon.test_app import BARS, answers, changed, feed, published, said, serving, until
from .observed import (
    COMMIT_SHA,
    FIRST,
    QUIET,
    Event,
    Said,
    dump_failed,
    failures,
    fed,
    has_rewritten,
    health,
    is_degraded,
    is_well,
    kill,
    logged,
    metric,
    put,
    quick,
)
from .test_kill import BAD_CONFIGURATION, Manager


class SlowToLoad(EmbeddedRedis):
    """A server that takes its time over each command of its log when it starts."""

    def _arguments(self) -> list[str]:
        return [*super()._arguments(), "--aof-use-rdb-preamble", "no", "--key-load-delay", "10"]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return quick(settings, tmp_path)


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    async with Proxy(redis.socket) as proxy:
        yield proxy


@pytest.fixture
def behind(settings: Settings, proxy: Proxy) -> Settings:
    """The daemon speaks to Redis through the proxy."""
    return changed(settings, "redis", url=proxy.url)


async def test_killed(
    settings: Settings, bars: list[Bar], expected: Said, events: list[Event], tmp_path: Path
) -> None:
    """L10, L43, L47: the daemon outlives Redis, says so, and nothing is lost or doubled."""
    server = EmbeddedRedis(tmp_path / "mortal")
    mortal = changed(settings, "redis", url=server.url)
    async with server, connect(QUIET, server.url) as own, fed(mortal, own, bars) as daemon:
        await kill(server)
        await is_degraded(daemon, events, "unreachable")
        async with EmbeddedRedis(server.directory):
            await until(lambda: answers(own))
            await feed(own, bars[FIRST:])
            await is_well(daemon, own, events, expected)
            assert metric(daemon, "qae_state_lost_total") == 0


async def test_frozen(
    settings: Settings,
    redis: EmbeddedRedis,
    client: Client,
    bars: list[Bar],
    expected: Said,
    events: list[Event],
) -> None:
    """L10: a server that does not answer is one that cannot serve."""
    async with fed(settings, client, bars) as daemon:
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            await is_degraded(daemon, events, "timeout")
        finally:
            os.kill(redis.pid, signal.SIGCONT)
        await feed(client, bars[FIRST:])
        await is_well(daemon, client, events, expected)


async def test_failed_over_to_a_replica(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L10: it reads and cannot write, until the replica is made the primary."""
    async with fed(settings, client, bars) as daemon:
        await put(client, bars[FIRST:], "REPLICAOF", "127.0.0.1", "1")
        await is_degraded(daemon, events, "read_only")
        await client.replicaof("NO", "ONE")
        await is_well(daemon, client, events, expected)


async def test_out_of_memory(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L42: a commit that finds no room leaves no part of itself behind."""
    async with fed(settings, client, bars) as daemon:
        before = len(await published(client))
        await put(client, bars[FIRST:], "CONFIG", "SET", "maxmemory", "1")
        await is_degraded(daemon, events, "out_of_memory")
        assert len(await published(client)) == before
        await client.config_set("maxmemory", "0")
        await is_well(daemon, client, events, expected)


async def test_no_room_on_the_disk(
    settings: Settings,
    redis: EmbeddedRedis,
    client: Client,
    bars: list[Bar],
    expected: Said,
    events: list[Event],
) -> None:
    """L42: a server that cannot dump refuses to write (MISCONF)."""
    await client.config_set("dbfilename", "taken")
    (redis.directory / "taken").mkdir()
    await client.bgsave()
    await until(lambda: dump_failed(client))
    async with fed(settings, client, bars) as daemon:
        await put(client, bars[FIRST:], "CONFIG", "SET", "save", "3600 1")
        await is_degraded(daemon, events, "other")
        assert "MISCONF" in (await health(daemon))["reason"]
        await client.config_set("save", "")
        await is_well(daemon, client, events, expected)


async def test_loading(
    settings: Settings, bars: list[Bar], expected: Said, events: list[Event], tmp_path: Path
) -> None:
    """L10: a server that reads its log answers, but not yet."""
    server = SlowToLoad(tmp_path / "slow")
    async with connect(QUIET, server.url) as own:
        async with server:
            await until(lambda: has_rewritten(own))
            async with own.pipeline(transaction=False) as pipe:
                for i in range(60_000):
                    pipe.set("filler", i)
                await pipe.execute()
            await feed(own, bars)
        async with (
            contextlib.AsyncExitStack() as stack,
            serving(changed(settings, "redis", url=server.url)) as daemon,
        ):
            loading = asyncio.create_task(stack.enter_async_context(server))
            await is_degraded(daemon, events, "loading")
            await loading
            await is_well(daemon, own, events, expected)


async def test_busy_with_a_script(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L10: somebody's endless script keeps everybody out until it is killed."""
    await client.config_set("lua-time-limit", "50")
    async with fed(settings, client, bars) as daemon, connect(QUIET, settings.redis.url) as killer:
        await killer.ping()  # meanwhile nobody can connect
        endless = asyncio.create_task(run_for_ever(client))
        await is_degraded(daemon, events, "busy")
        await killer.script_kill()
        await endless
        await feed(client, bars[FIRST:])
        await is_well(daemon, client, events, expected)


async def run_for_ever(client: Client) -> None:
    """A script that ends when it is killed."""
    with pytest.raises(Unreachable):
        await client.eval("while true do end", 0)


async def test_scripts_dropped(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L43: they are loaded again, and nobody notices."""
    patient = changed(settings, "redis", block_ms=50, timeout_ms=5_000)
    async with fed(patient, client, bars) as daemon:
        for start in range(FIRST, BARS, 50):
            await client.script_flush("SYNC")
            await feed(client, bars[start : start + 50])
            await until(lambda upto=start + 50: daemon.status.processed == upto)
        assert (await health(daemon))["status"] == "ok"
        assert failures(daemon) == {}
    assert logged(events, "redis_down", "warning") == []
    assert said(await published(client)) == expected


@pytest.mark.parametrize("command", [COMMIT_SHA, b"XREAD"], ids=["commit", "XREAD"])
@pytest.mark.parametrize("after", [0, 1, 5, 40])
async def test_cut_in_mid_reply(
    behind: Settings,
    proxy: Proxy,
    client: Client,
    bars: list[Bar],
    expected: Said,
    events: list[Event],
    command: bytes,
    after: int,
) -> None:
    """L43: whether it was done is unknown, and half an answer is none."""
    async with fed(behind, client, bars) as daemon:
        proxy.cut_after, proxy.cut = after, command
        await feed(client, bars[FIRST:])
        await until(lambda: proxy.cuts == 1)
        await until(lambda: failures(daemon).get("unreachable"))
        await is_well(daemon, client, events, expected)
    assert logged(events, "redis_down", "warning")


async def test_a_wrong_password_at_the_start(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    """L48: bad configuration, which no start would mend: the code that is not restarted."""
    await client.config_set("requirepass", "right")
    manager = Manager(tmp_path, settings)
    try:
        async with manager.started(QAE_REDIS__PASSWORD="wrong") as process:
            _, printed = await process.communicate()
    finally:
        manager.close()
    assert process.returncode == BAD_CONFIGURATION
    last = printed.decode().strip().splitlines()[-1]
    assert "give the right one as the credential redis-password" in last
    assert "wrong" not in last


async def test_a_wrong_password_later(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L47, L48: who has served waits until the password is put right, as for any other fault."""
    async with fed(settings, client, bars) as daemon:
        await client.config_set("requirepass", "other")
        await client.execute_command("CLIENT", "KILL", "TYPE", "normal")
        await is_degraded(daemon, events, "refused_password")
        await client.config_set("requirepass", "")
        await feed(client, bars[FIRST:])
        await is_well(daemon, client, events, expected)


async def test_slow_replies(
    behind: Settings,
    proxy: Proxy,
    client: Client,
    bars: list[Bar],
    expected: Said,
    events: list[Event],
) -> None:
    """L10, L43: below the time-out they cost time; beyond it, commits are not done twice."""
    async with fed(behind, client, bars) as daemon:
        proxy.delay_s = 0.01
        await feed(client, bars[FIRST : FIRST + 100])
        await until(lambda: daemon.status.processed == FIRST + 100)
        proxy.delay_s = 0.4
        await feed(client, bars[FIRST + 100 :])
        await is_degraded(daemon, events, "timeout")
        proxy.delay_s = 0.0
        await is_well(daemon, client, events, expected)


async def test_the_user_of_the_docs_may_do_what_is_needed(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """What docs/redis.md gives a user of its own is enough, and no flushing is among it."""
    page = Path(__file__).parents[2] / "docs" / "redis.md"
    [line] = [line for line in page.read_text().splitlines() if line.startswith("user ")]
    await client.execute_command("ACL", "SETUSER", *line.split()[1:])
    url = settings.redis.url.replace("unix://", "unix://engine@")
    limited = changed(settings, "redis", url=url, password="PASSWORD")
    async with connect(limited.redis, url) as own:
        assert await check_server(own, limited.redis) == []
        with pytest.raises(NoPermissionError):
            await own.flushall()
    await client.acl_log_reset()
    async with fed(limited, client, bars) as daemon:
        await feed(client, bars[FIRST:])
        await is_well(daemon, client, events, expected)
        assert failures(daemon) == {}
    # Naming the library (CLIENT SETINFO, from 7.2 on) is refused, and not missed.
    assert {entry["object"] for entry in await client.acl_log()} <= {"client"}
