"""The ledger of signals: searched in the stream that subscribers read, newest first."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.feed import time_ms
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.signals import ENTRY_ID, decode_signal
from quantum_ai_engine.events import Change, Signal, Stance

CHUNK = 200  # entries: to parse them holds the loop up for a millisecond or two
LOOKED_AT = 10_000  # entries of a partition, in one search
AT_A_TIME = 2  # searches: others wait, and leave Redis and its connections to the rounds
FILLED = 500  # signals of a partition, and changes of a room, that a first look brings back

_CHANGE = msgspec.json.Decoder(Change)


class Wanted(NamedTuple):
    """Which signals: all words of `text` must stand in it; `before` is an entry id, or empty."""

    symbol: str = ""
    stance: Stance | None = None
    text: str = ""
    before: str = ""
    limit: int = 50


class Found(NamedTuple):
    """Signals with their entry ids, newest first.

    `looked_at` entries were looked at; `is_all` says that there are no older ones, and `next` is
    what to search `before` else.
    """

    signals: list[tuple[str, Signal]]
    looked_at: int
    is_all: bool
    next: str


class SignalLedger:
    """Searches the signal streams of the partitions that are served here."""

    def __init__(self, client: Client, keys: Mapping[int, Keys]) -> None:
        self._client = client
        self._keys = keys
        self._turn = asyncio.Semaphore(AT_A_TIME)

    async def search(self, wanted: Wanted) -> Found:
        """Raises one of `Unreachable` when Redis cannot serve."""
        async with self._turn:
            parts = [await self._search(p, keys, wanted) for p, keys in self._keys.items()]
        signals = sorted(
            (one for part in parts for one in part.signals),
            key=lambda one: _order(one[0]),
            reverse=True,
        )
        # Where a search of one partition ended early, older ones of others must come again.
        ends = [one.next for one in parts if not one.is_all]
        end = max(ends, key=_order, default="")
        signals = [one for one in signals if not end or _order(one[0]) >= _order(end)]
        if len(signals) > wanted.limit:
            signals, end = signals[: wanted.limit], signals[wanted.limit - 1][0]
        looked_at = sum(one.looked_at for one in parts)
        return Found(signals, looked_at, not end, end)

    async def lately(self) -> tuple[list[Signal], list[Change]]:
        """The newest signals and changes of all partitions, oldest first."""
        signals, changes = list[tuple[str, Signal]](), list[tuple[str, Change]]()
        async with self._turn:
            for partition, keys in self._keys.items():
                async for entry, payload in self._back(partition, keys.signals, "+", FILLED):
                    signals += _decoded(entry, payload)
                for stream in keys.rooms.values():
                    async for entry, payload in self._back(partition, stream, "+", FILLED):
                        changes.append((entry, _CHANGE.decode(payload)))
        signals.sort(key=lambda one: _order(one[0]))
        changes.sort(key=lambda one: _order(one[0]))
        return [one for _, one in signals], [one for _, one in changes]

    async def _search(self, partition: int, keys: Keys, wanted: Wanted) -> Found:
        signals, looked_at, last = list[tuple[str, Signal]](), 0, ""
        fits = _fits(wanted)
        start = f"({wanted.before}" if wanted.before else "+"
        async for entry, payload in self._back(partition, keys.signals, start, LOOKED_AT):
            looked_at, last = looked_at + 1, entry
            if fits(payload):
                signals += [one for one in _decoded(entry, payload) if _is(one[1], wanted)]
            if len(signals) >= wanted.limit:
                return Found(signals, looked_at, False, last)
        return Found(signals, looked_at, looked_at < LOOKED_AT, last)

    async def _back(
        self, partition: int, stream: str, start: str, most: int
    ) -> AsyncIterator[tuple[str, bytes]]:
        """Entry ids and payloads, newest first, some at a time."""
        left = most
        while left > 0:
            entries: Any = await self._client.at(partition).xrevrange(
                stream, start, "-", min(CHUNK, left)
            )
            for entry, fields in entries:
                yield entry.decode(), fields.get(b"json", b"")
            if len(entries) < CHUNK:
                return
            left -= len(entries)
            start = f"({entries[-1][0].decode()}"


def is_entry(text: str) -> bool:
    """Whether it is an entry id."""
    return ENTRY_ID.fullmatch(text) is not None


def _order(entry: str) -> tuple[int, int]:
    at_ms, _, number = entry.partition("-")
    return time_ms(at_ms), int(number or 0)


def _decoded(entry: str, payload: bytes) -> list[tuple[str, Signal]]:
    """The signal of an entry; none where another version's, or somebody else's, stands there."""
    try:
        return [(entry, decode_signal({b"json": payload}))]
    except ValueError:
        return []


def _fits(wanted: Wanted) -> Callable[[bytes], bool]:
    """Whether an entry can be one that is wanted: cheap, before it is decoded."""
    symbol = wanted.symbol.encode()
    texts = [word.encode() for word in wanted.text.lower().split()]

    def fits(payload: bytes) -> bool:
        if symbol not in payload:
            return False
        lower = payload.lower() if texts else b""
        return all(text in lower for text in texts)

    return fits


def _is(signal: Signal, wanted: Wanted) -> bool:
    is_symbol = not wanted.symbol or signal.symbol == wanted.symbol
    return is_symbol and (wanted.stance is None or signal.stance is wanted.stance)
