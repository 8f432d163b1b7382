"""The rows of docs/redis.md in which Redis has lost something: each against a real server.

What is still on the stream afterwards is what a twin says to whom nothing ever happened.
"""

import os
from pathlib import Path

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.events import Bar, encode_bar

from ..daemon.test_app import (
    BARS,
    KEYS,
    answers,
    changed,
    feed,
    published,
    run_through,
    said,
    serving,
    until,
)
from .observed import (
    FIRST,
    QUIET,
    TRIMMED,
    Event,
    Said,
    catches_up,
    failures,
    fed,
    has_rewritten,
    health,
    is_well,
    kill,
    logged,
    metric,
    put,
    quick,
)

HOUR_MS = 3_600_000


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return quick(settings, tmp_path)


async def test_restarted_empty(
    settings: Settings, bars: list[Bar], expected: Said, events: list[Event], tmp_path: Path
) -> None:
    """L43: what the server lost, the engine still knows; the new stream has what is new."""
    server = EmbeddedRedis(tmp_path / "mortal")
    mortal = changed(settings, "redis", url=server.url)
    async with server, connect(QUIET, server.url) as own, fed(mortal, own, bars) as daemon:
        before = said(await published(own))
        await kill(server)
        (server.directory / "appendonly.aof").unlink()
        async with EmbeddedRedis(server.directory):
            await until(lambda: answers(own))
            await feed(own, bars[FIRST:])
            await is_lost_and_goes_on(daemon, own, events, expected[len(before) :])
    assert before == expected[: len(before)]


async def test_flushed(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L40, L43: as above, without a moment in which Redis did not serve."""
    async with fed(settings, client, bars) as daemon:
        before = said(await published(client))
        await client.flushall()
        await feed(client, bars[FIRST:])
        await is_lost_and_goes_on(daemon, client, events, expected[len(before) :])
    assert before == expected[: len(before)]


async def test_the_state_is_evicted(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L42: the streams are still there, and nothing in them is doubled or refused."""
    async with fed(settings, client, bars) as daemon:
        await client.delete(KEYS.state)
        await feed(client, bars[FIRST:])
        await is_lost_and_goes_on(daemon, client, events, expected)
    assert await client.xlen(KEYS.dead) == 0


async def is_lost_and_goes_on(
    daemon: Daemon, client: Client, events: list[Event], expected: Said
) -> None:
    """Return once all is dealt with; fail unless the loss is told and made good."""
    await until(lambda: catches_up(client))
    await until(lambda: client.hget(KEYS.state, "snapshot"))
    await until(lambda: daemon.status.ready)
    assert metric(daemon, "qae_state_lost_total") == 1
    assert len(logged(events, "state_lost", "error")) == 1
    assert (await health(daemon))["status"] == "ok"
    assert said(await published(client)) == expected


async def test_a_restart_after_the_loss_knows_what_was_before(
    settings: Settings, client: Client, bars: list[Bar], expected: Said
) -> None:
    """L43: the snapshot that is saved at once holds what the new stream does not."""
    async with fed(settings, client, bars):
        before = len(await published(client))
        await client.flushall()
        await feed(client, bars[FIRST : FIRST + 10])
        await until(lambda: client.hget(KEYS.state, "snapshot"))
        await until(lambda: catches_up(client))
    async with serving(settings) as daemon:
        await feed(client, bars[FIRST + 10 :])
        await until(lambda: catches_up(client))
        assert metric(daemon, "qae_state_lost_total") == 0
    assert said(await published(client)) == expected[before:]


async def test_it_went_back_in_time(
    settings: Settings, bars: list[Bar], expected: Said, events: list[Event], tmp_path: Path
) -> None:
    """L40, L43: after a torn log, or a failover to an older replica, Redis's position is right."""
    server = EmbeddedRedis(tmp_path / "mortal")
    mortal = changed(settings, "redis", url=server.url)
    log = server.directory / "appendonly.aof"
    async with server, connect(QUIET, server.url) as own:
        await until(lambda: has_rewritten(own))
        async with fed(mortal, own, bars) as daemon:
            then = log.stat().st_size
            await feed(own, bars[FIRST : FIRST + 100])
            await until(lambda: daemon.status.processed == FIRST + 100)
            await kill(server)
            os.truncate(log, then)
            async with EmbeddedRedis(server.directory):
                await until(lambda: answers(own))
                assert await own.xlen(KEYS.bars) == FIRST
                await feed(own, bars[FIRST:])  # their producer's position went back as well
                await is_well(daemon, own, events, expected)
                assert metric(daemon, "qae_state_lost_total") == 0


async def test_it_went_back_to_before_the_first_commit(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L40, L43: bars without a position and without signals were never dealt with."""
    async with fed(settings, client, bars) as daemon:
        async with client.pipeline(transaction=True) as pipe:
            pipe.delete(KEYS.state, KEYS.signals, KEYS.records)
            await pipe.execute()
        await feed(client, bars[FIRST:])
        await is_well(daemon, client, events, expected)
        assert metric(daemon, "qae_state_lost_total") == 0


async def test_trimmed_by_others_while_it_serves(
    settings: Settings, client: Client, bars: list[Bar], with_a_hole: Said, events: list[Event]
) -> None:
    """L40: bars that nobody can read any more are an alarm, and a hole that agents abstain over."""
    async with fed(settings, client, bars) as daemon:
        await put(client, bars[FIRST:], "XTRIM", KEYS.bars, "MAXLEN", str(BARS - FIRST - TRIMMED))
        await is_trimmed_and_goes_on(daemon, client, events, with_a_hole)
        assert (await published(client))[-1]["close_time"] == bars[-1].close_time


async def test_trimmed_while_nobody_served(
    settings: Settings, client: Client, bars: list[Bar], with_a_hole: Said, events: list[Event]
) -> None:
    """L40, L43: as above; the state from before the hole comes from the snapshot."""
    await run_through(settings, client, bars[:FIRST])
    await put(client, bars[FIRST:], "XTRIM", KEYS.bars, "MAXLEN", str(BARS - FIRST - TRIMMED))
    async with serving(settings) as daemon:
        await is_trimmed_and_goes_on(daemon, client, events, with_a_hole)
        assert (await published(client))[-1]["close_time"] == bars[-1].close_time


async def is_trimmed_and_goes_on(
    daemon: Daemon, client: Client, events: list[Event], expected: Said
) -> None:
    """Return once all is dealt with; fail unless the loss is told, and only what is lost."""
    await until(lambda: catches_up(client))
    await until(lambda: daemon.status.processed >= BARS - FIRST - TRIMMED)
    assert metric(daemon, "qae_position_trimmed_total") == 1
    assert len(logged(events, "position_trimmed", "error")) == 1
    assert metric(daemon, "qae_abstentions_total", agent="gru", reason="gap") > 0
    assert (await health(daemon))["status"] == "ok"
    assert said(await published(client)) == expected


async def test_the_clock_of_the_server_jumps(
    settings: Settings, client: Client, bars: list[Bar], expected: Said, events: list[Event]
) -> None:
    """L40: an hour ahead and back again: ids go on from the highest, and order is kept."""
    async with fed(settings, client, bars) as daemon:
        seconds, _ = await client.time()
        ahead = f"{seconds * 1000 + HOUR_MS}-0"
        await client.xadd(KEYS.bars, {"b": encode_bar(bars[FIRST])}, id=ahead)
        await feed(client, bars[FIRST + 1 :])
        await until(lambda: daemon.status.processed == BARS)
        assert (await health(daemon))["status"] == "ok"
    assert said(await published(client)) == expected
    assert failures(daemon) == {}
    assert logged(events, "position_trimmed", "error") == []


async def test_the_signals_are_evicted(
    settings: Settings, client: Client, bars: list[Bar], expected: Said
) -> None:
    """L42: what others drop of the signals is gone; what comes later is as it would have been."""
    async with fed(settings, client, bars) as daemon:
        before = len(await published(client))
        await client.delete(KEYS.signals)
        await feed(client, bars[FIRST:])
        await until(lambda: daemon.status.processed == BARS)
    assert said(await published(client)) == expected[before:]
