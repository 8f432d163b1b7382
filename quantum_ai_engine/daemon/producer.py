"""Recorded or paper bars into Redis, at any speed, resuming where they stopped."""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.market.table import BarTable

CHUNK = 1000
MAX_SPEED = float("inf")
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Step:
    """Rows `start` to `end` of a table, sent together, and the moment they closed, in ms."""

    table: BarTable
    start: int
    end: int
    close_time: int


class Producer:
    """Sends the bars of one source, in order, each exactly once.

    The position in the source is kept in Redis and moves in the same transaction as the bars, so
    that a producer that was killed, or lost a reply, goes on where it stopped. Bars are sent as
    they were recorded, bad ones too: refusing them, visibly, is the engine's work.
    """

    def __init__(self, client: Client, keys: Keys, source: str, environment: str | None) -> None:
        self._client = client
        self._keys = keys
        self._source = keys.at(0).feed(source)
        self._environment = environment

    async def position(self) -> int:
        """Bars of this source that are in the stream already."""
        value: Any = await self._client.get(self._source)
        return int(value) if value is not None else 0

    async def restart(self) -> None:
        """Forget the position: the next bar is the source's first."""
        await self._client.delete(self._source)

    async def send(self, step: Step, position: int) -> int:
        """Send a step whose first row is the source's `position`-th bar; the position after it."""
        end = position + step.end - step.start
        while True:
            try:
                await self._transaction(step, end)
                return end
            except (RedisConnectionError, RedisTimeoutError):
                await asyncio.sleep(0.2)
                if await self._position_when_back() >= end:
                    return end  # it was written; only the reply was lost

    async def _transaction(self, step: Step, end: int) -> None:
        async with self._client.pipeline(transaction=True) as pipe:
            for i in range(step.start, step.end):
                symbol = step.table.symbols[step.table.symbol_index[i]]
                partition = partition_of(symbol, self._keys.partitions)
                pipe.xadd(self._keys.at(partition).bars, {"b": self._encode(step.table, i, symbol)})
            pipe.set(self._source, end)
            await pipe.execute()

    def _encode(self, table: BarTable, i: int, symbol: str) -> bytes:
        """One row as msgpack, unchecked."""
        opened, high, low, close, volume = table.ohlcv[i].tolist()
        bar: dict[str, Any] = {
            "symbol": symbol,
            "interval": table.interval,
            "open_time": int(table.open_time[i]),
            "open": opened,
            "high": high,
            "low": low,
            "close": close,
            "volume": volume,
        }
        if self._environment is not None:
            bar["environment"] = self._environment
        return _ENCODER.encode(bar)

    async def _position_when_back(self) -> int:
        while True:
            try:
                return await self.position()
            except (RedisConnectionError, RedisTimeoutError):
                await asyncio.sleep(0.2)


def steps(table: BarTable, interval_ms: int, start: int, *, together: bool) -> Iterator[Step]:
    """Cut a table from row `start` on: by moment, or, to be sent `together`, by a thousand rows."""
    if start >= len(table):
        return
    if together:
        cuts = list(range(start, len(table), CHUNK))
    else:
        cuts = [start, *(np.flatnonzero(np.diff(table.open_time[start:])) + 1 + start).tolist()]
    for first, end in zip(cuts, [*cuts[1:], len(table)], strict=True):
        yield Step(table, first, end, int(table.open_time[end - 1]) + interval_ms)


async def produce(
    producer: Producer,
    plan: Iterable[Step],
    position: int,
    speed: float,
    report: Callable[[int], None],
) -> int:
    """Send a plan's steps, `speed` times as fast as they happened; the position at the end.

    `report(rows)` is called after each step.
    """
    loop = asyncio.get_running_loop()
    began, first = loop.time(), None
    for step in plan:
        first = step.close_time if first is None else first
        due = began + (step.close_time - first) / 1000 / speed
        await asyncio.sleep(max(0.0, due - loop.time()))
        position = await producer.send(step, position)
        report(step.end - step.start)
    return position
