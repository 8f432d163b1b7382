"""For tests of those who follow signals: signals, what the engine writes, and a follower."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

import msgspec

from quantum_ai_engine.client import SignalClient, Update
from quantum_ai_engine.config import Settings, load
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.events import (
    Abstained,
    Abstention,
    Policy,
    Risk,
    Signal,
    Stance,
    Thresholds,
    Tombstone,
    Vote,
    signal_id,
)

MINUTE = 60_000
PATIENCE_S = 20.0
T = TypeVar("T")


def signal(
    symbol: str = "BTCUSDT", minute: int = 2, version: int = 0, target: float = 0.3, **more: Any
) -> Signal:
    """A signal of the bar that closes at a minute; a version above 0 amends the one before."""
    close_time = minute * MINUTE
    fields: dict[str, Any] = {
        "schema": 1,
        "id": signal_id(symbol, "1m", close_time, version),
        "environment": "live",
        "symbol": symbol,
        "interval": "1m",
        "close_time": close_time,
        "produced_at": close_time + 1,
        "valid_until": close_time + 2 * MINUTE,
        "horizon_bars": 5,
        "probability": 0.65,
        "confidence": 0.3,
        "stance": Stance.LONG if target > 0 else Stance.FLAT,
        "target": target,
        "votes": (Vote("gru", "abc", 0.65, 1.0),),
        "abstained": (Abstention("patchtst", Abstained.DEADLINE),),
        "effective_votes": 1.0,
        "thresholds": Thresholds(0.6, 0.4),
        "policy": Policy("NORMAL", 0.7),
        "risk": Risk("ACTIVE"),
        "schema_hash": "0",
        "row_hash": "0",
        "engine": "0",
        "config_hash": "0",
        "latency_us": {},
        "amends": signal_id(symbol, "1m", close_time, version - 1) if version else None,
    }
    return Signal(**(fields | more))


def tombstone(symbol: str = "BTCUSDT", minute: int = 2) -> Tombstone:
    close_time = minute * MINUTE
    name = f"{signal_id(symbol, '1m', close_time)}|stale"
    return Tombstone(1, name, "live", symbol, "1m", close_time, close_time + 150_000)


def settings_of(url: str, **overrides: Any) -> Settings:
    """Settings for a server; `redis_block_ms=50` sets `redis.block_ms`."""
    dotted = {key.replace("_", ".", 1): value for key, value in overrides.items()}
    return load(None, environ={}, overrides={"redis.url": url, **dotted}).settings


class Engine:
    """Writes what an engine writes, as its commit does."""

    def __init__(self, client: Client, keys: Keys | None = None) -> None:
        self.client = client
        self.keys = keys or Keys("quantum")

    def of(self, symbol: str) -> Keys:
        return self.keys.at(partition_of(symbol, self.keys.partitions))

    async def write(self, *signals: Signal, publish: bool = True, entry: str = "*") -> str:
        """Each into the stream, and to the channel; the id of the last entry."""
        for each in signals:
            payload = msgspec.json.encode(each)
            name = await self.client.xadd(
                self.of(each.symbol).signals, {b"json": payload}, id=entry
            )
            if publish:
                await self.publish(each, payload)
        return str(name, "ascii")

    async def publish(self, message: Signal | Tombstone, payload: bytes | None = None) -> None:
        channel = self.keys.signal_channel(message.symbol)
        await self.client.publish(channel, payload or msgspec.json.encode(message))

    async def beat(self, partition: int = 0) -> None:
        await self.client.set(self.keys.at(partition).heartbeat, "{}", ex=10)
        await self.client.publish(self.keys.heartbeat_channel, "{}")


class Clock:
    """Milliseconds that stand still until they are set."""

    def __init__(self, minute: float = 2.5) -> None:
        self.now = round(minute * MINUTE)

    def __call__(self) -> int:
        return self.now


class Seen:
    """All that a client has told, and a way to wait for more."""

    def __init__(self, client: SignalClient) -> None:
        self.client = client
        self.updates: list[Update] = []
        self._more = asyncio.Event()

    async def run(self, after: str) -> None:
        async for update in self.client.follow(after):
            self.updates.append(update)
            self._more.set()

    def all(self, kind: type[T]) -> list[T]:
        return [update for update in self.updates if isinstance(update, kind)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Wait for updates until something is so."""
        async with asyncio.timeout(PATIENCE_S):
            while not condition():
                self._more.clear()
                await self._more.wait()

    async def first(self, kind: type[T], count: int = 1) -> T:
        """The `count`-th update of a kind."""
        await self.until(lambda: len(self.all(kind)) >= count)
        return self.all(kind)[count - 1]


@contextlib.asynccontextmanager
async def following(client: SignalClient, after: str = "new") -> AsyncIterator[Seen]:
    """A client that follows in the background; its failure is ours."""
    seen = Seen(client)
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(seen.run(after))
        yield seen
        task.cancel()
