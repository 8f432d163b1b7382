"""Following signals: nothing lost, nothing twice, nothing acted upon too late."""

import asyncio
import os
import signal as unix
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.client import (
    ALL,
    CaughtUp,
    EngineBack,
    EngineSilent,
    Expired,
    Past,
    SignalClient,
    Stalled,
    Target,
    Unreadable,
)
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.events import signal_id

from .following import MINUTE, Clock, Engine, Seen, following, settings_of, signal, tombstone

BTC = ("BTCUSDT", "1m")


@pytest.fixture
async def engine(client: Client) -> Engine:
    """An engine that has just beaten."""
    engine = Engine(client)
    await engine.beat()
    return engine


@pytest.fixture
def bot(redis: EmbeddedRedis) -> SignalClient:
    return SignalClient(redis.url, settings_of(redis.url, redis_block_ms=50), clock=Clock())


def targets(seen: Seen) -> list[str]:
    return [target.signal.id for target in seen.all(Target)]


async def test_only_new_signals_are_given_by_default(engine: Engine, bot: SignalClient) -> None:
    """What stood before is no news, but its target is known."""
    await engine.write(signal(minute=1), signal(minute=2))
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        assert not seen.all(Target)
        assert bot.targets() == {BTC: 0.3}
        entry = await engine.write(signal(minute=3, target=0.2))
        assert await seen.first(Target) == Target(signal(minute=3, target=0.2), entry)
        assert bot.targets() == {BTC: 0.2}


async def test_a_position_is_where_it_goes_on(engine: Engine, bot: SignalClient) -> None:
    """A bot that stores the position of each update misses none, and gets none again."""
    signals = [signal(minute=minute) for minute in range(1, 7)]
    await engine.write(*signals)
    async with following(bot, ALL) as seen:
        await seen.first(CaughtUp)
        told = [*seen.all(Past), *seen.all(Target)]
        assert [each.signal for each in told] == signals
    async with following(bot, told[3].position) as seen:
        await seen.first(CaughtUp)
        assert [each.signal for each in seen.all(Target)] == signals[4:]


async def test_old_signals_are_no_targets(engine: Engine, bot: SignalClient) -> None:
    """L39: a backlog is told as what it is; only what is valid is to be acted upon."""
    old, late = signal(minute=0), signal(minute=2, version=1)
    await engine.write(old, signal(minute=3), late)
    async with following(bot, ALL) as seen:
        position = (await seen.first(CaughtUp)).position
        assert [(past.signal, past.reason) for past in seen.all(Past)] == [
            (old, "it has expired"),
            (late, "a newer bar has a signal"),
        ]
        assert targets(seen) == [signal(minute=3).id]
        assert position == bot.position == seen.all(Past)[1].position


async def test_a_neutral_signal_is_a_target(engine: Engine, bot: SignalClient) -> None:
    """L10: flat by decision is an answer, unlike flat for want of one."""
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(target=0.0))
        await seen.first(Target)
        assert bot.targets() == {BTC: 0.0}


async def test_an_amendment_takes_the_place_of_what_it_amends(
    engine: Engine, bot: SignalClient
) -> None:
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(), signal(version=1, target=0.1))
        amended = (await seen.first(Target, 2)).signal
        assert amended.amends == signal_id("BTCUSDT", "1m", 2 * MINUTE)
        assert bot.targets() == {BTC: 0.1}


async def test_a_signal_is_given_once(engine: Engine, bot: SignalClient) -> None:
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(), signal(), signal(minute=3), signal())
        await engine.publish(signal())
        last = await engine.write(signal(minute=4))
        await seen.until(lambda: bot.position == last)
        assert targets(seen) == [signal(minute=minute).id for minute in (2, 3, 4)]


async def test_a_message_that_never_comes_loses_nothing(engine: Engine, bot: SignalClient) -> None:
    """The stream is the truth: pub/sub only says that it is time to look."""
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(), publish=False)
        assert (await seen.first(Target)).signal == signal()


async def test_a_message_is_no_signal(engine: Engine, bot: SignalClient) -> None:
    """What is only on the channel was never committed."""
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.publish(signal(minute=2))
        await engine.write(signal(minute=3))
        await seen.first(Target)
        assert targets(seen) == [signal(minute=3).id]


async def test_a_target_ends_with_its_signal(engine: Engine, bot: SignalClient) -> None:
    """L07: past `valid_until` nothing holds, and that is said once."""
    clock = bot._clock
    assert isinstance(clock, Clock)
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal())
        await seen.first(Target)
        clock.now = signal().valid_until
        assert bot.targets() == {BTC: 0.3}
        clock.now += 1
        assert bot.targets() == {}
        assert await seen.first(Expired) == Expired(signal())
        await engine.write(signal(minute=2, version=1))
        assert (await seen.first(Past)).reason == "it has expired"
        assert len(seen.all(Expired)) == 1
        assert bot.targets() == {}


async def test_the_end_comes_in_time_though_redis_is_frozen(
    engine: Engine, redis: EmbeddedRedis
) -> None:
    """L07: nobody has to be reached for a target to end; a frozen Redis is a silent engine."""
    settings = settings_of(redis.url, redis_block_ms=50, redis_timeout_ms=5000)
    clock = Clock()
    bot = SignalClient(redis.url, settings, silent_ms=2000, clock=clock)
    loop = asyncio.get_running_loop()
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(valid_until=clock() + 300), signal("ETHUSDT", minute=9))
        await seen.first(Target, 2)
        os.kill(redis.pid, unix.SIGSTOP)
        try:
            frozen_at = loop.time()
            clock.now += 301
            await seen.first(Expired)
            assert bot.targets() == {("ETHUSDT", "1m"): 0.3}
            await seen.first(EngineSilent)
            assert loop.time() - frozen_at < 4  # the limit and a last look, not the time-out
            assert bot.targets() == {}
        finally:
            os.kill(redis.pid, unix.SIGCONT)
        await engine.beat()
        await seen.first(EngineBack)
        assert bot.targets() == {("ETHUSDT", "1m"): 0.3}


async def test_a_tombstone_is_flat_at_once(engine: Engine, bot: SignalClient) -> None:
    """L07: stopped bars are told of, once, until a newer bar has a signal."""
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal())
        await seen.first(Target)
        await engine.publish(tombstone(minute=2))
        assert await seen.first(Stalled) == Stalled(tombstone(minute=2))
        assert bot.targets() == {}
        await engine.publish(tombstone(minute=2))
        await engine.write(signal(version=1))
        assert (await seen.first(Past)).reason == "the bars have stopped"
        await engine.write(signal(minute=3))
        await seen.first(Target, 2)
        assert bot.targets() == {BTC: 0.3}
        await engine.publish(tombstone(minute=2))  # late: there is a newer bar
        await engine.write(signal(minute=4))
        await seen.first(Target, 3)
        assert len(seen.all(Stalled)) == 1


async def test_an_engine_that_is_not_heard_is_silent(engine: Engine, redis: EmbeddedRedis) -> None:
    """L06: no heartbeat, no target; heard again, what is still valid holds again."""
    settings = settings_of(redis.url, redis_block_ms=50)
    bot = SignalClient(redis.url, settings, silent_ms=500, clock=Clock())
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal())
        await seen.first(Target)
        await seen.first(EngineSilent)
        assert bot.targets() == {}
        await engine.beat()
        await seen.first(EngineBack)
        assert bot.targets() == {BTC: 0.3}
        await engine.client.delete(engine.keys.heartbeat)
        assert (await seen.first(EngineSilent, 2)).reason == "it has no heartbeat"


async def test_waiting_costs_nothing(engine: Engine, redis: EmbeddedRedis) -> None:
    """It sleeps until something falls due: heard, silent, heard again, and without Redis."""
    settings = settings_of(redis.url, redis_backoff_max_ms=500)
    bot = SignalClient(redis.url, settings, silent_ms=700, clock=Clock())

    async def busy_s() -> float:
        began = time.process_time()
        await asyncio.sleep(0.4)
        return time.process_time() - began

    async with following(bot) as seen:
        await seen.first(EngineSilent)
        assert await busy_s() < 0.2
        await engine.beat()
        await seen.first(EngineBack)
        assert await busy_s() < 0.2
        await seen.first(EngineSilent, 2)
        os.kill(redis.pid, unix.SIGKILL)
        await redis.wait()
        assert await busy_s() < 0.2


async def test_a_key_without_expiry_is_no_heartbeat(client: Client, bot: SignalClient) -> None:
    """L06: it would stay when the engine is gone."""
    await client.set("quantum:heartbeat", "{}")
    async with following(bot) as seen:
        await seen.first(EngineSilent)


async def test_each_partition_has_a_heart(redis: EmbeddedRedis, client: Client) -> None:
    """L06: the channel is shared, so the keys tell which partition lives."""
    settings = settings_of(redis.url, redis_partitions=2, redis_block_ms=50)
    engine = Engine(client, Keys("quantum", 2))
    symbols = {partition_of(name, 2): name for name in ("BTCUSDT", "ETHUSDT", "A", "B", "C")}
    bot = SignalClient(redis.url, settings, clock=Clock())
    await engine.beat(0)
    async with following(bot, ALL) as seen:
        await engine.write(signal(symbols[0]), signal(symbols[1]))
        await seen.first(Target, 2)
        assert (await seen.first(EngineSilent)).partition == 1
        assert set(bot.targets()) == {(symbols[0], "1m")}
        await engine.beat(1)
        assert (await seen.first(EngineBack)).partition == 1
        assert set(bot.targets()) == {(symbols[0], "1m"), (symbols[1], "1m")}
        position = bot.position
    assert len(position.split(",")) == 2
    async with following(bot, position) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal(symbols[1], minute=3))
        await seen.first(Target)
        assert targets(seen) == [signal(symbols[1], minute=3).id]


async def test_only_wanted_symbols(engine: Engine, redis: EmbeddedRedis) -> None:
    settings = settings_of(redis.url, redis_block_ms=50)
    bot = SignalClient(redis.url, settings, symbols=["ETHUSDT"], clock=Clock())
    await engine.write(signal(), signal("ETHUSDT"))
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        assert set(bot.targets()) == {("ETHUSDT", "1m")}
        await engine.write(signal(minute=3))
        await engine.publish(tombstone(minute=3))
        last = await engine.write(signal("ETHUSDT", minute=3))
        assert (await seen.first(Target)).position == last
        assert targets(seen) == [signal("ETHUSDT", minute=3).id]
        assert not seen.all(Stalled)


async def test_another_environment_is_told_of_once(engine: Engine, bot: SignalClient) -> None:
    """L52: its signals are no targets here, and silence about them would look like none."""
    paper = [signal(minute=minute, environment="paper") for minute in (1, 2)]
    await engine.write(*paper, signal(minute=3))
    async with following(bot, ALL) as seen:
        await seen.first(CaughtUp)
        assert targets(seen) == [signal(minute=3).id]
        (told,) = seen.all(Unreadable)
        assert told.detail.startswith("environment 'paper' is not 'live'")


@pytest.mark.parametrize(
    ("fields", "detail"),
    [
        ({"json": b"{"}, "not a signal"),
        ({"json": b"[" * 100_000}, "not a signal"),
        ({"json": b'{"schema":1}'}, "not a signal"),
        ({"json": b'\xff"'}, "not a signal"),
        ({"other": b""}, "the entry has no field json"),
        ({"json": msgspec.json.encode(signal(schema=2))}, "schema 2 is not 1: install the version"),
        ({"json": b'{"schema":3,"new":true}'}, "schema 3 is not 1"),
    ],
)
async def test_what_cannot_be_read_is_told_and_passed_over(
    engine: Engine, bot: SignalClient, fields: dict[str, bytes], detail: str
) -> None:
    entry = (await engine.client.xadd("quantum:signals", dict(fields))).decode()
    last = await engine.write(signal())
    async with following(bot, ALL) as seen:
        assert (await seen.first(Target)).position == last
        (told,) = seen.all(Unreadable)
        assert (told.entry, told.position) == (entry, entry)
        assert told.detail.startswith(detail)


async def test_a_field_that_is_not_known_is_no_hindrance(engine: Engine, bot: SignalClient) -> None:
    wide = msgspec.to_builtins(signal()) | {"further": {"a": [1]}}
    await engine.client.xadd("quantum:signals", {"json": msgspec.json.encode(wide)})
    async with following(bot, ALL) as seen:
        assert (await seen.first(Target)).signal == signal()


async def test_bars_of_the_past_have_a_clock_of_their_own(
    engine: Engine, redis: EmbeddedRedis
) -> None:
    """`engine.clock = bars`: now is the newest close time seen."""
    bot = SignalClient(redis.url, settings_of(redis.url, engine_clock="bars"))
    async with following(bot) as seen:
        await seen.first(CaughtUp)
        await engine.write(signal("A", minute=2), signal("B", minute=4))
        await seen.first(Target, 2)
        assert set(bot.targets()) == {("A", "1m"), ("B", "1m")}
        await engine.write(signal("B", minute=5))
        assert (await seen.first(Expired)).signal.symbol == "A"


@pytest.mark.parametrize("after", ["yesterday", "1-2-3", "", "1-0,2-0", "-1"])
async def test_what_is_no_position_is_refused(bot: SignalClient, after: str) -> None:
    with pytest.raises(ValueError, match="is not an entry id such as"):
        await anext(bot.follow(after))


def test_nothing_heavy_is_imported() -> None:
    """A bot starts in a moment, without the libraries of models."""
    code = (
        "import sys, quantum_ai_engine.client; "
        "print(*{'torch', 'numba', 'numpy', 'typer', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=60)
    assert done.stdout.strip() == b""


async def test_the_bot_of_the_manual(
    engine: Engine, redis: EmbeddedRedis, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its code, as it stands there: it acts, stores its position, and goes on there."""
    monkeypatch.chdir(tmp_path)
    manual = Path(__file__).parents[1] / "docs" / "client.md"
    names: dict[str, Any] = {}
    exec(manual.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0], names)
    given = asyncio.Queue[dict[tuple[str, str], float]]()

    async def run_until(wanted: dict[tuple[str, str], float]) -> None:
        task = asyncio.create_task(names["bot"](redis.url, given.put))
        async with asyncio.timeout(20):
            while await given.get() != wanted:
                pass
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    now = time.time_ns() // 1_000_000
    await engine.write(signal(valid_until=now + 60_000))
    await run_until({BTC: 0.3})
    await engine.write(signal(minute=3, target=0.1, valid_until=now + 60_000))
    await run_until({BTC: 0.1})
