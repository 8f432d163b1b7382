"""Signals out, as their readers see them: one partition's stream, from a position on, exactly."""

import re
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import HEARTBEAT_S
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import SIGNAL_SCHEMA, Signal, Tombstone

NEW, ALL = "new", "0-0"  # positions: after the newest entry, before the oldest
HEARTBEAT_EXPIRY_MS = HEARTBEAT_S * 1000
CHUNK = 1000
ENTRY_ID = re.compile(r"[0-9]{1,19}(-[0-9]{1,19})?")

Entry: TypeAlias = tuple[bytes, Mapping[bytes, bytes]]


class _Head(msgspec.Struct, frozen=True):
    """What must be known of a message before the rest of it means anything."""

    schema: int
    stale: bool = False


_HEAD = msgspec.json.Decoder(_Head)
_SIGNAL = msgspec.json.Decoder(Signal)
_TOMBSTONE = msgspec.json.Decoder(Tombstone)


def decode_signal(fields: Mapping[bytes, bytes]) -> Signal:
    """The signal of a stream entry; unknown fields are ignored. Raises `ValueError`."""
    payload = fields.get(b"json")
    if payload is None:
        raise ValueError("the entry has no field json: it is not of an engine")
    try:
        schema = _HEAD.decode(payload).schema
        if schema == SIGNAL_SCHEMA:
            return _SIGNAL.decode(payload)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a signal: {error}") from error
    raise ValueError(
        f"schema {schema} is not {SIGNAL_SCHEMA}: install the version of quantum-ai-engine that "
        "the engine has"
    )


def decode_tombstone(payload: bytes) -> Tombstone | None:
    """The tombstone that a message is; None for any other: of those the stream tells."""
    try:
        head = _HEAD.decode(payload)
        if head.schema == SIGNAL_SCHEMA and head.stale:
            return _TOMBSTONE.decode(payload)
    except (ValueError, RecursionError):
        return None
    return None


def positions(text: str, partitions: int) -> list[str]:
    """The position in each partition: one for all, or one each, separated by commas.

    >>> positions("1735689600000", 1), positions("1-5,new", 2), positions("0-0", 2)
    (['1735689600000-0'], ['1-5', 'new'], ['0-0', '0-0'])
    >>> positions("yesterday", 1)
    Traceback (most recent call last):
    ValueError: position 'yesterday' is not an entry id such as 1735689600000-0, new, or one for \
each of 1 partitions, separated by commas
    """
    parts = text.split(",")
    if len(parts) == 1:
        parts *= partitions
    if len(parts) != partitions or not all(p == NEW or ENTRY_ID.fullmatch(p) for p in parts):
        raise ValueError(
            f"position {text!r} is not an entry id such as 1735689600000-0, {NEW}, or one for "
            f"each of {partitions} partitions, separated by commas"
        )
    return [part if part == NEW or "-" in part else f"{part}-0" for part in parts]


@dataclass(frozen=True, slots=True)
class Found:
    """Up to `CHUNK` entries after `position`, which is as good as the one asked for.

    `gap` says that entries in between may be gone; then the position is `ALL`.
    """

    entries: list[Entry]
    position: str
    gap: bool = False

    @property
    def is_all(self) -> bool:
        """Whether the stream had no more."""
        return len(self.entries) < CHUNK


class SignalStream:
    """The signal stream and the heartbeat of one partition."""

    def __init__(self, client: Client, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def heartbeat_age_ms(self) -> int | None:
        """How long ago the engine's last heartbeat was, by the server's clock; None: too long."""
        left_ms: int = await self._client.pttl(self._keys.heartbeat)
        # Without an expiry it is none of an engine's, and proves nothing.
        return max(0, HEARTBEAT_EXPIRY_MS - left_ms) if left_ms >= 0 else None

    async def newest(self) -> str:
        """The position after which only new entries are."""
        return await self._at_or_before("+") or ALL

    async def read(self, position: str, has_read: Callable[[Entry], bool]) -> Found:
        """The entries after a position; `has_read` knows those that were read lately.

        The entry at the position is asked for too: while it is there, nothing after it is gone.
        """
        while position != ALL:
            entries = await self._forward(position)
            if entries and entries[0][0].decode() == position:
                return Found(entries[1:], position)
            known = await self._as_good_as(position, has_read)
            if known is None:
                return Found((await self._forward(ALL))[:CHUNK], ALL, gap=True)
            position = known
        return Found((await self._forward(ALL))[:CHUNK], ALL)

    async def _as_good_as(self, position: str, has_read: Callable[[Entry], bool]) -> str | None:
        """An entry that is there, for one that is not: trimmed, or the server went back.

        A server that went back to an earlier state, or was replaced by one with a slower clock,
        may have put new entries before the position. So what was read and is there counts first.
        """
        async for entry in self.backward():
            if has_read(entry):
                return entry[0].decode()
        return await self._at_or_before(position)

    async def backward(self, end: str = "+") -> AsyncIterator[Entry]:
        """All entries from `end` back, newest first."""
        while True:
            entries: Any = await self._client.xrevrange(self._keys.signals, end, "-", CHUNK)
            for entry in entries:
                yield entry
            if len(entries) < CHUNK:
                return
            end = "(" + entries[-1][0].decode()

    async def _at_or_before(self, end: str) -> str | None:
        entries: Any = await self._client.xrevrange(self._keys.signals, end, "-", 1)
        return entries[0][0].decode() if entries else None

    async def _forward(self, start: str) -> list[Entry]:
        """The entry at `start`, if it is there, and up to `CHUNK` after it."""
        entries: Any = await self._client.xrange(self._keys.signals, start, "+", CHUNK + 1)
        return list(entries)
