"""Tests of one process that serves several partitions."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import ClientSession
from structlog.testing import capture_logs

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.app import Daemon
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from .lives import MEASURED
from .test_app import (
    KEYS,
    changed,
    feed,
    published,
    run_through,
    serving,
    until,
    with_one_agent,
)

PARTITIONS = 4
SYMBOLS = [f"SYM{i}" for i in range(8)]
BARS = 100  # of each symbol
OTHERS = {"config_hash", *MEASURED}
Signal = dict[str, Any]


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def parted(settings: Settings) -> Settings:
    return changed(settings, "redis", partitions=PARTITIONS, partition=f"0-{PARTITIONS - 1}")


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    """The same path at another price for each symbol."""
    own = [bar for bar in history.rows(0, 2 * BARS).bars() if bar.symbol == "BTCUSDT"][:BARS]
    return [
        msgspec.structs.replace(bar, symbol=symbol, volume=bar.volume + i)
        for bar in own
        for i, symbol in enumerate(SYMBOLS)
    ]


def keys_of(partition: int) -> Keys:
    return Keys("quantum", PARTITIONS, partition)


def home(symbol: str) -> int:
    return partition_of(symbol, PARTITIONS)


async def feed_parted(client: Client, bars: list[Bar]) -> None:
    """Each bar into its partition's stream."""
    for partition in range(PARTITIONS):
        await feed(client, [b for b in bars if home(b.symbol) == partition], keys_of(partition))


def by_symbol(signals: list[Signal]) -> dict[str, list[Signal]]:
    """What each symbol's subscriber gets, in order, but for what was measured."""
    found: dict[str, list[Signal]] = {symbol: [] for symbol in SYMBOLS}
    for signal in signals:
        kept = {name: value for name, value in signal.items() if name not in OTHERS}
        found[signal["symbol"]].append(kept)
    return found


async def all_published(client: Client) -> list[Signal]:
    return [one for p in range(PARTITIONS) for one in await published(client, keys_of(p))]


def owner_metric(daemon: Daemon, partition: int) -> float | None:
    return daemon.metrics.registry.get_sample_value("qae_owner", {"partition": str(partition)})


async def test_each_symbol_gets_what_it_would_get_from_one_partition(
    settings: Settings, parted: Settings, client: Client, bars: list[Bar]
) -> None:
    """L43, L45: in how many partitions its neighbours live changes nothing for a symbol."""
    assert len({home(symbol) for symbol in SYMBOLS}) == PARTITIONS
    await run_through(settings, client, bars)
    expected = by_symbol(await published(client, KEYS))
    async with serving(parted) as daemon:
        await feed_parted(client, bars[: len(bars) // 2])
        await until(lambda: daemon.status.seen >= len(bars) // 4)
    async with serving(parted) as daemon:
        await feed_parted(client, bars[len(bars) // 2 :])
        await until(lambda: caught_up(daemon, client))
    assert by_symbol(await all_published(client)) == expected
    assert all(expected.values())


async def caught_up(daemon: Daemon, client: Client) -> bool:
    """Whether every partition is at the end of its stream."""
    for partition, rounds in daemon.rounds.items():
        [(newest, _)] = await client.xrevrange(keys_of(partition).bars, count=1)
        if rounds.position != newest.decode():
            return False
    return True


async def test_each_partition_has_its_own_heartbeat(
    parted: Settings, client: Client, bars: list[Bar]
) -> None:
    """L06: with the work done for it; where no bar came it says so."""
    of_one = [bar for bar in bars if bar.symbol == SYMBOLS[0]]
    busy = home(SYMBOLS[0])
    async with serving(parted) as daemon:
        await feed(client, of_one, keys_of(busy))
        await until(lambda: daemon.status.seen == len(of_one))
        await until(lambda: beats(client, busy, len(of_one)))
        beaten = [json.loads(await client.get(keys_of(p).heartbeat)) for p in range(PARTITIONS)]
    for partition, heartbeat in enumerate(beaten):
        assert heartbeat["partition"] == partition
        if partition == busy:
            assert heartbeat["last_bar_close_time"] == of_one[-1].close_time
        else:
            assert (heartbeat["bars"], heartbeat["last_bar_close_time"]) == (0, None)
            assert heartbeat["state"] == "warming_up"


async def beats(client: Client, busy: int, bars: int) -> bool:
    """Whether all have beaten, and the busy one since all its bars were dealt with."""
    texts = [await client.get(keys_of(p).heartbeat) for p in range(PARTITIONS)]
    return all(texts) and json.loads(texts[busy])["bars"] == bars


async def test_the_loss_of_one_partition_stops_no_other(
    parted: Settings, client: Client, bars: list[Bar]
) -> None:
    """L45, L47: it is waited for, the others go on; afterwards nothing is missing."""
    lost, half = home(SYMBOLS[0]), len(bars) // 2
    others = [bar for bar in bars if home(bar.symbol) != lost]
    async with serving(parted) as daemon, ClientSession(daemon.http_address) as http:
        await until(lambda: daemon.status.ready)
        await feed_parted(client, bars[:half])
        await until(lambda: daemon.status.seen == half)
        before = daemon.status.partitions[lost].seen
        await steal(client, lost)
        await feed_parted(client, bars[half:])
        await until(lambda: daemon.status.partitions[lost].held_by)
        await until(lambda: daemon.status.seen == before + len(others))
        assert daemon.status.partitions[lost].seen == before
        assert [owner_metric(daemon, p) for p in range(PARTITIONS)] == [
            float(p != lost) for p in range(PARTITIONS)
        ]
        assert daemon.metrics.registry.get_sample_value("qae_ownership_lost_total") == 1
        for symbol in SYMBOLS:
            async with http.post("/predict", json={"symbol": symbol}) as answer:
                assert answer.status == (503 if home(symbol) == lost else 200), symbol
        async with http.get("/health/ready") as answer:
            assert answer.status == 503
            reason = (await answer.json())["reason"]
            assert reason == f"partition {lost} is owned by another"
        await client.hset(keys_of(lost).state, "lease_until", 1)
        await until(lambda: daemon.status.seen == len(bars))
        await until(lambda: daemon.status.ready)
    counts = {
        symbol: len(signals) for symbol, signals in by_symbol(await all_published(client)).items()
    }
    assert len(set(counts.values())) == 1
    assert all(counts.values())


async def steal(client: Client, partition: int) -> None:
    """Somebody else owns the partition for ten minutes."""
    seconds, _ = await client.time()
    lease = {"owner": "99-somebody", "lease_until": seconds * 1000 + 600_000, "holder": "{}"}
    await client.hset(keys_of(partition).state, mapping=lease)


async def test_symbols_that_live_elsewhere_are_404(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L10: and say so; each symbol that is served is asked of its own engine."""
    two = changed(settings, "redis", partitions=PARTITIONS, partition="0-1")
    served = [bar for bar in bars if home(bar.symbol) < 2]
    async with serving(two) as daemon, ClientSession(daemon.http_address) as http:
        await feed_parted(client, bars)
        await until(lambda: daemon.status.seen == len(served))
        for symbol in SYMBOLS:
            async with http.post("/predict", json={"symbol": symbol}) as answer:
                body = await answer.json()
            if home(symbol) < 2:
                assert (answer.status, body["bars_seen"]) == (200, BARS)
            else:
                assert answer.status == 404
                assert "partition that is not served here" in body["error"]
    assert not await client.exists(keys_of(2).state, keys_of(3).state)


async def test_the_server_is_looked_at_once(parted: Settings, client: Client) -> None:
    """L54: what is wrong with it is said once, not once for each partition."""
    await client.config_set("appendfsync", "no")
    with capture_logs() as lines:
        async with serving(parted) as daemon:
            await until(lambda: daemon.status.ready)
    assert [line.get("check") for line in lines].count("persistence") == 1
