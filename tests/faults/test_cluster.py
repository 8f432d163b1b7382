"""What holds in a Redis Cluster while a slot moves, a master is killed or hangs."""

import asyncio
import contextlib
import signal as signals
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.config import RedisSettings, Settings
from quantum_ai_engine.daemon.client import Client, Unreachable, connect, kind_of
from quantum_ai_engine.daemon.commit import START, Conflict, Ledger
from quantum_ai_engine.daemon.feed import BarFeed
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.partitions import Move, delete_old
from quantum_ai_engine.daemon.producer import Producer, Step, produce_all, steps
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable

from ..daemon.test_app import changed, published, run_through, said, serving, with_one_agent
from ..daemon.test_commit import signal
from ..daemon.test_partitions import found, homes, regroup, save_all
from .cluster import Cluster, Node, cluster, until

PARTITIONS, MINUTE_MS = 4, 60_000
KEYS = Keys("quantum", PARTITIONS)
SETTINGS = RedisSettings(
    cluster=True, partitions=PARTITIONS, partition="0-3", block_ms=200, timeout_ms=1000
)


@pytest.fixture
async def made(tmp_path: Path) -> AsyncIterator[Cluster]:
    """Three masters with a replica each."""
    async with cluster(tmp_path) as cluster_:
        yield cluster_


@pytest.fixture
async def client(made: Cluster) -> AsyncIterator[Client]:
    async with connect(SETTINGS, made.masters[0].url) as connected:
        yield connected


@pytest.fixture
def table() -> BarTable:
    return PaperMarket(3, 12, start_ms=1_735_689_600_000).table(300)


async def failures(client: Client, key: str) -> list[str]:
    """What kinds of failure an XADD meets until it succeeds."""
    kinds = list[str]()
    async with asyncio.timeout(30):
        while True:
            try:
                await client.xadd(key, {"a": "1"})
                return kinds
            except Unreachable as error:
                kinds.append(kind_of(error))
            await asyncio.sleep(0.02)


async def test_each_partition_is_served_where_it_lives(made: Cluster, client: Client) -> None:
    """All that the daemon asks of Redis works, and of each partition its own node is asked."""
    for partition in range(PARTITIONS):
        keys, own = KEYS.at(partition), client.at(partition)
        assert (await own.info("server"))["tcp_port"] == made.home(partition).port
        assert (await own.time())[0] > 0
        await own.set(keys.heartbeat, "{}", ex=10)
        entry = await own.xadd(keys.bars, {"b": "1"})
        assert await own.xread({keys.bars: START}, count=10, block=1000)
        assert await own.xread({keys.bars: entry}, count=10, block=10) == []
        assert (await own.xinfo_stream(keys.bars))["length"] == 1
        ledger = Ledger(own, keys, 5000, Holder.here())
        assert await ledger.acquire() is None
        await ledger.commit(START, entry.decode(), [signal()], [])
        await made.home(partition).ask("SCRIPT", "FLUSH")
        await ledger.commit(entry.decode(), "9999999999999-0", [signal(3)], [])
        assert await own.xlen(keys.signals) == 2
    assert len({made.home(partition).port for partition in range(PARTITIONS)}) > 1


async def test_a_subscriber_hears_every_node(client: Client) -> None:
    """What the commit of any partition publishes reaches a subscriber of one node."""
    async with client.pubsub() as channel:
        await channel.psubscribe(KEYS.signal_channels)
        await channel.get_message(timeout=5)
        for partition in range(PARTITIONS):
            own, keys = client.at(partition), KEYS.at(partition)
            ledger = Ledger(own, keys, 5000, Holder.here())
            await ledger.acquire()
            await ledger.commit(START, "1-1", [signal(symbol=f"S{partition}")], [])
        heard = [await channel.get_message(timeout=5) for _ in range(PARTITIONS)]
    symbols = {msgspec.json.decode(message["data"])["symbol"] for message in heard if message}
    assert symbols == {"S0", "S1", "S2", "S3"}


async def test_a_slot_that_moves_is_one_failure(made: Cluster, client: Client) -> None:
    """L40: the connections that were there are left, and the next command finds the new node."""
    key = KEYS.at(0).bars
    await asyncio.gather(*(client.xadd(key, {"a": "1"}) for _ in range(5)))
    target = next(node for node in made.masters if node is not made.home(0))
    await made.move(0, target)
    assert await failures(client, key) == ["moved"]
    assert (await client.info("server"))["tcp_port"] == target.port
    assert await client.xlen(key) == 6


async def test_a_replica_takes_over(made: Cluster, client: Client) -> None:
    """L40: after a planned failover, too: a reader that waits is told, and reads on."""
    key, old = KEYS.at(0).bars, made.home(0)
    new = made.replicas[made.masters.index(old)]
    await client.xadd(key, {"a": "1"})
    waiting = asyncio.ensure_future(client.xread({key: "$"}, block=30_000))
    await until(lambda: is_read(old.client))
    await new.ask("CLUSTER", "FAILOVER")
    with pytest.raises(Unreachable):
        await waiting
    await failures(client, key)
    assert (await client.info("server"))["tcp_port"] == new.port
    assert await client.xlen(key) == 2


async def is_read(client: Any) -> bool:
    return bool((await client.info("clients"))["blocked_clients"])


@pytest.mark.parametrize("number", [signals.SIGKILL, signals.SIGSTOP])
async def test_a_master_is_gone(made: Cluster, client: Client, number: int) -> None:
    """L40: nothing that a replica had confirmed is lost; the other partitions notice nothing."""
    victim = made.home(0)
    others = [p for p in range(PARTITIONS) if made.home(p) is not victim]
    confirmed = 0
    async with asyncio.timeout(10):
        while confirmed < 100:
            async with client.pipeline(transaction=False) as pipe:
                pipe.xadd(KEYS.at(0).bars, {"n": confirmed})
                pipe.execute_command("WAIT", 1, 1000)
                confirmed += (await pipe.execute())[1] == 1
    victim.kill(number)
    for partition in others:
        await client.at(partition).xadd(KEYS.at(partition).bars, {"a": "1"})
    kinds = await failures(client, KEYS.at(0).bars)
    assert set(kinds) <= {"unreachable", "timeout"}
    numbers = [int(fields.get(b"n", -1)) for _, fields in await client.xrange(KEYS.at(0).bars)]
    assert numbers == [*range(100), -1]


async def test_any_node_shows_the_way(made: Cluster, client: Client) -> None:
    """The node that the settings name may die once others are known."""
    await client.xadd(KEYS.at(0).bars, {"a": "1"})
    assert made.masters[0] is not made.home(0)
    made.masters[0].kill()
    await client.connection_pool.disconnect()
    assert await failures(client, KEYS.at(0).bars) == []
    await until(lambda: is_master(made.replicas[0]))
    made.home(0).kill(signals.SIGSTOP)
    await client.connection_pool.disconnect()
    await failures(client, KEYS.at(0).bars)


async def is_master(node: Node) -> bool:
    return await node.role() == "master"


async def test_a_unix_socket_leads_to_no_cluster() -> None:
    with pytest.raises(ValueError, match="reached by TCP"):
        connect(SETTINGS, "unix:///tmp/redis.sock")


async def test_partitions_move_in_a_cluster(client: Client) -> None:
    """L43: each key moves within its node; what belongs to new partitions is written to theirs."""
    two = msgspec.structs.replace(SETTINGS, partitions=2, partition="0-1")
    await save_all(client, 2)
    await Move(client, two, PARTITIONS, regroup).run()
    assert await found(client, PARTITIONS) == homes(PARTITIONS)
    assert await delete_old(client, "quantum") == 6
    assert await client.exists("quantum:move:{0}") == 0


async def serve(client: Client, partition: int, stop: asyncio.Event) -> None:
    """An engine without its core: read bars, commit one signal for each, as the daemon does."""
    keys, own = KEYS.at(partition), client.at(partition)
    feed = BarFeed(own, keys, "live")
    ledger = Ledger(own, keys, 5000, Holder.here())
    while not stop.is_set():
        try:
            await ledger.acquire()
            position = await ledger.position() or START
            while not stop.is_set():
                if entries := await feed.read(position, 50, SETTINGS.block_ms):
                    bars = [msgspec.msgpack.decode(e[1][b"b"], type=Bar) for e in entries]
                    due = [signal(bar.close_time // MINUTE_MS, bar.symbol) for bar in bars]
                    end = entries[-1][0].decode()
                    await ledger.commit(position, end, due, [])
                    position = end
        except (Conflict, *Unreachable):
            await asyncio.sleep(0.05)


class Subscriber:
    """Hears the signals of all partitions at one node, and notes when each came."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self.moments: dict[int, list[float]] = {p: [] for p in range(PARTITIONS)}
        self.ids = set[str]()

    async def run(self) -> None:
        while True:
            with contextlib.suppress(*Unreachable):
                async with self._client.pubsub() as channel:
                    await channel.psubscribe(KEYS.signal_channels)
                    async for message in channel.listen():
                        if message["type"] == "pmessage":
                            self._note(msgspec.json.decode(message["data"]))
            await asyncio.sleep(0.05)

    def _note(self, said: dict[str, Any]) -> None:
        self.ids.add(said["id"])
        self.moments[partition_of(said["symbol"], PARTITIONS)].append(time.monotonic())

    def outage_s(self, partition: int) -> float:
        """The longest time without a signal of a partition."""
        moments = self.moments[partition]
        return max(later - earlier for earlier, later in pairwise(moments))


async def ids(client: Client, partition: int) -> list[str]:
    """Of the signals in the stream of a partition."""
    entries = await client.at(partition).xrange(KEYS.at(partition).signals)
    return [msgspec.json.decode(fields[b"json"])["id"] for _, fields in entries]


def home_ids(bars: Sequence[Bar], partition: int) -> list[str]:
    return [
        signal(bar.close_time // MINUTE_MS, bar.symbol).id
        for bar in bars
        if partition_of(bar.symbol, PARTITIONS) == partition
    ]


async def test_a_master_is_killed_under_feed(
    made: Cluster, client: Client, table: BarTable
) -> None:
    """L40, L43: each bar's signal once, in order; its partition is silent for seconds only."""
    victim = next(p for p in range(PARTITIONS) if made.home(p) is not made.masters[0])
    producer = Producer(client, KEYS, "test", None)
    subscriber = Subscriber(client.at(0 if made.home(0) is not made.home(victim) else 3))
    bars, stop = list(table.bars()), asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        listening = tasks.create_task(subscriber.run())
        for partition in range(PARTITIONS):
            tasks.create_task(serve(client, partition, stop))
        feeding = tasks.create_task(
            produce_all(producer, partial(by_moment, table), 4_000, lambda _: None)
        )
        await until(lambda: is_longer(client, victim, 100))
        made.home(victim).kill()
        await feeding
        for partition in range(PARTITIONS):
            await until(lambda p=partition: is_longer(client, p, len(home_ids(bars, p))))
        stop.set()
        listening.cancel()
    for partition in range(PARTITIONS):
        assert await ids(client, partition) == home_ids(bars, partition)
    outages = [f"{subscriber.outage_s(partition):.1f} s" for partition in range(PARTITIONS)]
    print(f"longest silence of each partition: {', '.join(outages)}; {victim} lost its master")
    assert subscriber.outage_s(victim) < 15


async def test_the_daemon_outlives_a_master(
    made: Cluster, settings: Settings, client: Client, history: BarTable, tmp_path: Path
) -> None:
    """L40, L43: the signals of all partitions are those of one that nothing ever happened to."""
    alone = changed(with_one_agent(settings, tmp_path), "ingest", lagging_ms=3_600_000)
    quick = {"block_ms": 100, "timeout_ms": 500, "backoff_max_ms": 100}
    clustered = changed(
        alone,
        "redis",
        url=made.masters[0].url,
        cluster=True,
        partitions=4,
        partition="0-3",
        **quick,
    )
    table = history.rows(0, 900)
    victim = partition_of(table.symbols[0], PARTITIONS)
    async with connect(settings.redis, settings.redis.url) as plain:
        await run_through(alone, plain, list(table.bars()))
        expected = said(await published(plain))
    async with serving(clustered):
        producer = Producer(client, KEYS, "test", None)
        feeding = asyncio.create_task(
            produce_all(producer, partial(by_moment, table), 10_000, lambda _: None)
        )
        await until(lambda: is_longer(client, victim, 50))
        made.home(victim).kill()
        await feeding
        await until(lambda: all_are_read(client))
    found = [one for p in range(PARTITIONS) for one in said(await signals_of(client, p))]
    assert sorted(found) == sorted(expected)
    assert len(expected) > 500


def by_moment(table: BarTable, at: int) -> Iterator[Step]:
    return steps(table, MINUTE_MS, at, together=False)


async def signals_of(client: Client, partition: int) -> list[dict[str, Any]]:
    return await published(client.at(partition), KEYS.at(partition))


async def all_are_read(client: Client) -> bool:
    """Whether the committed positions are the ends of the streams."""
    for partition in range(PARTITIONS):
        own, keys = client.at(partition), KEYS.at(partition)
        newest = await own.xrevrange(keys.bars, count=1)
        if newest and newest[0][0] != await own.hget(keys.state, "offset"):
            return False
    return True


async def is_longer(client: Client, partition: int, length: int) -> bool:
    return bool(await client.at(partition).xlen(KEYS.at(partition).signals) >= length)
