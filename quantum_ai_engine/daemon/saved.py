"""The snapshot in the state hash: parts under one of two slots, and one field that names them.

A save writes to the slot that is not in use and then turns the field `snapshot` over to it, so one
that stops anywhere leaves the earlier snapshot whole. The field `saving` names the save under way:
what an abandoned one had still on the wire is refused when a later one has begun.
"""

import hashlib
from dataclasses import dataclass

import msgspec

from quantum_ai_engine.daemon.lease import GUARD

DIGEST_BYTES = 16

# Each gets, after the token and the length of the lease, the number of the save.
_SAVING = f"""{GUARD}
if redis.call('HGET', KEYS[1], 'saving') ~= ARGV[3] then
  return {{'overtaken'}}
end
"""
_FORGET = """
local function forget(slot)
  local prefix = 'snapshot:' .. slot .. ':'
  for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(field, 1, #prefix) == prefix then
      redis.call('HDEL', KEYS[1], field)
    end
  end
end
"""
# What is left of an interrupted save goes first, so that at the end each part there is is ours.
BEGIN = f"""{GUARD}{_FORGET}
local current = string.sub(redis.call('HGET', KEYS[1], 'snapshot') or '', 1, 1)
local slot = current == '0' and '1' or '0'
redis.call('HSET', KEYS[1], 'saving', ARGV[3])
forget(slot)
return {{'done', slot}}
"""
# ARGV[4], ARGV[5]: the field and the part.
PART = f"""{_SAVING}
redis.call('HSET', KEYS[1], ARGV[4], ARGV[5])
return {{'done'}}
"""
# ARGV[4] … ARGV[6]: the slot, the number of parts and the sealed contents.
END = f"""{_SAVING}{_FORGET}
for index = 0, ARGV[5] - 1 do
  if redis.call('HEXISTS', KEYS[1], 'snapshot:' .. ARGV[4] .. ':' .. index) == 0 then
    return {{'overtaken'}}
  end
end
redis.call('HSET', KEYS[1], 'snapshot', ARGV[6])
redis.call('HDEL', KEYS[1], 'saving')
forget(ARGV[4] == '0' and '1' or '0')
return {{'done'}}
"""


class SavedStateError(Exception):
    """The snapshot cannot be used: one sentence that names what is missing or damaged."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The state as of an entry of the bar stream and one of the records, cut into parts."""

    offset: str
    record: str
    parts: tuple[bytes, ...]


class Contents(msgspec.Struct, frozen=True):
    """What a snapshot consists of: where its parts are, and what they must be."""

    slot: int
    offset: str
    record: str
    digests: tuple[bytes, ...]

    def seal(self) -> bytes:
        """The value of the field `snapshot`: the slot, for the scripts, a digest, and all of it.

        >>> Contents.unseal(Contents(1, "7-0", "0-0", ()).seal())
        Contents(slot=1, offset='7-0', record='0-0', digests=())
        """
        body = msgspec.msgpack.encode(self)
        return b"%d" % self.slot + digest(body) + body

    @classmethod
    def unseal(cls, sealed: bytes) -> "Contents":
        """Read it back. Raises `SavedStateError`."""
        body = sealed[1 + DIGEST_BYTES :]
        if sealed[1 : 1 + DIGEST_BYTES] != digest(body):
            raise SavedStateError("the field snapshot is damaged: its digest is another one")
        try:
            contents = msgspec.msgpack.decode(body, type=cls)
        except msgspec.MsgspecError as error:
            raise SavedStateError(f"the field snapshot cannot be read: {error}") from error
        if sealed[:1] != b"%d" % contents.slot:
            raise SavedStateError("the field snapshot is damaged: it names two slots")
        return contents

    def check(self, index: int, part: bytes | None) -> bytes:
        """The part, if it is what was saved. Raises `SavedStateError`."""
        name = f"part {index + 1} of {len(self.digests)} of the snapshot at {self.offset}"
        if part is None:
            raise SavedStateError(f"{name} is missing")
        if digest(part) != self.digests[index]:
            raise SavedStateError(f"{name} is damaged: its digest is another one")
        return part


def digest(data: bytes) -> bytes:
    """What tells damaged data from whole ones."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def part_field(slot: int, index: int) -> str:
    """The field of the state hash that holds a part.

    >>> part_field(1, 7)
    'snapshot:1:7'
    """
    return f"snapshot:{slot}:{index}"
