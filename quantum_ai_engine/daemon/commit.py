"""The commit: position, signals and dead letters of a batch, in one script, all or nothing.

The script compares the committed position with the one that the round started from, and the owner
with ours. If either differs it writes nothing and says what it found. That makes it safe to send
again after a lost reply, and harmless when sent by a process that should no longer write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.events import Refused, Signal

START = "0-0"
SIGNALS_KEPT, DEAD_KEPT = 100_000, 10_000
FIELDS_KEPT, BYTES_KEPT, DETAIL_KEPT = 64, 4096, 500  # of a dead entry: a hostile one has more
CUT = "… (cut)"

SCRIPT = """
local state = redis.call('HMGET', KEYS[1], 'offset', 'owner')
local offset, owner = state[1] or '0-0', state[2] or ''
if offset ~= ARGV[1] or owner ~= ARGV[3] then
  return {0, offset, owner}
end
local at = 7
for _ = 1, tonumber(ARGV[6]) do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[4], '*', 'json', ARGV[at + 1])
  redis.call('PUBLISH', ARGV[at], ARGV[at + 1])
  at = at + 2
end
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[5], '*', unpack(ARGV, at + 1, last))
  at = last + 1
end
redis.call('HSET', KEYS[1], 'offset', ARGV[2])
return {1, ARGV[2], owner}
"""

_JSON = msgspec.json.Encoder()


class Conflict(Exception):  # noqa: N818 (it is an answer of the script, not a failure)
    """The committed position is not the one that the round started from: reload."""


class OwnershipLost(Exception):  # noqa: N818 (as above)
    """Another process owns the partition now: leave."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A refused entry with its reason, its id in the bar stream, and its own fields."""

    refused: Refused
    source: bytes
    entry: Mapping[bytes, bytes]

    def fields(self) -> list[str | bytes]:
        """Field, value, field, value, …: ours first, then the entry's own as `bar:<name>`."""
        own: list[str | bytes] = [
            "reason",
            self.refused.reason.value,
            "detail",
            cut_text(self.refused.detail),
            "source",
            self.source,
        ]
        for name, value in list(self.entry.items())[:FIELDS_KEPT]:
            own += [b"bar:" + _cut(name), _cut(value)]
        return own


def _cut(value: bytes) -> bytes:
    return value if len(value) <= BYTES_KEPT else value[:BYTES_KEPT] + CUT.encode()


def cut_text(text: str) -> str:
    """A sentence of bounded length."""
    return text if len(text) <= DETAIL_KEPT else text[:DETAIL_KEPT] + CUT


class Ledger:
    """The committed position of one partition, and the only way to move it."""

    def __init__(self, client: Client, keys: Keys, owner: str) -> None:
        self._client = client
        self._keys = keys
        self._owner = owner
        self._script = client.register_script(SCRIPT)
        self._claimed = False

    async def position(self) -> str:
        """Claim the partition and return the committed position.

        Raises `OwnershipLost` when somebody else has claimed it since we did.
        """
        owner = await self._client.hget(self._keys.state, "owner")
        if self._claimed and owner not in (None, self._owner.encode()):
            raise OwnershipLost(f"partition {self._keys.state} is now owned by {owner!r}")
        await self._client.hset(self._keys.state, "owner", self._owner)
        self._claimed = True
        offset: Any = await self._client.hget(self._keys.state, "offset")
        return START if offset is None else str(offset, "ascii")

    async def commit(
        self, start: str, end: str, signals: Sequence[Signal], dead: Sequence[DeadLetter]
    ) -> None:
        """Move the position from `start` to `end` and write what belongs to that step.

        May be repeated after any failure to reach Redis. Raises `Conflict` or `OwnershipLost`.
        """
        published: list[str | bytes] = []
        for signal in signals:
            published += [self._keys.signal_channel(signal.symbol), _JSON.encode(signal)]
        letters: list[str | bytes | int] = []
        for letter in dead:
            fields = letter.fields()
            letters += [len(fields), *fields]
        head: list[str | int] = [start, end, self._owner, SIGNALS_KEPT, DEAD_KEPT, len(signals)]
        written, offset, owner = await self._script(
            keys=[self._keys.state, self._keys.signals, self._keys.dead],
            args=[*head, *published, *letters],
        )
        if written or (offset.decode() == end and owner.decode() == self._owner):
            return  # the second: it was written before, only the reply was lost
        if owner and owner.decode() != self._owner:
            raise OwnershipLost(f"partition {self._keys.state} is now owned by {owner.decode()}")
        raise Conflict(f"the committed position is {offset.decode()}, not {start}")
