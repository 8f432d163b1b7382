"""Recorded or paper bars into Redis, at any speed, resuming where they stopped."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import msgspec
import numpy as np

from quantum_ai_engine.daemon.client import Client, Unreachable, kind_of
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.market.table import BarTable

CHUNK = 1000
MAX_SPEED = float("inf")
RETRY_S = 0.2
HOPELESS = ("refused_password", "other")  # what no second attempt would change

# Bars of one partition and the position after them, if it is where we think that it is. Sent as a
# whole each time: no server has to know it, and it is as long as two bars.
SEND = """
local at = redis.call('GET', KEYS[2]) or '0'
if at ~= ARGV[1] then
  return at
end
for i = 3, #ARGV do
  redis.call('XADD', KEYS[1], '*', 'b', ARGV[i])
end
redis.call('SET', KEYS[2], ARGV[2])
return ARGV[2]
"""

_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Step:
    """Rows `start` to `end` of a table, sent together, and the moment they closed, in ms."""

    table: BarTable
    start: int
    end: int
    close_time: int


class WentBack(Exception):  # noqa: N818 (what happened)
    """The server has lost bars that it had taken: send again from `Producer.position`."""


class Producer:
    """Sends the bars of one source, in order, each exactly once.

    Each partition keeps the position in the source beside its bars, and both move in one script,
    so that a producer that was killed, or lost a reply, goes on where it stopped, in each partition
    for itself. Bars are sent as they were recorded, bad ones too: refusing them, visibly, is the
    engine's work.
    """

    def __init__(self, client: Client, keys: Keys, source: str, environment: str | None) -> None:
        self._client = client
        self._keys = [keys.at(partition) for partition in range(keys.partitions)]
        self._source = source
        self._environment = environment
        self._positions = [0] * keys.partitions

    async def position(self) -> int:
        """Bars of this source that are in the streams of all partitions already."""
        for partition, keys in enumerate(self._keys):
            client = self._client.at(partition)
            value: Any = await _patiently(partial(client.get, keys.feed(self._source)))
            self._positions[partition] = int(value or 0)
        return min(self._positions)

    async def restart(self) -> None:
        """Forget the position: the next bar is the source's first."""
        for partition, keys in enumerate(self._keys):
            await self._client.at(partition).delete(keys.feed(self._source))
        self._positions = [0] * len(self._keys)

    async def send(self, step: Step, position: int) -> int:
        """Send a step whose first row is the source's `position`-th bar; the position after it.

        What a partition has already is not sent again. Raises `WentBack`.
        """
        end = position + step.end - step.start
        rows: defaultdict[int, list[tuple[int, bytes]]] = defaultdict(list)
        for i in range(step.start, step.end):
            symbol = step.table.symbols[step.table.symbol_index[i]]
            row = position + i - step.start, self._encode(step.table, i, symbol)
            rows[partition_of(symbol, len(self._keys))].append(row)
        for partition in range(len(self._keys)):
            await self._send(partition, rows[partition], end)
        return end

    async def _send(self, partition: int, rows: list[tuple[int, bytes]], end: int) -> None:
        """Send a partition its rows of a step; where it has none, only the position moves."""
        keys = self._keys[partition]
        while (known := self._positions[partition]) < end:
            arguments: list[Any] = [known, end, *(bar for row, bar in rows if row >= known)]
            names = keys.bars, keys.feed(self._source)
            send = partial(self._client.at(partition).eval, SEND, len(names), *names, *arguments)
            # If it was done and only the reply was lost, the next attempt finds `end` there.
            self._positions[partition] = found = int(await _patiently(send))
            if found < known:
                raise WentBack(f"{keys.bars} has lost bars {found} to {known} of the source")

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


async def _patiently(call: Callable[[], Awaitable[Any]]) -> Any:
    """Call until the server serves."""
    while True:
        try:
            return await call()
        except Unreachable as error:
            if kind_of(error) in HOPELESS:
                raise
        await asyncio.sleep(RETRY_S)


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

    `report(rows)` is called after each step. Raises `WentBack`.
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


async def produce_all(
    producer: Producer,
    plan: Callable[[int], Iterable[Step]],
    speed: float,
    report: Callable[[int], None],
) -> int:
    """Send `plan(position)` from where the producer stopped; the position at the end.

    When the server has lost bars, after a failover for example, they are sent again: the progress
    that is reported then counts them twice.
    """
    while True:
        position = await producer.position()
        with contextlib.suppress(WentBack):
            return await produce(producer, plan(position), position, speed, report)
