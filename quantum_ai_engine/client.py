"""For programs that act on signals: follow them exactly, know which targets hold, and when none do.

The signal stream is the truth. Pub/sub wakes the reader up, and carries what is not kept: that a
symbol's bars have stopped, and the engine's heartbeat. So a message that is lost costs at most
`redis.block_ms`, and never a signal.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client, Unreachable, backoff, connect
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.signals import (
    ALL,
    HEARTBEAT_EXPIRY_MS,
    NEW,
    Entry,
    Found,
    SignalStream,
    decode_signal,
    decode_tombstone,
    positions,
)
from quantum_ai_engine.events import Signal, Tombstone
from quantum_ai_engine.updates import (
    Book,
    CaughtUp,
    EngineBack,
    EngineSilent,
    Expired,
    Missed,
    Past,
    Series,
    Stalled,
    Target,
    Unreadable,
    Update,
)

__all__ = [
    "ALL",
    "NEW",
    "CaughtUp",
    "EngineBack",
    "EngineSilent",
    "Expired",
    "Missed",
    "Past",
    "Series",
    "SignalClient",
    "Stalled",
    "Target",
    "Unreadable",
    "Update",
]

FOREIGN_MOST = 16  # environments that are told of
CONFIRM_S = 1.0  # for how long an engine that seems silent may yet be heard
CANCEL_AGAIN_S = 0.05
DEFAULTS = Settings()

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Look:
    """What one look at a partition gave; the engine lives until a moment, as far as is known."""

    before: str
    found: Found
    alive_until: float


@dataclass(slots=True)
class _Partition:
    """How far one partition has been read; moments are seconds of the monotonic clock."""

    index: int
    keys: Keys
    position: str
    alive_until: float
    look_at: float = 0.0
    retry_at: float = 0.0
    doubted_at: float | None = None
    began_at: float = 0.0
    looked: bool = False
    caught_up: bool = False
    silent: bool = False
    failures: int = 0
    error: str = ""
    look: "asyncio.Task[_Look] | None" = None


class SignalClient:
    """Follows the signals of an engine, each once, and knows which targets hold.

    `settings` are the engine's own (`redis.prefix`, `redis.partitions`, `engine.environment`,
    `engine.clock`, …); its default suits an engine without a settings file. `symbols` leaves out
    the others. An engine is silent when it has not been heard for `silent_ms`. `clock` gives
    milliseconds since the epoch. A client is for one `follow` at a time.

    >>> client = SignalClient("redis://127.0.0.1:6379", symbols={"BTCUSDT"})
    >>> client.targets(), client.position
    ({}, 'new')
    """

    def __init__(
        self,
        url: str,
        settings: Settings = DEFAULTS,
        *,
        symbols: Collection[str] = (),
        silent_ms: int = HEARTBEAT_EXPIRY_MS,
        clock: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self._url = url
        self._settings = settings
        self._by_bars = settings.engine.clock == "bars"
        self._symbols = frozenset([symbols] if isinstance(symbols, str) else symbols)
        self._silent_s = silent_ms / 1000
        self._look_s = min(settings.redis.block_ms / 1000, self._silent_s / 3)
        self._clock = clock
        self._backoff = backoff(settings.redis)
        self._changed = asyncio.Event()
        self._begin(NEW)

    @property
    def position(self) -> str:
        """How far has been read: `follow(after=…)` goes on there."""
        return ",".join(part.position for part in self._partitions)

    def standing(self) -> dict[Series, Signal]:
        """The signals whose targets hold now; a series without one is flat."""
        now, silent = self._now(), {part.index for part in self._partitions if part.silent}
        return {
            (signal.symbol, signal.interval): signal
            for signal, partition in self._book.holding()
            if partition not in silent and now <= signal.valid_until
        }

    def targets(self) -> dict[Series, float]:
        """The targets that hold now, by symbol and interval; a series without one is flat."""
        return {series: signal.target for series, signal in self.standing().items()}

    async def follow(self, after: str = NEW) -> AsyncGenerator[Update, None]:
        """What happens from a position on: `NEW`, `ALL` that is kept, or that of an update.

        It outlives every failure of Redis. Raises `ValueError` for what is no position.
        """
        self._begin(after)
        client = connect(self._settings.redis, self._url)
        listening = self._spawn(self._listen(client))
        try:
            while not listening.done():
                for update in self._updates(client):
                    yield update
                await self._wait()
            listening.result()  # it only ends by a failure
        finally:
            await _end([listening, *(part.look for part in self._partitions if part.look)])
            await client.aclose()

    def _begin(self, after: str) -> None:
        redis = self._settings.redis
        alive_until = time.monotonic() + self._silent_s
        self._book = Book()
        self._stones: dict[Series, Tombstone] = {}
        self._foreign: set[str] = set()
        self._whole = False
        self._partitions = [
            _Partition(index, Keys(redis.prefix, redis.partitions, index), position, alive_until)
            for index, position in enumerate(positions(after, redis.partitions))
        ]

    def _now(self) -> int:
        return self._book.newest_close if self._by_bars else self._clock()

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        task.add_done_callback(lambda _: self._changed.set())
        return task

    async def _wait(self) -> None:
        """Until something has come, or something falls due."""
        now = time.monotonic()
        moments = [now + self._look_s]
        for part in self._partitions:
            if part.look is None:
                moments.append(max(part.look_at, part.retry_at))
            if part.doubted_at is not None:
                moments.append(part.doubted_at + CONFIRM_S)
            elif not part.silent:
                moments.append(part.alive_until)
        deadline = self._book.deadline()
        if deadline is not None and not self._by_bars:
            moments.append(now + (deadline + 1 - self._clock()) / 1000)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, min(moments) - now)):
                await self._changed.wait()
        self._changed.clear()

    def _updates(self, client: Client) -> Iterator[Update]:
        """What has come and what has fallen due; then look again where it is time to."""
        for part in self._partitions:
            if part.look is not None and part.look.done():
                yield from self._finish(part, part.look)
        for series in list(self._stones):
            stone = self._stones.pop(series)
            if self._book.stall(stone, partition_of(stone.symbol, len(self._partitions))):
                yield Stalled(stone)
        for signal in self._book.expire(self._now()):
            yield Expired(signal)
        for part in self._partitions:
            yield from self._life(part, time.monotonic())
            if part.look is None and time.monotonic() >= max(part.look_at, part.retry_at):
                part.began_at = time.monotonic()
                part.look_at = part.began_at + self._look_s
                part.look = self._spawn(
                    self._look(SignalStream(client.at(part.index), part.keys), part)
                )
        if not self._whole and all(part.caught_up for part in self._partitions):
            self._whole = True
            yield CaughtUp(self.position)

    def _finish(self, part: _Partition, look: "asyncio.Task[_Look]") -> Iterator[Update]:
        """The end of a look, good or bad."""
        part.look = None
        try:
            result = look.result()
        except Unreachable as error:
            part.failures += 1
            part.error = f"Redis cannot be reached: {error or type(error).__name__}"
            part.retry_at = time.monotonic() + self._backoff.compute(part.failures)
            part.caught_up = self._whole = False
            return
        found = result.found
        part.looked, part.failures, part.error = True, 0, ""
        part.alive_until, part.position = result.alive_until, found.position
        if found.gap:
            oldest = found.entries[0][0].decode() if found.entries else None
            yield Missed(part.index, result.before, oldest)
        for entry in found.entries:
            part.position = entry[0].decode()
            yield from self._read(part, entry)
        part.caught_up = found.is_all
        if not found.is_all:
            part.look_at = 0.0

    def _read(self, part: _Partition, entry: Entry) -> Iterator[Update]:
        """What an entry says, if it is news."""
        try:
            signal = decode_signal(entry[1])
        except ValueError as error:
            yield self._unreadable(part, entry, str(error))
            return
        if not self._book.is_new(signal.id, entry[0]):
            return
        if signal.environment != self._settings.engine.environment:
            if signal.environment not in self._foreign and len(self._foreign) < FOREIGN_MOST:
                self._foreign.add(signal.environment)
                yield self._unreadable(part, entry, self._foreigner(signal))
        elif self._is_wanted(signal):
            self._book.newest_close = max(self._book.newest_close, signal.close_time)
            late = self._book.update(signal, part.index, self._now())
            yield Past(signal, self.position, late) if late else Target(signal, self.position)

    def _unreadable(self, part: _Partition, entry: Entry, detail: str) -> Unreadable:
        return Unreadable(part.index, entry[0].decode(), self.position, detail)

    def _foreigner(self, signal: Signal) -> str:
        return (
            f"environment {signal.environment!r} is not {self._settings.engine.environment!r}: "
            "its signals are passed over; set engine.environment to follow them"
        )

    def _is_wanted(self, message: Signal | Tombstone) -> bool:
        if message.environment != self._settings.engine.environment:
            return False
        return not self._symbols or message.symbol in self._symbols

    def _life(self, part: _Partition, now: float) -> Iterator[Update]:
        """Whether the engine is heard; before it is called silent, Redis is asked once more."""
        if now < part.alive_until:
            part.doubted_at = None
            if part.silent:
                part.silent = False
                yield EngineBack(part.index)
        elif not part.silent and part.doubted_at is None:
            part.doubted_at, part.look_at = now, 0.0
        elif not part.silent and part.doubted_at is not None:
            has_asked = part.look is None and part.began_at >= part.doubted_at
            if has_asked or now >= part.doubted_at + CONFIRM_S:
                part.silent, part.doubted_at = True, None
                yield EngineSilent(part.index, part.error or "it has no heartbeat")

    async def _look(self, stream: SignalStream, part: _Partition) -> _Look:
        """The heartbeat, and the entries after the position; nothing is changed but the book."""
        asked_at = time.monotonic()
        age_ms = await stream.heartbeat_age_ms()
        before = await stream.newest() if part.position == NEW else part.position
        if not part.looked and before != ALL:
            await self._recall(stream, part, before)
        found = await stream.read(before, self._has_read)
        return _Look(before, found, self._alive_until(part, asked_at, age_ms))

    def _has_read(self, entry: Entry) -> bool:
        try:
            return self._book.has_read(decode_signal(entry[1]).id, entry[0])
        except ValueError:
            return False

    def _alive_until(self, part: _Partition, asked_at: float, age_ms: int | None) -> float:
        """Until when the last heartbeat counts."""
        if age_ms is not None:
            return max(part.alive_until, asked_at + self._silent_s - age_ms / 1000)
        if part.looked:
            return part.alive_until
        # At the first look there is no earlier one to count from.
        return asked_at + max(0.0, self._silent_s - HEARTBEAT_EXPIRY_MS / 1000)

    async def _recall(self, stream: SignalStream, part: _Partition, before: str) -> None:
        """Learn from the entries up to a position what stood there."""
        async for entry in stream.backward(before):
            with contextlib.suppress(ValueError):
                signal = decode_signal(entry[1])
                self._book.remember(signal.id, entry[0])
                if self._is_wanted(signal):
                    self._book.newest_close = max(self._book.newest_close, signal.close_time)
                    self._book.recall(signal, part.index, self._now())

    async def _listen(self, client: Client) -> None:
        """Let messages wake the reader, for ever; each subscription is a reason to look."""
        failures = 0
        while True:
            try:
                async with client.pubsub() as channel:
                    await self._subscribe(channel)
                    failures = 0
                    self._ask(*self._partitions)
                    await self._hear(channel)
            except Unreachable:
                failures += 1
            await asyncio.sleep(self._backoff.compute(failures))

    async def _subscribe(self, channel: Any) -> None:
        keys = Keys.of(self._settings.redis)
        await channel.subscribe(
            keys.heartbeat_channel, *map(keys.signal_channel, sorted(self._symbols))
        )
        if not self._symbols:
            await channel.psubscribe(keys.signal_channels)

    async def _hear(self, channel: Any) -> None:
        """Take in messages until the connection is lost, or answers no more."""
        timeout_s, has_asked = self._settings.redis.timeout_ms / 1000, False
        while True:
            message = await channel.get_message(timeout=timeout_s)
            if message is not None:
                has_asked = False
                if message["type"] in ("message", "pmessage"):
                    self._heard(message["channel"].decode(), message["data"])
            elif has_asked:
                return
            else:
                has_asked = True
                await channel.ping()

    def _heard(self, channel: str, payload: bytes) -> None:
        """A reason to look: at the symbol's partition, or at all for a heartbeat."""
        keys, partitions = Keys.of(self._settings.redis), self._partitions
        symbol = channel.removeprefix(keys.signal_channel(""))
        if symbol == channel:
            self._ask(*partitions)
            return
        self._ask(partitions[partition_of(symbol, len(partitions))])
        stone = decode_tombstone(payload)
        if stone is not None and self._is_wanted(stone):
            self._stones[stone.symbol, stone.interval] = stone

    def _ask(self, *partitions: _Partition) -> None:
        for part in partitions:
            part.look_at = 0.0
        self._changed.set()


async def _end(tasks: "list[asyncio.Task[Any]]") -> None:
    """Cancel tasks until they have ended."""
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        # A connection that is cut in this very moment makes the library forget a cancellation.
        _, running = await asyncio.wait(running, timeout=CANCEL_AGAIN_S)
    await asyncio.gather(*tasks, return_exceptions=True)
