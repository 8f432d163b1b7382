"""Following signals while Redis dies, forgets, goes back in time, and connections are cut."""

import asyncio
import os
import signal as unix
from collections.abc import AsyncIterator
from itertools import count
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from quantum_ai_engine.client import (
    ALL,
    CaughtUp,
    EngineSilent,
    Missed,
    Past,
    SignalClient,
    Target,
)
from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.signals import CHUNK
from quantum_ai_engine.events import Signal
from quantum_ai_engine.proof.proxy import Proxy

from .following import MINUTE, Clock, Engine, Seen, following, settings_of, signal

QUICK = {"redis_block_ms": 50, "redis_timeout_ms": 300, "redis_backoff_max_ms": 20}
SYMBOLS = ("BTCUSDT", "ETHUSDT", "XRPUSDT")
PREFIXES = (f"p{number}" for number in count())


@pytest.fixture
async def engine(client: Client) -> Engine:
    engine = Engine(client)
    await engine.beat()
    return engine


@pytest.fixture
async def proxy(redis: EmbeddedRedis) -> AsyncIterator[Proxy]:
    async with Proxy(redis.socket) as proxy:
        yield proxy


def bot_of(url: str, clock: Clock | None = None) -> SignalClient:
    return SignalClient(url, settings_of(url, **QUICK), clock=clock or Clock())


def given_ids(seen: Seen) -> list[str]:
    told = [update for update in seen.updates if isinstance(update, Target | Past)]
    return [update.signal.id for update in told]


async def test_redis_may_come_later(tmp_path: Path) -> None:
    """Down at the start: it waits; nothing is missed of what was asked for."""
    server = EmbeddedRedis(tmp_path / "redis")
    async with server, connect(RedisSettings(), server.url) as client:
        await Engine(client).write(signal())
    settings = settings_of(server.url, **QUICK)
    bot = SignalClient(server.url, settings, silent_ms=300, clock=Clock())
    async with following(bot, ALL) as seen:
        assert (await seen.first(EngineSilent)).reason.startswith("Redis cannot be reached: ")
        async with EmbeddedRedis(tmp_path / "redis"):
            assert (await seen.first(Target)).signal == signal()


async def test_redis_is_killed_time_and_again(tmp_path: Path) -> None:
    """Each signal once and in order, whatever was written before, between and after."""
    directory, clock = tmp_path / "redis", Clock(1.0)
    bot = bot_of(EmbeddedRedis(directory).url, clock)
    written: list[str] = []
    async with following(bot, ALL) as seen:
        for start in range(0, 40, 10):
            async with (
                EmbeddedRedis(directory) as server,
                connect(RedisSettings(), server.url) as client,
            ):
                signals = [signal(minute=start + step + 1) for step in range(10)]
                await Engine(client).write(*signals)
                written.extend(each.id for each in signals)
                await seen.until(lambda: given_ids(seen)[-1:] == written[-1:])
                os.kill(server.pid, unix.SIGKILL)
                await server.wait()
    assert given_ids(seen) == written


@pytest.mark.parametrize("command", [b"XRANGE", b"PTTL", b"SUBSCRIBE"])
async def test_replies_are_lost(engine: Engine, proxy: Proxy, command: bytes) -> None:
    """A look that failed is repeated from where the last good one ended."""
    bot = bot_of(proxy.url)
    async with following(bot, ALL) as seen:
        await seen.first(CaughtUp)
        for minute in range(1, 11):
            if minute % 2:
                proxy.cut = command
                await engine.client.client_kill_filter(_type="pubsub")
            await engine.write(signal(minute=minute))
            await seen.until(lambda upto=minute: len(given_ids(seen)) >= upto)
    assert proxy.cuts
    assert given_ids(seen) == [signal(minute=minute).id for minute in range(1, 11)]


async def test_replies_are_torn_and_dropped_at_random(engine: Engine, proxy: Proxy) -> None:
    bot = bot_of(proxy.url)
    proxy.drop_share = proxy.tear_share = 0.05
    signals = [signal(minute=minute) for minute in range(1, 201)]
    async with following(bot, ALL) as seen:
        for each in signals:
            await engine.write(each)
        await seen.until(lambda: len(given_ids(seen)) >= len(signals))
    assert given_ids(seen) == [each.id for each in signals]
    assert proxy.cuts


async def test_a_long_backlog_comes_in_pieces(engine: Engine, redis: EmbeddedRedis) -> None:
    signals = [signal(minute=minute) for minute in range(1, 2 * CHUNK + 1)]
    await engine.write(*signals)
    async with following(bot_of(redis.url), ALL) as seen:
        await seen.first(CaughtUp)
        assert given_ids(seen) == [each.id for each in signals]


async def test_a_trimmed_stream_is_told_of(engine: Engine, redis: EmbeddedRedis) -> None:
    """L40: a position that is no longer kept is a gap, never passed over in silence."""
    entries = [await engine.write(signal(minute=minute)) for minute in range(1, 5)]
    await engine.client.xtrim("quantum:signals", maxlen=1, approximate=False)
    async with following(bot_of(redis.url), entries[0]) as seen:
        assert await seen.first(Missed) == Missed(0, entries[0], entries[3])
        await seen.first(CaughtUp)
        assert given_ids(seen) == [signal(minute=4).id]
        await engine.write(signal(minute=5))
        await seen.first(Target, 2)
        assert len(seen.all(Missed)) == 1


async def test_a_position_between_entries_is_no_gap(engine: Engine, redis: EmbeddedRedis) -> None:
    """It may be a time: then the next entry is the one after it."""
    await engine.write(signal(minute=1), entry="1000-0")
    await engine.write(signal(minute=2), entry="2000-0")
    async with following(bot_of(redis.url), "1500") as seen:
        await seen.first(CaughtUp)
        assert given_ids(seen) == [signal(minute=2).id]
        assert not seen.all(Missed)


async def test_a_flushed_server_is_told_of(engine: Engine, redis: EmbeddedRedis) -> None:
    """What comes after is given, even when the new server's clock is behind."""
    await engine.write(signal(minute=1), entry="2000-0")
    async with following(bot_of(redis.url), ALL) as seen:
        await seen.first(CaughtUp)
        await engine.client.flushall()
        assert await seen.first(Missed) == Missed(0, "2000-0", None)
        await engine.write(signal(minute=2), entry="1000-0")
        await seen.first(Target, 2)
    assert given_ids(seen) == [signal(minute=1).id, signal(minute=2).id]


async def test_a_server_that_went_back_in_time(engine: Engine, redis: EmbeddedRedis) -> None:
    """After a failover to an older copy with a slower clock: nothing lost, nothing twice."""
    for minute in (1, 2, 3):
        await engine.write(signal(minute=minute), entry=f"{minute}000-0")
    async with following(bot_of(redis.url), "1000-0") as seen:
        await seen.first(CaughtUp)
        async with engine.client.pipeline(transaction=True) as copy:
            copy.delete("quantum:signals")
            for minute, entry in ((1, "1000-0"), (3, "1500-0"), (4, "1600-0")):
                payload = msgspec.json.encode(signal(minute=minute))
                copy.xadd("quantum:signals", {"json": payload}, id=entry)
            await copy.execute()
        await seen.until(lambda: signal(minute=4).id in given_ids(seen))
    assert given_ids(seen) == [signal(minute=minute).id for minute in (2, 3, 4)]
    assert not seen.all(Missed)


async def test_no_task_is_left_behind(engine: Engine, redis: EmbeddedRedis) -> None:
    bot = bot_of(redis.url)
    before = asyncio.all_tasks()
    stream = bot.follow()
    await anext(stream)
    await stream.aclose()
    assert asyncio.all_tasks() == before


class Model:
    """What must have been told, and what must stand, by the list of what was written."""

    def __init__(self) -> None:
        self.ids: dict[int, list[str]] = {0: [], 1: []}
        self.newest: dict[tuple[str, str], Signal] = {}

    def write(self, each: Signal) -> None:
        ids = self.ids[partition_of(each.symbol, 2)]
        if each.id in ids:
            return
        ids.append(each.id)
        newest = self.newest.get((each.symbol, "1m"))
        if newest is None or each.close_time >= newest.close_time:
            self.newest[each.symbol, "1m"] = each

    def targets(self, now: int) -> dict[tuple[str, str], float]:
        return {
            series: each.target for series, each in self.newest.items() if now <= each.valid_until
        }


steps = st.lists(
    st.one_of(
        st.tuples(st.just("bar"), st.sampled_from(SYMBOLS)),
        st.tuples(st.just("amend"), st.sampled_from(SYMBOLS), st.integers(0, 2)),
        st.tuples(st.just("again"), st.integers(0, 30)),
        st.tuples(st.just("quiet"), st.sampled_from(SYMBOLS)),
        st.tuples(st.just("cut")),
        st.tuples(st.just("later"), st.integers(1, 4)),
        st.tuples(st.just("restart")),
    ),
    max_size=30,
)


class Run:
    """One interleaving against a real Redis, in keys of its own."""

    def __init__(self, client: Client, url: str) -> None:
        settings = settings_of(url, redis_prefix=next(PREFIXES), redis_partitions=2, **QUICK)
        self.engine = Engine(client, Keys(settings.redis.prefix, 2))
        self.clock = Clock(1.0)
        self.bot = SignalClient(url, settings, clock=self.clock)
        self.model = Model()
        self.written: list[Signal] = []
        self.told: list[tuple[int, str]] = []

    async def all(self, moves: list[tuple[object, ...]]) -> None:
        for partition in (0, 1):
            await self.engine.beat(partition)
        rest, after = moves, ALL
        while rest:
            upto = rest.index(("restart",)) + 1 if ("restart",) in rest else len(rest)
            async with following(self.bot, after) as seen:
                for move in rest[:upto]:
                    await self.step(seen, move)
                await self.drained(seen)
                assert self.bot.targets() == self.model.targets(self.clock.now)
            for update in seen.updates:
                if isinstance(update, Target | Past):
                    each = update.signal
                    self.told.append((partition_of(each.symbol, 2), each.id))
            after, rest = self.bot.position, rest[upto:]

    async def step(self, seen: Seen, move: tuple[object, ...]) -> None:
        match move:
            case ("bar" | "quiet" as kind, str(symbol)):
                newest = self.model.newest.get((symbol, "1m"))
                minute = newest.close_time // MINUTE + 1 if newest else 1
                await self.write(signal(symbol, minute, target=minute % 3 / 10), kind == "bar")
            case ("amend", str(symbol), int(back)):
                of = [each for each in self.written if each.symbol == symbol][-1 - back :]
                if of:
                    minute = of[0].close_time // MINUTE
                    version = sum(
                        each.close_time == of[0].close_time for each in self.uniques(symbol)
                    )
                    await self.write(signal(symbol, minute, version, target=version % 3 / 10))
            case ("again", int(index)) if self.written:
                await self.write(self.written[index % len(self.written)])
            case ("cut",):
                await self.engine.client.client_kill_filter(skipme=True)
            case ("later", int(minutes)):
                await self.drained(seen)
                self.clock.now += minutes * MINUTE

    def uniques(self, symbol: str) -> list[Signal]:
        return list({each.id: each for each in self.written if each.symbol == symbol}.values())

    async def write(self, each: Signal, publish: bool = True) -> None:
        self.written.append(each)
        self.model.write(each)
        await self.engine.write(each, publish=publish)

    async def drained(self, seen: Seen) -> None:
        """Wait until all that was written has been read."""
        await seen.first(CaughtUp)
        ends = [
            await self.engine.client.xrevrange(self.engine.keys.at(p).signals, count=1)
            for p in (0, 1)
        ]
        position = ",".join(end[0][0].decode() if end else ALL for end in ends)
        async with asyncio.timeout(20):
            while self.bot.position != position:
                await asyncio.sleep(0.001)


@given(moves=steps)
@hypothesis_settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
async def test_any_interleaving(
    client: Client, redis: EmbeddedRedis, moves: list[tuple[object, ...]]
) -> None:
    """L43: each id once, in the order of its partition's stream; targets as by the list."""
    run = Run(client, redis.url)
    await run.all(moves)
    for partition in (0, 1):
        assert [name for p, name in run.told if p == partition] == run.model.ids[partition]
