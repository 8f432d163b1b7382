"""Watching signals: what a line says, and that it follows the channels."""

import asyncio

import msgspec

from quantum_ai_engine.cli.watch import _table, follow, line
from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import (
    Abstained,
    Abstention,
    Policy,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Vote,
)

SIGNAL = Signal(
    schema=1,
    id="BTCUSDT|1m|120000",
    environment="live",
    symbol="BTCUSDT",
    interval="1m",
    close_time=120_000,
    produced_at=120_001,
    valid_until=240_000,
    horizon_bars=5,
    probability=0.65,
    confidence=0.3,
    stance=Stance.LONG,
    target=0.3,
    votes=(Vote("gru", "abc", 0.65, 1.0),),
    abstained=(Abstention("patchtst", Abstained.DEADLINE),),
    effective_votes=1.0,
    thresholds=Thresholds(0.6, 0.4),
    policy=Policy("NORMAL", 0.7),
    risk=Risk("ACTIVE"),
    schema_hash="0",
    row_hash="0",
    engine="0",
    config_hash="0",
    latency_us={},
)


def test_a_line_names_who_voted_and_who_did_not() -> None:
    """L01: votes and abstentions with their reason stand in every line."""
    text = line(SIGNAL)
    assert "1970-01-01 00:02  BTCUSDT" in text
    assert "long  +0.300" in text
    assert "gru 0.650" in text
    assert "patchtst: deadline" in text


def test_the_table_has_one_row_per_series() -> None:
    assert _table({"BTCUSDT 1m": SIGNAL, "BTCUSDT 5m": SIGNAL}).row_count == 2


async def test_signals_are_followed_as_they_are_published(
    client: Client, settings: Settings
) -> None:
    keys, shown = Keys.of(settings.redis), asyncio.Queue[Signal]()
    following = asyncio.create_task(follow(client, keys, shown.put_nowait))
    try:
        payload = msgspec.json.encode(SIGNAL)
        async with asyncio.timeout(5):
            while not await client.publish(keys.signal_channel("BTCUSDT"), payload):
                await asyncio.sleep(0.01)  # nobody listens yet
            assert await shown.get() == SIGNAL
    finally:
        following.cancel()
