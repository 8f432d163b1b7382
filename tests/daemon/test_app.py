"""Tests of the daemon's whole life, in this process, against a real Redis."""

import asyncio
import contextlib
import inspect
import json
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.config import ConfigError, Loaded, RedisSettings, Settings
from quantum_ai_engine.daemon import feed as feed_module
from quantum_ai_engine.daemon.app import Daemon, EmbeddedRedisEnded, stop_on_signals
from quantum_ai_engine.daemon.client import Client, Unreachable, connect
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.events import Bar, encode_bar, signal_id
from quantum_ai_engine.market.table import BarTable

PATIENCE_S = 20.0
KEYS = Keys("quantum")
BARS = 600  # of two symbols; a third one's session begins later


async def until(condition: Callable[[], object | Awaitable[object]]) -> None:
    """Return when the condition, which may be awaitable, holds; or fail."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            result = condition()
            if await result if inspect.isawaitable(result) else result:
                return
            await asyncio.sleep(0.001)


def changed(settings: Settings, room: str, **values: Any) -> Settings:
    """The settings with some of one room's values changed."""
    part = msgspec.structs.replace(getattr(settings, room), **values)
    return msgspec.structs.replace(settings, **{room: part})


def with_one_agent(settings: Settings, directory: Path) -> Settings:
    """The same with the small agent alone, which starts in a fraction of the time."""
    alone = directory / "alone"
    alone.mkdir()
    (alone / "gru").symlink_to(Path(settings.agents.bundles) / "gru")
    return changed(settings, "agents", bundles=str(alone))


@contextlib.asynccontextmanager
async def serving(settings: Settings, notifier: Notifier | None = None) -> AsyncIterator[Daemon]:
    """A daemon that serves inside the context and has been stopped after it."""
    daemon = Daemon(Loaded(settings, {}), notifier or Notifier(None))
    task = asyncio.create_task(daemon.run())
    await until(lambda: daemon.ready.is_set() or task.done())
    try:
        if not task.done():
            yield daemon
    finally:
        daemon.stop.set()
        async with asyncio.timeout(PATIENCE_S):
            await task


@contextlib.contextmanager
def ends_with(kind: type[Exception], match: str = "") -> Any:
    """The daemon ends with this failure, alone or within a group of its tasks' failures."""
    with pytest.raises((kind, BaseExceptionGroup)) as caught:
        yield
    failure: BaseException | None = caught.value
    if isinstance(failure, BaseExceptionGroup):
        group = failure.subgroup(kind)
        assert group is not None, failure.exceptions
        failure = group.exceptions[0]
    assert match in str(failure)


async def fails_to_serve(settings: Settings) -> None:
    """Run a daemon that is expected to end by itself."""
    async with asyncio.timeout(PATIENCE_S):
        await Daemon(Loaded(settings, {}), Notifier(None)).run()


async def feed(client: Client, bars: Sequence[Bar], keys: Keys = KEYS) -> None:
    """Put bars into the stream."""
    async with client.pipeline(transaction=False) as pipe:
        for bar in bars:
            pipe.xadd(keys.bars, {"b": encode_bar(bar)})
        await pipe.execute()


async def published(client: Client, keys: Keys = KEYS) -> list[dict[str, Any]]:
    """All signals in the stream."""
    return [json.loads(fields[b"json"]) for _, fields in await client.xrange(keys.signals)]


async def run_through(settings: Settings, client: Client, bars: Sequence[Bar]) -> None:
    """Feed the bars to a daemon, wait until it has dealt with them, stop it."""
    async with serving(settings) as daemon:
        await feed(client, bars, Keys.of(settings.redis))
        await until(lambda: daemon.status.seen >= len(bars))


def due(bars: Sequence[Bar], ready_at: int) -> list[str]:
    """The ids of the signals that these bars must give, in order."""
    counts = Counter[str]()
    ids = []
    for bar in bars:
        counts[bar.symbol] += 1
        if counts[bar.symbol] >= ready_at:
            ids.append(signal_id(bar.symbol, bar.interval, bar.close_time))
    return ids


def ready_at(daemon: Daemon) -> int:
    """With how many bars the first agent votes."""
    return min(agent.feature_set.window_ready_at for agent in daemon.pool.agents)


def said(signals: Sequence[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """What must be the same whoever computed it, and in however many steps."""
    return [(s["id"], s["row_hash"], s["probability"], s["effective_votes"]) for s in signals]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def test_every_ready_bar_gives_one_signal(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L53: a signal belongs to its (symbol, bar) by its id, never by position."""
    async with serving(settings) as daemon:
        await feed(client, bars)
        await until(lambda: daemon.status.seen == len(bars))
        signals = await published(client)
    assert [s["id"] for s in signals] == due(bars, ready_at(daemon))
    assert daemon.status.processed == len(bars)
    assert await client.xlen(KEYS.dead) == 0


async def test_every_entry_is_accounted_for(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L41, L52: what was fed is processed, a duplicate or dead; nothing is dropped in silence."""
    late, repeated = bars[0], bars[100:110]
    revised = msgspec.structs.replace(bars[109], volume=bars[109].volume + 1.0)
    foreign = msgspec.to_builtins(bars[201]) | {"environment": "test"}
    async with serving(settings) as daemon:
        await feed(client, [*bars[1:201], *repeated, revised, late])
        await client.xadd(KEYS.bars, {"b": msgspec.msgpack.encode(foreign)})
        await client.xadd(KEYS.bars, {"json": "[" * 100_000})
        await client.xadd(KEYS.bars, {"b": encode_bar(bars[201])})
        await until(lambda: daemon.status.processed == 201)
    status = daemon.status
    assert (status.processed, status.duplicates, status.refused) == (201, 10, 4)
    letters = {fields[b"reason"]: fields for _, fields in await client.xrange(KEYS.dead)}
    assert letters.keys() == {b"revision", b"late", b"other_environment", b"undecodable"}
    assert letters[b"late"][b"bar:b"] == encode_bar(late)


async def test_a_signal_says_who_made_it(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L07, L45, L52: its end, environment, build and settings are on the wire."""
    await run_through(settings, client, bars)
    signal_ = (await published(client))[-1]
    loaded = Loaded(settings, {})
    assert signal_["environment"] == settings.engine.environment
    assert signal_["config_hash"] == loaded.config_hash
    assert signal_["valid_until"] == signal_["close_time"] + 120_000
    assert signal_["engine"].count("+") == 1
    assert {"decode", "features", "predict", "decide"} <= signal_["latency_us"].keys()


async def test_a_restart_loses_and_doubles_nothing(
    settings: Settings, bundles: Path, client: Client, bars: list[Bar]
) -> None:
    """L43: the same bars give the same signals as without the restart."""
    settings = changed(settings, "agents", bundles=str(bundles))  # all agents
    twin = changed(settings, "redis", prefix="twin")
    await run_through(twin, client, bars)
    for part in (bars[:250], bars[250:251], bars[251:]):
        await run_through(settings, client, part)
    signals = await published(client)
    assert said(signals) == said(await published(client, Keys("twin")))
    assert len({s["id"] for s in signals}) == len(signals)


async def test_bars_that_came_while_nobody_was_there_are_caught_up(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L40: the next owner goes on from the committed position, not from now."""
    await run_through(settings, client, bars[:300])
    await feed(client, bars[300:])
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.seen == len(bars) - 300)
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(daemon))


async def test_a_restart_publishes_nothing_for_old_bars(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L44: what rebuilds the state has no publisher."""
    await run_through(settings, client, bars)
    before = await client.xlen(KEYS.signals)
    async with serving(changed(settings, "redis", block_ms=20)) as daemon:
        await until(lambda: daemon.status.turns)
        counts = {symbol: count for symbol, _, count, _ in daemon.rounds[0].engine.series()}
    assert counts == Counter(bar.symbol for bar in bars)
    assert await client.xlen(KEYS.signals) == before


async def test_stop_finishes_the_batch_in_hand(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """What was begun is committed, and what was not is left for the next start."""
    small = changed(settings, "ingest", batch=10)
    async with serving(small) as daemon:
        await feed(client, bars)
        await until(lambda: daemon.status.seen >= 200)
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 2.0
    assert daemon.status.seen < len(bars)
    position = (await client.hget(KEYS.state, "offset")).decode()
    assert len(await client.xrange(KEYS.bars, "-", position)) == daemon.status.seen
    async with serving(small) as daemon:
        await until(lambda: is_at_the_end(client))
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(daemon))


async def is_at_the_end(client: Client) -> bool:
    """Whether the committed position is the newest entry."""
    [(newest, _)] = await client.xrevrange(KEYS.bars, count=1)
    return bool(await client.hget(KEYS.state, "offset") == newest)


async def test_an_idle_daemon_stops_at_once(settings: Settings, client: Client) -> None:
    """A reader that waits in Redis does not hold the daemon up."""
    patient = changed(settings, "redis", block_ms=4_000)
    async with serving(patient) as daemon:
        await until(lambda: daemon.status.ready)
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 2.0


async def test_old_bars_teach_but_publish_nothing(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L07, L39: by the wall clock these bars are long past; a backlog is never live."""
    wall = changed(settings, "engine", clock="wall")
    heard: list[Any] = []
    async with client.pubsub() as channel, serving(wall) as daemon:
        await channel.psubscribe(KEYS.signal_channels)
        await channel.get_message(timeout=5.0)
        await feed(client, bars)
        await until(lambda: daemon.status.processed == len(bars))
        while message := await channel.get_message(timeout=0.0):
            heard.append(message)
        assert sum(count for _, _, count, _ in daemon.rounds[0].engine.series()) == len(bars)
    assert heard == []
    assert await client.xlen(KEYS.signals) == 0


async def test_an_eviction_policy_is_refused(settings: Settings, client: Client) -> None:
    """L42: a server that may drop our keys is bad configuration, unless told otherwise."""
    await client.config_set("maxmemory-policy", "allkeys-lru")
    with ends_with(ConfigError, "set it to noeviction. Or set redis.checks = warn"):
        await fails_to_serve(settings)
    async with serving(changed(settings, "redis", checks="warn")) as daemon:
        await until(lambda: daemon.status.ready)


async def test_a_wrong_password_is_bad_configuration(settings: Settings, client: Client) -> None:
    """L48: trying again would not help, so the daemon ends and says what to give."""
    await client.config_set("requirepass", "right")
    for password in ("", "wrong"):
        with ends_with(ConfigError, "give the right one as the credential redis-password"):
            await fails_to_serve(changed(settings, "redis", password=password))
    async with serving(changed(settings, "redis", password="right")) as daemon:
        await until(lambda: daemon.status.ready)


async def test_a_second_owner_waits(settings: Settings, client: Client, bars: list[Bar]) -> None:
    """L45: of two processes one serves; when it leaves the other goes on where it was."""
    async with contextlib.AsyncExitStack() as stack:
        async with serving(settings) as first:
            await until(lambda: first.status.ready)
            second = await stack.enter_async_context(serving(settings))
            await until(lambda: second.status.partitions[0].held_by)
            await feed(client, bars[:300])
            await until(lambda: first.status.processed == 300)
            assert (second.status.state(), second.status.processed) == ("standby", 0)
        await feed(client, bars[300:])
        await until(lambda: second.status.processed == len(bars) - 300)
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(second))


async def test_the_end_of_our_own_redis_ends_the_daemon(settings: Settings) -> None:
    """L47: any task's death ends the process, so that a fresh start recovers both."""
    home = settings.engine.state_dir + "/own"
    own = changed(changed(settings, "redis", url=""), "engine", state_dir=home)
    daemon = Daemon(Loaded(own, {}), Notifier(None))
    life = asyncio.create_task(daemon.run())
    await until(daemon.ready.is_set)
    async with connect(RedisSettings(), f"unix://{home}/redis/redis.sock") as client:
        pid = (await client.info("server"))["process_id"]
    os.kill(pid, signal.SIGKILL)
    with ends_with(EmbeddedRedisEnded, "our own Redis ended"):
        async with asyncio.timeout(PATIENCE_S):
            await life


async def answers(client: Client) -> bool:
    """Whether Redis serves."""
    try:
        return bool(await client.ping())
    except Unreachable:
        return False


async def test_a_busy_port_is_bad_configuration(settings: Settings) -> None:
    """L48: the sentence names the keys."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with ends_with(ConfigError, f"http.port = {port}"):
            await fails_to_serve(changed(settings, "http", port=port))


async def test_a_bad_address_is_bad_configuration(settings: Settings) -> None:
    """L48: a url of no known scheme is not tried for ever."""
    with ends_with(ConfigError, "redis.url"):
        await fails_to_serve(changed(settings, "redis", url="nowhere"))


def test_no_bundles_is_bad_configuration(settings: Settings, tmp_path: Path) -> None:
    """L48: there is nothing to serve without a bundle."""
    empty = changed(settings, "agents", bundles=str(tmp_path))
    with pytest.raises(ConfigError, match=str(tmp_path)):
        Daemon(Loaded(empty, {}), Notifier(None))


async def test_http_can_be_off(settings: Settings) -> None:
    async with serving(changed(settings, "http", enabled=False)) as daemon:
        await until(lambda: daemon.status.ready)
        assert daemon.http_address == ""


async def test_messages_of_the_bar_channel_are_processed(
    settings: Settings, client: Client, bars: list[Bar], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L41: a good message is a bar, a bad one a dead letter, also by way of the channel."""
    monkeypatch.setattr(feed_module, "RECONNECT_S", 0.01)
    bridged = changed(settings, "ingest", pubsub_bridge=True)
    async with serving(bridged) as daemon:
        await until(lambda: is_heard(client))
        await client.publish(KEYS.bars_channel, encode_bar(bars[0]))
        await client.publish(KEYS.bars_channel, b'{"symbol": "BTCUSDT"}')
        await until(lambda: daemon.status.seen == 2)
    assert (daemon.status.processed, daemon.status.refused) == (1, 1)
    [(_, letter)] = await client.xrange(KEYS.dead)
    assert letter[b"reason"] == b"missing_field"


async def is_heard(client: Client, listeners: int = 1) -> bool:
    """Whether somebody listens to the bar channel."""
    return bool((await client.pubsub_numsub(KEYS.bars_channel))[0][1] >= listeners)


async def test_a_signal_sets_stop_and_handlers_are_restored() -> None:
    stop = asyncio.Event()
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals(stop):
        os.kill(os.getpid(), signal.SIGTERM)
        async with asyncio.timeout(PATIENCE_S):
            await stop.wait()
    assert signal.getsignal(signal.SIGTERM) == before
