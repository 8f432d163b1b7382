"""What a follower of signals is told, and the book that tells it: no input or output here."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

import msgspec

from quantum_ai_engine.events import Signal, Tombstone

REMEMBERED = 50_000  # ids of signals, so that none is given twice

Series: TypeAlias = tuple[str, str]  # symbol, interval


class Target(msgspec.Struct, frozen=True, tag=True):
    """The target of a series is this signal's from now on, until its `valid_until`."""

    signal: Signal
    position: str


class Past(msgspec.Struct, frozen=True, tag=True):
    """A signal that was read too late to act on: expired, stale, or of a bar before the newest."""

    signal: Signal
    position: str
    reason: str


class Expired(msgspec.Struct, frozen=True, tag=True):
    """The signal that held is past its `valid_until`, with none after it: flat."""

    signal: Signal


class Stalled(msgspec.Struct, frozen=True, tag=True):
    """The bars of a series have stopped: flat."""

    tombstone: Tombstone


class EngineSilent(msgspec.Struct, frozen=True, tag=True):
    """Nothing is heard of the engine of a partition: all its series are flat until it is back."""

    partition: int
    reason: str


class EngineBack(msgspec.Struct, frozen=True, tag=True):
    """The engine is heard again; its targets that are still valid hold again."""

    partition: int


class Missed(msgspec.Struct, frozen=True, tag=True):
    """Signals after an entry may be gone from the stream; it goes on with `oldest`, if any."""

    partition: int
    after: str
    oldest: str | None


class Unreadable(msgspec.Struct, frozen=True, tag=True):
    """An entry that was passed over, and why."""

    partition: int
    entry: str
    position: str
    detail: str


class CaughtUp(msgspec.Struct, frozen=True, tag=True):
    """All that the stream holds has been given: at the start, and after each outage."""

    position: str


Update: TypeAlias = (
    Target | Past | Expired | Stalled | EngineSilent | EngineBack | Missed | Unreadable | CaughtUp
)


@dataclass(slots=True)
class _Standing:
    """The newest that is known of a series, and whether its target holds."""

    close_time: int
    partition: int
    signal: Signal | None = None
    stale: bool = False
    holds: bool = False


class Book:
    """Which signals were read, and what stands per series; its memory is bounded."""

    def __init__(self) -> None:
        self._standing: dict[Series, _Standing] = {}
        self.newest_close = 0
        self._entries: dict[str, bytes] = {}

    def has_read(self, name: str, entry: bytes) -> bool:
        """Whether the signal of this id was read lately, and from this very entry."""
        return self._entries.get(name) == entry

    def remember(self, name: str, entry: bytes) -> None:
        """Take note of a signal from before the start."""
        if len(self._entries) < REMEMBERED:
            self._entries.setdefault(name, entry)

    def is_new(self, name: str, entry: bytes) -> bool:
        """Take note of a signal's id; False when it was known."""
        if name in self._entries:
            return False
        self._entries[name] = entry
        if len(self._entries) > REMEMBERED:
            del self._entries[next(iter(self._entries))]
        return True

    def recall(self, signal: Signal, partition: int, now: int) -> None:
        """Put a signal from before the start in its place; they come newest first."""
        known = self._standing.get((signal.symbol, signal.interval))
        if known is None or signal.close_time > known.close_time:
            self._put(signal, partition, holds=now <= signal.valid_until)

    def update(self, signal: Signal, partition: int, now: int) -> str | None:
        """Put a signal in its place; None when its target holds now, else why it does not."""
        known = self._standing.get((signal.symbol, signal.interval))
        if known is not None and signal.close_time < known.close_time:
            return "a newer bar has a signal"
        if known is not None and known.stale and signal.close_time == known.close_time:
            return "the bars have stopped"
        in_time = now <= signal.valid_until
        if in_time or known is None or not known.holds:
            self._put(signal, partition, in_time)
        return None if in_time else "it has expired"

    def _put(self, signal: Signal, partition: int, holds: bool) -> None:
        self._standing[signal.symbol, signal.interval] = _Standing(
            signal.close_time, partition, signal, holds=holds
        )

    def stall(self, stone: Tombstone, partition: int) -> bool:
        """Make a series flat; False when it is, or when a newer bar has come."""
        series = stone.symbol, stone.interval
        known = self._standing.setdefault(series, _Standing(-1, partition))
        if stone.close_time < known.close_time or known.stale:
            return False
        known.close_time, known.stale, known.holds = stone.close_time, True, False
        return True

    def expire(self, now: int) -> list[Signal]:
        """The signals whose time is over, in that order; each is told once."""
        over = [
            known
            for known in self._standing.values()
            if known.holds and known.signal is not None and now > known.signal.valid_until
        ]
        for known in over:
            known.holds = False
        ended = [known.signal for known in over if known.signal is not None]
        return sorted(ended, key=lambda signal: signal.valid_until)

    def deadline(self) -> int | None:
        """The earliest `valid_until` of a target that holds."""
        return min((s.valid_until for s, _ in self.holding()), default=None)

    def holding(self) -> Iterator[tuple[Signal, int]]:
        """The signals whose targets hold, each with its partition."""
        for known in self._standing.values():
            if known.holds and known.signal is not None:
                yield known.signal, known.partition
