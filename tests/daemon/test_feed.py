"""Tests of the bar stream: forward, backward, trimmed, and bridged from the channel."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.daemon import feed
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START
from quantum_ai_engine.daemon.feed import BarFeed, bridge
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.events import Bar, Reason, encode_bar

from .test_app import is_heard, until

KEYS = Keys("quantum")
LATEST = 10**13


def bar(minute: int, symbol: str = "BTCUSDT") -> Bar:
    return Bar(symbol, "1m", minute * 60_000, 100.0, 102.0, 99.0, 101.0, float(minute))


async def add(client: Client, bars: list[Bar], first_ms: int = 1) -> list[str]:
    """Entries one millisecond apart; their ids."""
    async with client.pipeline(transaction=False) as pipe:
        for i, each in enumerate(bars):
            pipe.xadd(KEYS.bars, {"b": encode_bar(each)}, id=f"{first_ms + i}-0")
        return [entry_id.decode() for entry_id in await pipe.execute()]


@pytest.fixture
def bars(client: Client) -> BarFeed:
    return BarFeed(client, KEYS, "live")


async def test_reads_what_comes_after_a_position(client: Client, bars: BarFeed) -> None:
    ids = await add(client, [bar(minute) for minute in range(10)])
    entries = await bars.read(ids[3], 4, 100)
    assert [entry_id.decode() for entry_id, _ in entries] == ids[4:8]
    assert len(await bars.read(START, 100, 100)) == 10


async def test_an_idle_read_gives_nothing(bars: BarFeed) -> None:
    assert await bars.read(START, 10, 1) == []


async def test_a_waiting_read_gets_the_next_entry(client: Client, bars: BarFeed) -> None:
    """Alone, a bar is a batch of one: nobody waits to fill it."""
    read = asyncio.create_task(bars.read(START, 1_000, 60_000))
    await until(lambda: is_anybody_waiting(client))
    await add(client, [bar(1)])
    async with asyncio.timeout(5):
        assert len(await read) == 1


async def is_anybody_waiting(client: Client) -> bool:
    """Whether a client waits in Redis."""
    return bool((await client.info("clients"))["blocked_clients"])


async def test_decoding_keeps_bars_and_their_entries_together(
    client: Client, bars: BarFeed
) -> None:
    """L41: every entry is either a bar or a dead letter."""
    await add(client, [bar(1)])
    await client.xadd(KEYS.bars, {"symbol": "BTCUSDT"})
    await client.xadd(KEYS.bars, {"b": encode_bar(bar(2))})
    entries = await bars.read(START, 10, 100)
    decoded, accepted, dead = bars.decode(entries, LATEST)
    assert decoded == [bar(1), bar(2)]
    assert accepted == [entries[0], entries[2]]
    assert [(letter.refused.reason, letter.source) for letter in dead] == [
        (Reason.MISSING_FIELD, entries[1][0])
    ]


@given(
    symbols=st.lists(st.sampled_from("ABC"), min_size=1, max_size=60),
    wanted=st.integers(0, 20),
    at=st.integers(0, 59),
)
@hypothesis_settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
async def test_the_tail_is_the_end_of_the_stream(
    client: Client,
    monkeypatch: pytest.MonkeyPatch,
    symbols: list[str],
    wanted: int,
    at: int,
) -> None:
    """In order, up to the position: the last bars of each series, as many as were asked for."""
    monkeypatch.setattr(feed, "TAIL_CHUNK", 7)
    await client.delete(KEYS.bars)
    sent = [bar(minute, symbol) for minute, symbol in enumerate(symbols)]
    ids = await add(client, sent)
    at = min(at, len(sent) - 1)
    before = sent[: at + 1]
    later = [Counter(b.symbol for b in before[i:]) for i in range(len(before))]
    last = [b for i, b in enumerate(before) if later[i][b.symbol] <= wanted]
    assert await BarFeed(client, KEYS, "live").tail(ids[at], wanted, LATEST) == last


async def test_the_tail_finds_series_that_hardly_ever_trade(
    client: Client, bars: BarFeed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L43: a busy symbol does not push a quiet one's state out of the restart."""
    monkeypatch.setattr(feed, "TAIL_CHUNK", 7)
    ids = await add(client, [bar(1, "QUIET"), *(bar(minute) for minute in range(30))])
    assert bar(1, "QUIET") in await bars.tail(ids[-1], 5, LATEST)


async def test_the_tail_leaves_out_what_was_refused(client: Client, bars: BarFeed) -> None:
    await add(client, [bar(1)])
    await client.xadd(KEYS.bars, {"json": "{"}, id="2-0")
    await add(client, [bar(2)], first_ms=3)
    assert await bars.tail("3-0", 10, LATEST) == [bar(1), bar(2)]


async def test_before_the_first_commit_there_is_no_tail(client: Client, bars: BarFeed) -> None:
    """L44: bars that were never processed are not learned in silence."""
    await add(client, [bar(1)])
    assert await bars.tail(START, 10, LATEST) == []


async def test_a_position_that_is_gone_is_noticed(client: Client, bars: BarFeed) -> None:
    """L40: a position trimmed out of the stream is a gap that somebody must hear of."""
    ids = await add(client, [bar(minute) for minute in range(3)])
    assert not await bars.was_trimmed(START)
    assert not await bars.was_trimmed(ids[1])
    await client.xtrim(KEYS.bars, minid=ids[2], approximate=False)
    assert await bars.was_trimmed(ids[1])


async def test_lag_is_the_age_of_the_position(client: Client, bars: BarFeed) -> None:
    """L06: measured by the ids, which are Redis's own clock."""
    assert await bars.lag_ms("5-0") == 0
    ids = await add(client, [bar(minute) for minute in range(5)], first_ms=1_000)
    assert await bars.lag_ms(ids[1]) == 3
    assert await bars.lag_ms(ids[-1]) == 0


async def test_trim_drops_old_entries_but_none_that_is_unread(
    client: Client, bars: BarFeed
) -> None:
    """L42: the stream is bounded by time; a daemon that is behind loses nothing by it."""
    ids = await add(client, [bar(minute) for minute in range(1_000)])
    await bars.trim(ids[499], retention_ms=1)
    left = [entry_id.decode() for entry_id, _ in await client.xrange(KEYS.bars)]
    assert left[-501:] == ids[499:]
    assert len(left) < 700
    assert not await bars.was_trimmed(ids[499])


async def test_trim_keeps_up_with_any_feed(client: Client, bars: BarFeed) -> None:
    """L42: more entries than the server drops at a call, unless it is told to."""
    async with client.pipeline(transaction=False) as pipe:
        for at in range(25_000):
            pipe.xadd(KEYS.bars, {"b": b""}, id=f"{at + 1}-0")
        await pipe.execute()
    await bars.trim("25000-0", retention_ms=1)
    assert await client.xlen(KEYS.bars) < 200


async def test_trim_keeps_what_is_within_the_retention(client: Client, bars: BarFeed) -> None:
    seconds, _ = await client.time()
    ids = await add(client, [bar(minute) for minute in range(500)], seconds * 1_000 - 1_000)
    await bars.trim(ids[-1], retention_ms=3_600_000)
    assert await client.xlen(KEYS.bars) == 500


async def test_trim_before_the_first_commit_drops_nothing(client: Client, bars: BarFeed) -> None:
    await add(client, [bar(minute) for minute in range(500)])
    await bars.trim(START, retention_ms=1)
    assert await client.xlen(KEYS.bars) == 500


@contextlib.asynccontextmanager
async def bridging(
    client: Client, *served: Keys, count: Callable[[], None] = lambda: None
) -> AsyncIterator[None]:
    """The bridge at work, subscribed."""
    task = asyncio.create_task(bridge(client, served, count))
    await until(lambda: is_heard(client))
    yield
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)


async def test_the_bridge_copies_both_forms(client: Client, bars: BarFeed) -> None:
    copied = Counter[str]()
    async with bridging(client, KEYS, count=lambda: copied.update(["all"])):
        await client.publish(KEYS.bars_channel, encode_bar(bar(1)))
        await client.publish(KEYS.bars_channel, b"  " + msgspec.json.encode(bar(2)))
        await client.publish(KEYS.bars_channel, b"{not a bar")
        await until(lambda: copied["all"] == 3)
    decoded, _, dead = bars.decode(await bars.read(START, 10, 100), LATEST)
    assert decoded == [bar(1), bar(2)]
    assert [letter.refused.reason for letter in dead] == [Reason.UNDECODABLE]


async def test_each_partition_bridges_its_own(client: Client) -> None:
    """A symbol's bars go to its home; what has no symbol is the first partition's to refuse."""
    homes = [Keys("quantum", partitions=4, partition=partition) for partition in range(4)]
    home = homes[partition_of("BTCUSDT", 4)]
    async with contextlib.AsyncExitStack() as stack:
        for keys in homes:
            await stack.enter_async_context(bridging(client, keys))
        await until(lambda: is_heard(client, 4))
        await client.publish(KEYS.bars_channel, encode_bar(bar(1)))
        await client.publish(KEYS.bars_channel, b"[" * 100_000)
        await client.publish(KEYS.bars_channel, encode_bar(bar(2)))
        await until(lambda: is_as_long(client, home.bars, 2))
        await until(lambda: is_as_long(client, homes[0].bars, 1))
    lengths = [await client.xlen(keys.bars) for keys in homes]
    assert sum(lengths) == 3


async def test_a_process_of_several_partitions_bridges_all_of_them(client: Client) -> None:
    """What belongs to nobody here is left to the process that serves it."""
    keys = [Keys("quantum", 4, partition) for partition in range(4)]
    symbols = [f"S{i}" for i in range(40)]
    here = [symbol for symbol in symbols if partition_of(symbol, 4) in (1, 2)]
    copied = Counter[str]()
    async with bridging(client, keys[1], keys[2], count=lambda: copied.update(["all"])):
        for symbol in symbols:
            await client.publish(
                KEYS.bars_channel, encode_bar(msgspec.structs.replace(bar(1), symbol=symbol))
            )
        await until(lambda: copied["all"] == len(here))
    lengths = [await client.xlen(home.bars) for home in keys]
    assert [lengths[0], lengths[3]] == [0, 0]
    assert lengths[1] == sum(partition_of(symbol, 4) == 1 for symbol in here)
    assert sum(lengths) == len(here)


async def is_as_long(client: Client, key: str, length: int) -> bool:
    """Whether a stream holds so many entries."""
    return bool(await client.xlen(key) >= length)


async def test_the_bridge_subscribes_again(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """L47: a lost connection does not silence the input for ever."""
    monkeypatch.setattr(feed, "RECONNECT_S", 0.001)
    async with bridging(client, KEYS):
        await client.client_kill_filter(_type="pubsub")
        async with asyncio.timeout(5):
            while not await client.xlen(KEYS.bars):
                await client.publish(KEYS.bars_channel, encode_bar(bar(1)))
                await asyncio.sleep(0.001)
