"""The proxy breaks what it is told to break, and nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.proof.proxy import Proxy

SET = b"$3\r\nSET\r\n"  # not CLIENT SETINFO, with which a connection begins
ECHO = b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n"
ANSWER = b"$5\r\nhello\r\n"


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    async with Proxy(redis.socket, seed=1) as proxy:
        yield proxy


@asynccontextmanager
async def through(proxy: Proxy) -> AsyncIterator[Client]:
    async with connect(RedisSettings(), proxy.url) as client:
        yield client


async def echoed(proxy: Proxy) -> bytes:
    """All bytes that come back until the connection is cut."""
    port = int(proxy.url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ECHO)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer


async def test_it_passes_everything_on(proxy: Proxy) -> None:
    """What is not broken is as it was, large replies included."""
    async with through(proxy) as client:
        await client.set("k", b"x" * 3_000_000)
        assert await client.get("k") == b"x" * 3_000_000
    assert proxy.cuts == 0


async def test_a_lost_reply_is_of_a_command_that_was_done(proxy: Proxy, client: Client) -> None:
    """L43: the request arrives; only who sent it does not know."""
    proxy.cut = SET
    async with through(proxy) as unlucky:
        with pytest.raises(RedisConnectionError):
            await unlucky.set("k", "v")
        assert await unlucky.get("k") == b"v"
    assert await client.get("k") == b"v"
    assert (proxy.cuts, proxy.cut) == (1, None)


@pytest.mark.parametrize("kept", [0, 1, 6, 10])
async def test_a_reply_is_cut_after_so_many_bytes(proxy: Proxy, kept: int) -> None:
    """L43: the first bytes come, then the connection ends."""
    proxy.cut, proxy.cut_after = b"ECHO", kept
    assert await echoed(proxy) == ANSWER[:kept]
    assert proxy.cuts == 1


async def test_a_share_of_replies_is_lost(proxy: Proxy) -> None:
    """L43: about as many as were asked for, the same ones for the same seed."""
    proxy.drop_share = 0.2
    lost = 0
    async with through(proxy) as client:
        for _ in range(300):
            try:
                await client.echo("hello")
            except RedisConnectionError:
                lost += 1
    # A lost reply to the words with which a connection begins fails the same command.
    assert 30 <= lost <= 130
    assert proxy.cuts == lost


async def test_a_share_of_replies_is_torn(proxy: Proxy) -> None:
    """L43: never whole, not always empty."""
    proxy.tear_share = 1.0
    answers = {await echoed(proxy) for _ in range(40)}
    assert all(ANSWER.startswith(answer) and answer != ANSWER for answer in answers)
    assert len(answers) > 3
    assert proxy.cuts == 40


async def test_it_reaches_a_port(proxy: Proxy) -> None:
    """A server that listens on TCP stands behind it as well: here, another proxy."""
    async with Proxy(int(proxy.url.rpartition(":")[2])) as second, through(second) as client:
        assert await client.ping()


async def test_withheld_requests_never_arrive(proxy: Proxy, client: Client) -> None:
    """A request that is withheld was not done; others are."""
    proxy.withhold = SET
    async with connect(RedisSettings(timeout_ms=300, block_ms=1), proxy.url) as waiting:
        with pytest.raises(RedisTimeoutError):
            await waiting.set("k", "v")
        assert await waiting.get("k") is None
    assert proxy.withheld == 1
    assert await client.get("k") is None
