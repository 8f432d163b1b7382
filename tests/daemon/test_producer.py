"""Tests of the producer: each bar of a source once, resuming where it stopped."""

import asyncio
import random
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.exceptions import ResponseError

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon import producer as producer_module
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.producer import (
    CHUNK,
    MAX_SPEED,
    Producer,
    WentBack,
    produce,
    produce_all,
    steps,
)
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.proxy import Proxy

KEYS = Keys("quantum")
MINUTE_MS = 60_000


@pytest.fixture
def table(history: BarTable) -> BarTable:
    return history.rows(0, 300)


async def stream(client: Client, keys: Keys = KEYS) -> list[Bar]:
    """The bars in the stream."""
    entries = await client.xrange(keys.bars)
    return [msgspec.msgpack.decode(fields[b"b"], type=Bar) for _, fields in entries]


async def run(client: Client, table: BarTable, keys: Keys = KEYS) -> int:
    """Send what is not there yet, as fast as possible."""
    producer = Producer(client, keys, "test", None)
    start = await producer.position()
    plan = steps(table, MINUTE_MS, start, together=True)
    return await produce(producer, plan, start, MAX_SPEED, lambda _: None)


async def test_sends_every_bar_once_and_in_order(client: Client, table: BarTable) -> None:
    assert await run(client, table) == len(table)
    assert await stream(client) == list(table.bars())


async def test_goes_on_where_it_stopped(client: Client, table: BarTable) -> None:
    """L43: a producer that was killed sends neither a bar twice nor none."""
    await run(client, table.rows(0, 100))
    assert await run(client, table) == len(table)
    assert await run(client, table) == len(table)
    assert await stream(client) == list(table.bars())


async def test_restart_forgets_the_position(client: Client, table: BarTable) -> None:
    await run(client, table)
    await Producer(client, KEYS, "test", None).restart()
    await run(client, table)
    assert await client.xlen(KEYS.bars) == 2 * len(table)


async def test_sources_do_not_share_their_position(client: Client, table: BarTable) -> None:
    await run(client, table)
    assert await Producer(client, KEYS, "another", None).position() == 0


async def test_each_symbol_goes_home(client: Client, table: BarTable) -> None:
    """With partitions a bar goes where its symbol lives."""
    keys = Keys("quantum", partitions=4)
    await run(client, table, keys)
    for partition in range(4):
        bars = await stream(client, keys.at(partition))
        expected = [bar for bar in table.bars() if partition_of(bar.symbol, 4) == partition]
        assert bars == expected


def homed(table: BarTable, keys: Keys) -> list[list[Bar]]:
    """What the stream of each partition holds in the end."""
    streams: list[list[Bar]] = [[] for _ in range(keys.partitions)]
    for bar in table.bars():
        streams[partition_of(bar.symbol, keys.partitions)].append(bar)
    return streams


async def is_complete(client: Client, table: BarTable, keys: Keys) -> bool:
    found = [await stream(client, keys.at(p)) for p in range(keys.partitions)]
    return found == homed(table, keys)


class Killed(BaseException):
    """The end of a producer's process, wherever it is."""


@pytest.mark.parametrize("partitions", [1, 3])
@pytest.mark.parametrize("seed", range(10))
async def test_killed_between_any_two_partitions(
    client: Client, table: BarTable, monkeypatch: pytest.MonkeyPatch, partitions: int, seed: int
) -> None:
    """L40, L43: each partition goes on where it stopped itself: each bar once and in order."""
    chance, keys = random.Random(seed), Keys("quantum", partitions)
    execute = Client.execute_command
    left, is_done = 0, False

    async def mortal(own: Client, *arguments: Any, **options: Any) -> Any:
        nonlocal left
        left -= 1
        if left > 0 or is_done:
            reply = await execute(own, *arguments, **options)
        if left <= 0:
            raise Killed
        return reply

    end = 0
    while end < len(table):
        left, is_done = chance.randint(1, 25), chance.random() < 0.5
        with monkeypatch.context() as patch:
            patch.setattr(Client, "execute_command", mortal)
            try:
                end = await produce_all(
                    Producer(client, keys, "test", None),
                    lambda at: steps(table, MINUTE_MS, at, together=False),
                    MAX_SPEED,
                    lambda _: None,
                )
            except Killed:
                continue
    assert await is_complete(client, table, keys)
    assert await Producer(client, keys, "test", None).position() == len(table)


async def test_a_lost_reply_doubles_nothing(
    redis: EmbeddedRedis, table: BarTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L43: what was written is not written again, though nobody said so."""
    monkeypatch.setattr(producer_module, "RETRY_S", 0.001)
    keys = Keys("quantum", 3)
    async with Proxy(redis.socket) as proxy, connect(RedisSettings(), proxy.url) as client:

        def cut(_: int) -> None:
            proxy.cut = b"EVAL"

        cut(0)
        producer = Producer(client, keys, "test", None)
        plan = steps(table, MINUTE_MS, 0, together=False)
        await produce(producer, plan, 0, MAX_SPEED, cut)
        proxy.cut = None
        assert proxy.cuts > 50
        assert await is_complete(client, table, keys)


@pytest.mark.parametrize("partitions", [1, 3])
async def test_bars_that_the_server_lost_are_sent_again(
    client: Client, table: BarTable, partitions: int
) -> None:
    """L43: as after a failover to a replica that was behind, each partition for itself."""
    keys, done = Keys("quantum", partitions), 0

    async def lose() -> None:
        """Take one partition back to what it was some bars ago."""
        victim = keys.at(partition_of(table.symbols[0], partitions))
        entries = await client.xrange(victim.bars)
        for entry, fields in entries[-5:]:
            bar = msgspec.msgpack.decode(fields[b"b"], type=Bar)
            await client.xdel(victim.bars, entry)
            row = list(table.bars()).index(bar)
            await client.set(
                victim.feed("test"), min(row, int(await client.get(victim.feed("test"))))
            )

    producer = Producer(client, keys, "test", None)
    for step in steps(table, MINUTE_MS, 0, together=False):
        done = await producer.send(step, done)
        if done >= 150:
            break
    await lose()
    with pytest.raises(WentBack, match="has lost bars"):
        await produce(
            producer, steps(table, MINUTE_MS, done, together=False), done, MAX_SPEED, lambda _: None
        )
    end = await produce_all(
        producer,
        lambda at: steps(table, MINUTE_MS, at, together=False),
        MAX_SPEED,
        lambda _: None,
    )
    assert end == len(table)
    assert await is_complete(client, table, keys)


async def test_two_producers_of_a_source_send_it_once(client: Client, table: BarTable) -> None:
    """L45: whoever comes second finds the position moved on."""
    first, second = (Producer(client, Keys("quantum", 3), "test", None) for _ in range(2))

    def plan(at: int) -> Any:
        return steps(table, MINUTE_MS, at, together=False)

    await asyncio.gather(
        *(produce_all(one, plan, MAX_SPEED, lambda _: None) for one in (first, second))
    )
    assert await is_complete(client, table, Keys("quantum", 3))


async def test_out_of_memory_is_waited_for(
    client: Client, table: BarTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bars wait in their source until the server has room; none is half written."""
    monkeypatch.setattr(producer_module, "RETRY_S", 0.001)
    await client.config_set("maxmemory", 1)
    sending = asyncio.create_task(run(client, table))
    while not (await client.info("commandstats")).get("cmdstat_eval", {}).get("calls", 0) > 3:
        await asyncio.sleep(0)
    assert not await client.exists(KEYS.bars)
    await client.config_set("maxmemory", 0)
    assert await sending == len(table)
    assert await stream(client) == list(table.bars())


async def test_what_no_attempt_would_change_is_told(client: Client, table: BarTable) -> None:
    """L41: a key of another type is no reason to wait for ever."""
    await client.set(KEYS.bars, "no stream")
    with pytest.raises(ResponseError, match="WRONGTYPE"):
        await run(client, table)


async def test_bars_carry_the_environment(client: Client, table: BarTable) -> None:
    """L52: a producer that was told its environment says it with every bar."""
    producer = Producer(client, KEYS, "test", "paper")
    await produce(producer, steps(table, MINUTE_MS, 0, together=True), 0, MAX_SPEED, lambda _: None)
    entries = await client.xrange(KEYS.bars)
    assert {msgspec.msgpack.decode(f[b"b"])["environment"] for _, f in entries} == {"paper"}


async def test_bad_bars_are_sent_as_they_were_recorded(client: Client) -> None:
    """L41: refusing them, visibly, is the engine's work."""
    bad = BarTable(("A",), np.zeros(1, np.int32), "1m", np.array([60_000]), np.full((1, 5), -1.0))
    await run(client, bad)
    [(_, fields)] = await client.xrange(KEYS.bars)
    assert msgspec.msgpack.decode(fields[b"b"])["low"] == -1.0


async def test_progress_is_reported(client: Client, table: BarTable) -> None:
    reported: list[int] = []
    producer = Producer(client, KEYS, "test", None)
    plan = steps(table, MINUTE_MS, 0, together=False)
    await produce(producer, plan, 0, MAX_SPEED, reported.append)
    assert sum(reported) == len(table)
    assert max(reported) <= len(table.symbols)


async def test_speed_is_kept(client: Client, table: BarTable) -> None:
    """No step is sent before its moment."""
    producer = Producer(client, KEYS, "test", None)
    plan = list(steps(table.rows(0, 50), MINUTE_MS, 0, together=False))
    loop = asyncio.get_running_loop()
    began, moments = loop.time(), list[float]()
    await produce(producer, plan, 0, 1e4, lambda _: moments.append(loop.time() - began))
    for step, moment in zip(plan, moments, strict=True):
        assert moment >= (step.close_time - plan[0].close_time) / 1000 / 1e4 - 1e-3


@given(
    minutes=st.lists(st.integers(0, 30), max_size=60).map(sorted),
    start=st.integers(0, 60),
    together=st.booleans(),
)
def test_steps_cover_the_table_without_overlap(
    minutes: list[int], start: int, together: bool
) -> None:
    """By moment, all rows of a step close together; otherwise a step is at most a thousand rows."""
    times = np.array(minutes, np.int64) * MINUTE_MS
    start = min(start, len(times))
    table = BarTable(("A",), np.zeros(len(times), np.int32), "1m", times, np.ones((len(times), 5)))
    plan = list(steps(table, MINUTE_MS, start, together=together))
    assert [row for step in plan for row in range(step.start, step.end)] == list(
        range(start, len(times))
    )
    for step in plan:
        rows = times[step.start : step.end]
        assert step.close_time == rows[-1] + MINUTE_MS
        assert len(rows) <= CHUNK
        assert together or len(set(rows.tolist())) == 1
    if not together:
        assert len({step.close_time for step in plan}) == len(plan)
