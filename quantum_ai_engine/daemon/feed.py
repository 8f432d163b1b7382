"""Bars in: reading the stream forward for rounds, and backward to warm state up again."""

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commit import START, DeadLetter
from quantum_ai_engine.daemon.decode import decode, decode_map
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.pages import Entry, steadily
from quantum_ai_engine.events import Bar, Command, Refused

RECONNECT_S = 1.0
FIRST_TIME_MS = 1_000_000_000_000  # 2001: an entry id below it was made by hand
TAIL_CHUNK = 1000
COUNT_AFTER = "return #redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])"
CONTROLS_KEPT = 10_000
LAG_MOST = 10_000  # entries: counting costs the server some milliseconds
TAIL_MOST = 500_000  # entries looked back on at most, for symbols that hardly ever trade


class Batch(NamedTuple):
    """What one read gave: entries of the bar, the control and the equity stream."""

    bars: list[Entry]
    controls: list[Entry]
    equity: list[Entry]

    @property
    def is_empty(self) -> bool:
        return not (self.bars or self.controls or self.equity)


class BarFeed:
    """The bar stream of one partition, and the control stream beside it."""

    def __init__(
        self, client: Client, keys: Keys, environment: str, future_tolerance_ms: int = 2000
    ) -> None:
        self._client = client
        self._keys = keys
        self._environment = environment
        self._tolerance_ms = future_tolerance_ms

    async def read(self, position: str, count: int, block_ms: int) -> list[Entry]:
        """Up to `count` entries after a position, waiting up to `block_ms` for the first."""
        answer: Any = await self._client.xread({self._keys.bars: position}, count, block_ms)
        return list(answer[0][1]) if answer else []

    async def wait(
        self, position: str, control: str, equity: str, count: int, block_ms: int
    ) -> Batch:
        """The same, with what the control and the equity stream have after positions of theirs."""
        keys = self._keys
        after: dict[Any, Any] = {keys.bars: position, keys.control: control, keys.equity: equity}
        answer: Any = await self._client.xread(after, count, block_ms)
        found = {name.decode(): list(entries) for name, entries in answer or ()}
        return Batch(*(found.get(name, []) for name in (keys.bars, keys.control, keys.equity)))

    async def tell(self, command: Command) -> None:
        """Put a command into the control stream."""
        entry: dict[Any, Any] = {"command": command.value}
        await self._client.xadd(self._keys.control, entry, maxlen=CONTROLS_KEPT)

    def decode(
        self, entries: Sequence[Entry], latest_close: int
    ) -> tuple[list[Bar], list[Entry], list[DeadLetter]]:
        """The bars, the entries that they came from, and the letters of those refused.

        A bar is of the future if it closes after its entry was made, by the clock of Redis: what
        was refused once is refused again when the stream is read anew. Where an entry's id is no
        time, it must not close after `latest_close`.
        """
        bars, accepted, dead = [], [], []
        for entry in entries:
            try:
                latest = self._latest_of(entry[0])
                bars.append(decode(entry[1], self._environment, latest or latest_close))
                accepted.append(entry)
            except Refused as refused:
                dead.append(DeadLetter(refused, entry[0], entry[1]))
        return bars, accepted, dead

    def _latest_of(self, entry_id: bytes) -> int | None:
        """The last close that an entry can tell of; None when its id is no time."""
        made_at = time_ms(entry_id.decode())
        return made_at + self._tolerance_ms if made_at >= FIRST_TIME_MS else None

    async def tail(self, position: str, bars_per_series: int, latest_close: int) -> list[Bar]:
        """The last bars up to a position, oldest first: `bars_per_series` of each if there are.

        It looks back as far as the stream goes, up to `TAIL_MOST` entries: a series that hardly
        ever trades may stand at its beginning.
        """
        newest_first: list[Bar] = []
        seen: defaultdict[tuple[str, str], set[int]] = defaultdict(set)
        end, read, more = position, 0, bars_per_series > 0 and position != START
        while more and read < TAIL_MOST:
            entries = await steadily(partial(self._backward, end, TAIL_CHUNK))
            bars, _, _ = self.decode(entries, latest_close)
            for bar in bars:
                series = (bar.symbol, bar.interval)
                seen[series].add(bar.open_time)  # a repeat is no further bar
                if len(seen[series]) <= bars_per_series:
                    newest_first.append(bar)
            read += len(entries)
            more = len(entries) == TAIL_CHUNK
            if more:
                end = "(" + entries[-1][0].decode()
        return newest_first[::-1]

    async def lag_bars(self, position: str) -> int:
        """How many entries are after a position; counted up to `LAG_MOST`."""
        count: Any = await self._client.eval(
            COUNT_AFTER, 1, self._keys.bars, f"({position}", LAG_MOST
        )
        return int(count)

    async def first(self) -> str | None:
        """The id of the oldest entry, None when there is none."""
        oldest: Any = await self._client.xrange(self._keys.bars, count=1)
        return oldest[0][0].decode() if oldest else None

    async def was_trimmed(self, position: str) -> bool:
        """Whether the entry at a position is gone, so that entries after it may be gone too."""
        if position == START:
            return False
        return not await self._client.xrange(self._keys.bars, position, position)

    async def lag_ms(self, position: str) -> int:
        """How much younger the newest entry is than the position, by Redis's own clock."""
        newest = await self._backward("+", 1)
        if not newest:
            return 0
        if position == START:
            position = await self.first() or newest[0][0].decode()
        return max(0, time_ms(newest[0][0].decode()) - time_ms(position))

    async def _backward(self, end: str, count: int) -> list[Entry]:
        """Up to `count` entries from `end` back, newest first."""
        answer: Any = await self._client.xrevrange(self._keys.bars, end, "-", count)
        return list(answer)

    async def trim(self, position: str, retention_ms: int, equity: str = START) -> None:
        """Drop entries older than the retention, but none after the positions."""
        seconds, _ = await self._client.time()
        for stream, read in ((self._keys.bars, position), (self._keys.equity, equity)):
            oldest = min(seconds * 1000 - retention_ms, time_ms(read))
            if oldest > 0:
                # Without a limit of its own the server takes 10,000 entries a call, falling behind.
                await self._client.xtrim(stream, minid=oldest, approximate=True, limit=0)


async def bridge(
    client: Client,
    served: Sequence[Keys],
    count: Callable[[], None],
    is_ours: Callable[[int], bool] = lambda _: True,
) -> None:
    """Copy messages of the bar channel into the streams of some partitions.

    That is for publishers that cannot XADD. At most once until then: a message published while
    nobody listens is gone. Each process copies those of its partitions while they are its own;
    `count()` is called for each. A message is put in as it came, so that a bad one becomes a dead
    letter with its reason.
    """
    homes = {keys.partition: keys for keys in served}
    while True:
        with contextlib.suppress(*Unreachable):
            async with client.pubsub() as channel:
                await channel.subscribe(served[0].bars_channel)
                async for message in channel.listen():
                    if message["type"] == "message":
                        payload = message["data"]
                        name = "json" if payload.lstrip()[:1] == b"{" else "b"
                        home = homes.get(_partition(name, payload, served[0].partitions))
                        if home is not None and is_ours(home.partition):
                            await client.at(home.partition).xadd(home.bars, {name: payload})
                            count()
        await asyncio.sleep(RECONNECT_S)


def _partition(name: str, payload: bytes, partitions: int) -> int:
    """Whose message it is: that of its symbol's partition, or the first's when it has no symbol."""
    try:
        symbol = decode_map(name.encode(), payload)["symbol"]
    except (Refused, KeyError):
        return 0
    return partition_of(str(symbol), partitions)


def time_ms(entry_id: str) -> int:
    """When an entry was made, by the clock of Redis.

    >>> time_ms("1700000000000-3")
    1700000000000
    """
    return int(entry_id.partition("-")[0])
