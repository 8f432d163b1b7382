"""Tests of the client: what it says of each failure, and that it finds the server anew."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis
from redis.exceptions import ClusterDownError, MovedError, ReadOnlyError, ResponseError

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import KINDS, Client, Unreachable, connect, kind_of
from quantum_ai_engine.daemon.commit import START, Ledger
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.route import Address, Route, SlotRoute, leads_elsewhere

QUICK = RedisSettings(block_ms=50, timeout_ms=200)


async def kind(client: Client) -> str:
    """What kind of failure a write meets."""
    with pytest.raises(Unreachable) as raised:
        await client.set("a", "1")
    return kind_of(raised.value)


async def test_nobody_is_there(tmp_path: Path) -> None:
    for url in ("redis://127.0.0.1:1", f"unix://{tmp_path}/none.sock"):
        async with connect(QUICK, url) as client:
            assert await kind(client) == "unreachable"


async def test_the_server_dies(redis: EmbeddedRedis) -> None:
    async with connect(QUICK, redis.url) as client:
        await client.ping()
        os.kill(redis.pid, signal.SIGKILL)
        assert await kind(client) == "unreachable"


async def test_the_server_hangs(redis: EmbeddedRedis) -> None:
    async with connect(QUICK, redis.url) as client:
        await client.ping()
        os.kill(redis.pid, signal.SIGSTOP)
        try:
            assert await kind(client) == "timeout"
        finally:
            os.kill(redis.pid, signal.SIGCONT)


async def test_the_server_is_a_replica(redis: EmbeddedRedis, client: Client) -> None:
    await client.replicaof("127.0.0.1", 1)
    assert await kind(client) == "read_only"


async def owned(client: Client) -> Ledger:
    ledger = Ledger(client, Keys("quantum"), 5000, Holder.here())
    assert await ledger.acquire() is None
    return ledger


async def test_a_script_tells_the_same(redis: EmbeddedRedis, client: Client) -> None:
    """Redis 6.2 says it in words of its own when it is a script that meets it."""
    ledger = await owned(client)
    await client.config_set("maxmemory", 1)
    with pytest.raises(Unreachable) as raised:
        await ledger.commit(START, "1-1", [], [])
    assert kind_of(raised.value) == "out_of_memory"
    await client.config_set("maxmemory", 0)
    await client.replicaof("127.0.0.1", 1)
    with pytest.raises(Unreachable) as raised:
        await ledger.commit(START, "1-1", [], [])
    assert kind_of(raised.value) == "read_only"


async def test_the_server_has_no_memory(client: Client) -> None:
    await client.config_set("maxmemory", 1)
    assert await kind(client) == "out_of_memory"


async def test_the_server_wants_another_password(redis: EmbeddedRedis, client: Client) -> None:
    """Both without any and with a wrong one; on a connection that is there already, too."""
    await client.config_set("requirepass", "right")
    async with connect(QUICK, redis.url) as without:
        assert await kind(without) == "refused_password"
    async with connect(RedisSettings(password="wrong"), redis.url) as wrong:
        assert await kind(wrong) == "refused_password"
    async with connect(RedisSettings(password="right"), redis.url) as right:
        await right.set("a", "1")


async def test_the_server_is_loading(tmp_path: Path) -> None:
    """A server that is still reading its data, as after a restart."""
    async with EmbeddedRedis(tmp_path / "r") as server, connect(QUICK, server.url) as client:
        await client.config_set("key-load-delay", 100)
        async with client.pipeline(transaction=False) as pipe:
            for number in range(5_000):
                pipe.set(f"k{number}", number)
            await pipe.execute()
        async with Redis.from_url(server.url, socket_timeout=60) as reloading:
            found = ""
            while found != "loading":  # it looks up from its data now and then: a moment to be met
                reload = asyncio.ensure_future(reloading.execute_command("DEBUG", "LOADAOF"))
                while found != "loading" and not reload.done():
                    found = await any_kind(client)
                    assert found in ("", "timeout", "loading")
                await reload


async def any_kind(client: Client) -> str:
    try:
        await client.set("a", "1")
    except Unreachable as error:
        return kind_of(error)
    return ""


async def test_a_script_of_another_keeps_the_server_busy(
    redis: EmbeddedRedis, client: Client
) -> None:
    await client.config_set("lua-time-limit", 1)
    other = Redis.from_url(redis.url, socket_timeout=30)
    endless = asyncio.ensure_future(other.eval("while true do end", 0))
    async with asyncio.timeout(10):
        while (found := await any_kind(client)) in ("", "timeout"):
            await asyncio.sleep(0)
    assert found == "busy"
    await client.script_kill()
    with pytest.raises(ResponseError):
        await endless
    await other.aclose()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MovedError("1 127.0.0.1:7000"), "moved"),
        (ClusterDownError("The cluster is down"), "unreachable"),
        (ResponseError("WRONGTYPE Operation against a key"), "other"),
        (TimeoutError(), "timeout"),
        (OSError("no route"), "unreachable"),
        (ValueError(), "other"),
    ],
)
def test_other_errors(error: Exception, expected: str) -> None:
    assert kind_of(error) == expected
    assert expected in {*KINDS, "other"}


@pytest.fixture
async def replica(tmp_path: Path, redis: EmbeddedRedis) -> AsyncIterator[EmbeddedRedis]:
    """A second server."""
    async with EmbeddedRedis(tmp_path / "second") as server:
        yield server


async def test_a_server_that_became_a_replica_is_left(
    redis: EmbeddedRedis, replica: EmbeddedRedis, tmp_path: Path
) -> None:
    """L40: the address leads to another server now; no connection to the old one is used again."""
    address = tmp_path / "address"
    address.symlink_to(redis.socket)
    async with connect(QUICK, f"unix://{address}") as client, connect(QUICK, redis.url) as old:
        ledger = await owned(client)
        await asyncio.gather(*(client.set(f"k{i}", "1") for i in range(10)))
        await old.replicaof("127.0.0.1", 1)
        address.unlink()
        address.symlink_to(replica.socket)
        assert await client.get("k1") == b"1"  # reading goes on, so nothing is noticed …
        with pytest.raises(Unreachable):
            await ledger.commit(START, "1-1", [], [])  # … until something is to be written
        assert await asyncio.gather(*(client.get(f"k{i}") for i in range(10))) == [None] * 10
        assert await client.set("k", "1")


async def test_a_replica_that_stays_one_is_asked_again(redis: EmbeddedRedis) -> None:
    """Each attempt is one connection and one answer, until it may write."""
    async with connect(QUICK, redis.url) as client:
        await client.replicaof("127.0.0.1", 1)
        assert [await kind(client) for _ in range(3)] == ["read_only"] * 3
        await client.replicaof("NO", "ONE")
        assert await client.set("a", "1")


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MovedError("1 127.0.0.1:7000"), True),
        (ReadOnlyError("You can't write"), True),
        (ClusterDownError("down"), True),
        (ResponseError("ERR Error running script: -READONLY You can't write"), True),
        (ResponseError("ERR value is not an integer"), False),
    ],
)
def test_which_answers_lead_elsewhere(error: ResponseError, expected: bool) -> None:
    assert leads_elsewhere(error) is expected


def test_a_route_is_left_once() -> None:
    """Connections that were made before it was left do not make it leave again."""
    route = Route()
    route.leave(0)
    route.leave(0)
    assert route.turn == 1


A, B, C = (Address("127.0.0.1", port) for port in (1, 2, 3))


class Nodes:
    """Answers of a cluster's nodes to CLUSTER SLOTS, and who was asked."""

    def __init__(self) -> None:
        self.asked = list[Address]()
        self.owners: dict[Address, Any] = {A: B, B: B, C: B}

    async def __call__(self, node: Address) -> list[Any]:
        self.asked.append(node)
        owner = self.owners[node]
        if isinstance(owner, Exception):
            raise owner
        rest = [entry(other) for other in (A, B, C) if other != owner]
        return [[0, 99, *rest], [100, 200, entry(owner), *rest]]


def entry(node: Address) -> list[Any]:
    return [node.host.encode(), node.port, b"id"]


async def test_whoever_answers_shows_the_way() -> None:
    nodes = Nodes()
    route = SlotRoute(150, A, nodes)
    assert await route.find() == B
    nodes.owners[A] = OSError("dead")
    assert await route.find() == B
    assert len(nodes.asked) == 3


async def test_a_node_that_led_nowhere_is_asked_last() -> None:
    """One that a partition of the network keeps from learning better would be believed for ever."""
    nodes = Nodes()
    route = SlotRoute(150, A, nodes)
    await route.find()
    nodes.owners = {A: B, B: C, C: C}
    route.doubt()
    assert await route.find() == C
    route.leave(route.turn)
    assert nodes.asked[-1] != A


async def test_nobody_serves_the_slot() -> None:
    nodes = Nodes()
    with pytest.raises(ClusterDownError, match="no node serves slot 300"):
        await SlotRoute(300, A, nodes).find()
    nodes.owners = dict.fromkeys((A, B, C), OSError("dead"))
    with pytest.raises(OSError, match="dead"):
        await SlotRoute(150, A, nodes).find()


async def test_a_node_without_a_name_is_where_it_was_asked() -> None:
    async def ask(_: Address) -> list[Any]:
        return [[0, 16383, [b"", 7, b"id"]]]

    assert await SlotRoute(1, Address("here", 9), ask).find() == Address("here", 7)


async def test_a_server_that_is_no_cluster_has_every_slot() -> None:
    """So that the checks of the start can ask it and say what is wrong."""

    async def ask(_: Address) -> list[Any]:
        raise ResponseError("ERR This instance has cluster support disabled")

    assert await SlotRoute(1, A, ask).find() == A


async def test_one_server_serves_all_partitions(client: Client) -> None:
    assert client.at(3) is client
