"""Tests of the producer: each bar of a source once, resuming where it stopped."""

import asyncio

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.producer import CHUNK, MAX_SPEED, Producer, produce, steps
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

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
