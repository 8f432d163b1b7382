"""Tests of freshness: what has stopped is told once, what is old teaches and says nothing."""

import asyncio
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest
from redis.asyncio.client import PubSub

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.freshness import Freshness
from quantum_ai_engine.events import Bar, Tombstone, encode_bar
from quantum_ai_engine.market.table import BarTable

from .lives import at_the_end
from .test_app import (
    KEYS,
    PATIENCE_S,
    changed,
    feed,
    published,
    ready_at,
    serving,
    until,
    with_one_agent,
)
from .test_feed import bar

MINUTE_MS = 60_000
BARS = 100  # of each of two symbols
SYMBOLS = ("BTCUSDT", "ETHUSDT")


def now_ms() -> int:
    return time.time_ns() // 1_000_000


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    """By the wall clock, as live."""
    return changed(with_one_agent(settings, tmp_path), "engine", clock="wall")


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    """Bars of two symbols; the newest closes 30 to 90 seconds ago."""
    recorded = list(history.rows(0, len(SYMBOLS) * BARS).bars())
    assert {one.symbol for one in recorded} == set(SYMBOLS)
    last = (now_ms() - MINUTE_MS // 2) // MINUTE_MS * MINUTE_MS
    by = last - max(one.close_time for one in recorded)
    return [msgspec.structs.replace(one, open_time=one.open_time + by) for one in recorded]


def gauge(daemon: Daemon, name: str, **labels: str) -> float:
    return daemon.metrics.registry.get_sample_value(name, labels) or 0.0


def test_what_has_stopped_is_due_until_it_was_told() -> None:
    """L47: a beat that failed takes no tombstone with it."""
    freshness = Freshness(KEYS, "live")
    first, second = bar(1), bar(2)
    for _ in range(2):
        [(channel, text)] = freshness.update([first], 500_000)
        assert channel == KEYS.signal_channel(first.symbol)
    tombstone = msgspec.json.decode(text, type=Tombstone)
    assert (tombstone.close_time, tombstone.produced_at) == (first.close_time, 500_000)
    assert (tombstone.target, tombstone.stance, tombstone.environment) == (0.0, "flat", "live")
    freshness.told()
    assert freshness.update([first], 600_000) == []
    assert freshness.stale == (f"{first.symbol} 1m",)
    assert freshness.update([], 700_000) == []
    assert freshness.stale == ()
    freshness.told()
    [(_, text)] = freshness.update([second], 900_000)
    assert msgspec.json.decode(text, type=Tombstone).id != tombstone.id


async def heard_until(channel: PubSub, ends: bytes) -> list[dict[str, Any]]:
    """What was published on the channels of signals, up to a message of ours."""
    heard: list[dict[str, Any]] = []
    async with asyncio.timeout(PATIENCE_S):
        while True:
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
            if message is not None and message["data"] == ends:
                return heard
            if message is not None:
                heard.append(json.loads(message["data"]))


async def test_a_series_that_stops_is_told_once_and_comes_back(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L07, L39: a tombstone on its channel, heartbeat and metric; with the next bar it is well."""
    stopped, going = ([one for one in bars if one.symbol == symbol] for symbol in SYMBOLS)
    async with client.pubsub() as channel, serving(settings) as daemon:
        await channel.psubscribe(KEYS.signal_channels)
        await feed(client, stopped[:-3] + going)
        await at_the_end(daemon, client)
        await until(lambda: gauge(daemon, "qae_stale_series") == 1)
        await until(lambda: is_in_heartbeat(client, f"{SYMBOLS[0]} 1m"))
        beats = daemon.status.turns + 2
        await until(lambda: daemon.status.turns >= beats)
        await feed(client, stopped[-3:])
        await until(lambda: gauge(daemon, "qae_stale_series") == 0)
        await until(lambda: is_in_heartbeat(client))
        await client.publish(KEYS.signal_channel("end"), b"end")
        heard = await heard_until(channel, b"end")
    [tombstone] = [one for one in heard if one.get("stale")]
    assert tombstone["symbol"] == SYMBOLS[0]
    assert tombstone["close_time"] == stopped[-4].close_time
    after = heard[heard.index(tombstone) + 1 :]
    assert {one["symbol"] for one in after} == {SYMBOLS[0]}
    assert after[-1]["close_time"] == stopped[-1].close_time


async def is_in_heartbeat(client: Client, *series: str) -> bool:
    """Whether the heartbeat names these stale series, and no others."""
    text = await client.get(KEYS.heartbeat)
    return text is not None and json.loads(text)["stale_series"] == list(series)


async def test_after_an_outage_only_what_is_still_valid_is_published(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L07, L39: the backlog teaches; a signal comes of the last bars, none of them past its end."""
    async with serving(settings) as daemon:
        await until(lambda: daemon.status.ready)
    await feed(client, bars)
    async with client.pubsub() as channel, serving(settings) as daemon:
        await channel.psubscribe(KEYS.signal_channels)
        await at_the_end(daemon, client)
        await client.publish(KEYS.signal_channel("end"), b"end")
        heard = await heard_until(channel, b"end")
        assert sum(count for _, _, count, _ in daemon.rounds[0].engine.series()) == len(bars)
    signals = await published(client)
    assert [one for one in heard if not one.get("stale")] == signals
    assert all(one["produced_at"] <= one["valid_until"] for one in signals)
    counts = Counter(one["symbol"] for one in signals)
    assert all(1 <= counts[symbol] <= 3 for symbol in SYMBOLS)
    for symbol in SYMBOLS:
        newest = max(one.close_time for one in bars if one.symbol == symbol)
        assert [one["close_time"] for one in signals if one["symbol"] == symbol] == [
            newest - MINUTE_MS * back for back in reversed(range(counts[symbol]))
        ]
    assert gauge(daemon, "qae_silent_bars_total", reason="expired") + len(signals) == len(bars)


async def test_under_lag_only_the_newest_bar_of_a_series_is_asked_about(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L39, L46: the ones before it are valid still, but late: they teach, and are counted."""
    made_at = now_ms() - 10_000
    lagging = changed(settings, "ingest", lagging_ms=5_000)
    lagging = changed(lagging, "engine", valid_intervals=10.0)
    for i, one in enumerate(bars):
        await client.xadd(KEYS.bars, {"b": encode_bar(one)}, id=f"{made_at}-{i + 1}")
    async with serving(lagging) as daemon:
        await at_the_end(daemon, client)
    newest = max(one.close_time for one in bars)
    signals = await published(client)
    assert [(one["symbol"], one["close_time"]) for one in signals] == [
        (symbol, newest) for symbol in SYMBOLS
    ]
    assert gauge(daemon, "qae_silent_bars_total", reason="lagging") >= len(SYMBOLS)
    assert daemon.status.processed == len(bars)
    assert ready_at(daemon) < BARS
