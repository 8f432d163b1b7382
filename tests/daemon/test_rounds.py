"""Tests of the rounds: read, take through the engine, commit, and start over when that fails."""

import asyncio
import contextlib
import time
from pathlib import Path

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.feed import BarFeed, Batch
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.stopwatch import Stopwatch
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .test_app import (
    BARS,
    KEYS,
    changed,
    due,
    feed,
    is_at_the_end,
    published,
    ready_at,
    run_through,
    said,
    serving,
    until,
    with_one_agent,
)


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


def test_the_stopwatch_measures_stages_for_metrics_and_signals() -> None:
    metrics = Metrics("1", "a", "b")
    watch = Stopwatch(metrics)
    with watch("decode"):
        pass
    count = metrics.registry.get_sample_value("qae_stage_seconds_count", {"stage": "decode"})
    assert count == 1
    assert watch.us.keys() == {"decode"}
    assert watch.seconds() >= watch.us["decode"] / 1e6 - 1e-6


async def test_the_size_of_the_batches_changes_nothing(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """A bar alone and a bar among a thousand get the same signal."""
    told = []
    for batch in (1, 7, 1_000):
        named = changed(settings, "redis", prefix=f"by{batch}")
        await run_through(changed(named, "ingest", batch=batch), client, bars[:300])
        told.append(await published(client, Keys.of(named.redis)))
    assert said(told[0]) == said(told[1]) == said(told[2])
    assert told[0]


async def test_a_moved_position_rebuilds_the_state(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L40: the committed position is the truth; whoever moved it is followed."""
    async with serving(settings) as daemon:
        await feed(client, bars[:300])
        await until(lambda: daemon.status.processed == 300)
        engine = daemon.rounds[0].engine
        [(before_last, _), _] = reversed(await client.xrevrange(KEYS.bars, count=2))
        await client.hset(KEYS.state, "offset", before_last)
        await feed(client, bars[300:])
        await until(lambda: is_at_the_end(client))
        assert daemon.rounds[0].engine is not engine
        counts = sum(count for _, _, count, _ in daemon.rounds[0].engine.series())
    assert counts == len(bars)
    assert daemon.metrics.registry.get_sample_value("qae_commit_conflicts_total") == 1
    # The bar that was given back has its signal in the stream already.
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(daemon))


async def test_a_trimmed_position_is_an_alarm(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L40: bars that were trimmed before they were read are a counted loss, not a silence."""
    await run_through(settings, client, bars[:300])
    await feed(client, bars[300:])
    await client.xtrim(KEYS.bars, maxlen=100, approximate=False)
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.processed == 100)
    assert daemon.metrics.registry.get_sample_value("qae_position_trimmed_total") == 1


async def test_a_poisoned_stream_stops_nobody(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L41: entries of every bad kind, in one batch with good ones, again after a restart."""
    async with client.pipeline(transaction=False) as pipe:
        for i in range(300):
            pipe.xadd(KEYS.bars, {b"\xff" * (i + 1): b"\x00"})
            pipe.xadd(KEYS.bars, {b"b": b"\x91" * 10_000})
            pipe.xadd(KEYS.bars, {b"f%d" % n: b"" for n in range(100)})
        await pipe.execute()
    for part in (bars[:300], bars[300:]):
        await feed(client, part)
        async with serving(settings) as daemon:
            await until(lambda: is_at_the_end(client))
    assert [s["id"] for s in await published(client)] == due(bars, ready_at(daemon))
    assert await client.xlen(KEYS.dead) == 900


async def test_a_forming_bar_moves_nothing(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L50: it becomes a dead letter, and the closed bar of the same time is still new."""
    forming = {
        "symbol": bars[0].symbol,
        "interval": bars[0].interval,
        "open_time": str(bars[0].open_time),
        **dict.fromkeys(("open", "high", "low", "close", "volume"), "1"),
        "is_closed": "false",
    }
    async with serving(settings) as daemon:
        await client.xadd(KEYS.bars, forming)
        await feed(client, bars[:1])
        await until(lambda: daemon.status.seen == 2)
    assert (daemon.status.processed, daemon.status.refused) == (1, 1)
    [(_, letter)] = await client.xrange(KEYS.dead)
    assert letter[b"reason"] == b"not_closed"


async def test_the_environments_name_changes_no_check(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L35: in an environment called test the same entries are refused as in live."""
    test = changed(settings, "engine", environment="test")
    bad = {"json": '{"symbol": "BTCUSDT"}'}
    async with serving(test) as daemon:
        await feed(client, bars[:10])
        await client.xadd(KEYS.bars, bad)
        await feed(client, bars[:1])
        await until(lambda: daemon.status.seen == 12)
    status = daemon.status
    assert (status.processed, status.duplicates, status.refused) == (10, 1, 1)


async def test_an_idle_market_turns(settings: Settings) -> None:
    """L06: as long as Redis answers, a round loop without bars is alive."""
    async with serving(changed(settings, "redis", block_ms=5)) as daemon:
        await until(lambda: daemon.status.turns > 3)
        assert daemon.status.processed == 0


async def test_cancelling_leaves_no_reader_behind(settings: Settings, client: Client) -> None:
    """L47: when the daemon is cancelled from outside, nothing of it keeps running."""
    before = asyncio.all_tasks()
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
    await until(lambda: asyncio.all_tasks() <= before)


class DeafFeed(BarFeed):
    """A feed whose reader overhears the first cancellation, as `wait_for` did before 3.12."""

    def __init__(self, client: Client) -> None:
        super().__init__(client, KEYS, "live")
        self.is_reading = False

    async def wait(
        self, position: str, control: str, equity: str, count: int, block_ms: int
    ) -> Batch:
        self.is_reading = True
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return await super().wait(position, control, equity, count, block_ms * 500)


async def test_a_reader_that_overhears_the_stop_does_not_delay_it(
    settings: Settings, client: Client
) -> None:
    """L47: it is told again, and the stop is not called late."""
    async with serving(changed(settings, "redis", block_ms=20)) as daemon:
        await until(lambda: daemon.status.ready)
        deaf = daemon.rounds[0].feed = DeafFeed(client)
        await until(lambda: deaf.is_reading)
        stopped_at = time.monotonic()
    assert time.monotonic() - stopped_at < 2.0
