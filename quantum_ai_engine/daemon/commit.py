"""The ledger: position, signals, dead letters and snapshot of one partition, in scripts.

Each script compares the fencing token, and the commit the position that the round started from. If
either differs it writes nothing and says what it found. That makes a commit safe to send again
after a lost reply, and harmless when sent by a process that should no longer write.
"""

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha1
from typing import Any, TypeAlias

import msgspec
from redis.exceptions import NoScriptError

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.keys import ROOMS, Keys
from quantum_ai_engine.daemon.lease import ACQUIRE, BEAT, GUARD, KEEP, NOW, RELEASE, Held, Holder
from quantum_ai_engine.daemon.records import encode_round
from quantum_ai_engine.daemon.saved import BEGIN, END, PART, Contents, Snapshot, digest, part_field
from quantum_ai_engine.events import Change, Control, Equity, Refused, Signal
from quantum_ai_engine.state.record import Record

START = "0-0"
HEARTBEAT_S = 10  # one older than this is gone: a stalled engine is visible to everybody
SIGNALS_KEPT, DEAD_KEPT = 100_000, 10_000
RECORDS_KEPT, CHANGES_KEPT = 100_000, 10_000  # records are trimmed by each snapshot, too
FIRST_ROOM = 7  # the place among the script's keys of the changes of the first room
FIELDS_KEPT, BYTES_KEPT, DETAIL_KEPT = 64, 4096, 500  # of a dead entry: a hostile one has more
CUT = "… (cut)"

Argument: TypeAlias = str | bytes | int

# KEYS: state, signals, dead letters, bars, heartbeat, records, changes of each room.
# What can fail fails before anything is written: a key
# that is no stream when it is first looked at, a full server at the first XADD or HSET.
COMMIT = f"""{GUARD}{NOW}
local state = redis.call('HMGET', KEYS[1], 'offset', 'signal', 'control', 'equity', 'record')
local offset, signal, control = state[1] or '0-0', state[2] or '0-0', state[3] or '0-0'
local equity, record = state[4] or '0-0', state[5] or '0-0'
if offset ~= ARGV[3] or (ARGV[8] ~= '' and control ~= ARGV[8])
    or (ARGV[11] ~= '' and equity ~= ARGV[11]) then
  return {{'moved', offset, signal, control, equity, record}}
end
local trimmed = 0
if offset ~= '0-0' and #redis.call('XRANGE', KEYS[4], offset, offset) == 0 then
  trimmed = 1
end
redis.call('XLEN', KEYS[3])
for key = 6, 9 do
  redis.call('XLEN', KEYS[key])
end
local at, unheard = 18, 0
if ARGV[13] ~= '' then
  record = redis.call('XADD', KEYS[6], 'MAXLEN', '~', ARGV[14], '*', 'b', ARGV[13])
end
for _ = 1, tonumber(ARGV[7]) do
  signal = redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'json', ARGV[at + 1])
  -- What a user may not publish is in the stream all the same: an error here would double it.
  if type(redis.pcall('PUBLISH', ARGV[at], ARGV[at + 1])) == 'table' then
    unheard = 1
  end
  at = at + 2
end
for _ = 1, tonumber(ARGV[15]) do
  redis.call('XADD', KEYS[tonumber(ARGV[at])], 'MAXLEN', '~', ARGV[16], '*', 'json', ARGV[at + 2])
  if type(redis.pcall('PUBLISH', ARGV[at + 1], ARGV[at + 2])) == 'table' then
    unheard = 1
  end
  at = at + 3
end
while at <= #ARGV do
  local last = at + tonumber(ARGV[at])
  redis.call('XADD', KEYS[3], 'MAXLEN', '~', ARGV[6], '*', unpack(ARGV, at + 1, last))
  at = last + 1
end
redis.call('HSET', KEYS[1], 'offset', ARGV[4], 'signal', signal, 'lease_until', now + ARGV[2])
if ARGV[9] ~= '' and ARGV[9] ~= control then
  redis.call('HSET', KEYS[1], 'control', ARGV[9], 'controls', ARGV[10])
end
if ARGV[12] ~= '' then
  redis.call('HSET', KEYS[1], 'equity', ARGV[12])
end
if ARGV[17] ~= '' then
  redis.call('HSET', KEYS[1], 'risk', ARGV[17])
end
if ARGV[13] ~= '' then
  redis.call('HSET', KEYS[1], 'record', record)
end
return {{'done', signal, trimmed, unheard, record}}
"""

_JSON = msgspec.json.Encoder()


class Conflict(Exception):  # noqa: N818 (it is an answer of the script, not a failure)
    """The partition is not as we left it, though nobody else owns it: reload."""


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


@dataclass(frozen=True, slots=True)
class Controls:
    """How far the control stream was followed, and the commands that a restart has to repeat."""

    position: str = START
    applied: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True)
class Followed:
    """A step in the control stream: from a position to what is known after it."""

    before: str
    after: Controls


@dataclass(frozen=True, slots=True)
class Kept:
    """What a step leaves besides signals: records for a restart, and changes for who listens.

    `equity_before` and `equity_after` are positions of the equity stream; empty where none was
    read. `risk` is the state of the risk brain, which must outlive a snapshot that is refused.
    """

    records: Sequence[Record] = ()
    changes: Sequence[Change] = ()
    equity: Sequence[Equity] = ()
    equity_before: str = ""
    equity_after: str = ""
    risk: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a commit found: the last signal and record ever written, and whether its start is gone.

    `signal` and `record` are ids of their streams, "0-0" when there is none. `trimmed` says that
    the entry at `start` is gone from the bar stream: entries after it may be gone, too. `unheard`
    says that Redis did not let us publish: the signals are in the stream alone.
    """

    signal: str
    trimmed: bool
    unheard: bool = False
    record: str = START


def _cut(value: bytes) -> bytes:
    return value if len(value) <= BYTES_KEPT else value[:BYTES_KEPT] + CUT.encode()


def cut_text(text: str) -> str:
    """A sentence of bounded length."""
    return text if len(text) <= DETAIL_KEPT else text[:DETAIL_KEPT] + CUT


class Ledger:
    """The state hash of one partition: who owns it, how far it has come, and its snapshot.

    `lease_ms` is how long an owner keeps the partition without a sign of life. Everything that
    writes raises `OwnershipLost` when somebody else owns it, and then has written nothing.
    """

    def __init__(self, client: Client, keys: Keys, lease_ms: int, holder: Holder) -> None:
        self._client = client
        self._keys = keys
        self._lease_ms = lease_ms
        self._holder = holder
        self._token = f"0-{holder.id}".encode()  # nobody's: fences count from 1

    async def acquire(self, *, yields: bool = False) -> Held | None:
        """Take the partition or extend the lease; who holds it, if somebody else does.

        A lease that ended is taken over, and so is that of a process of this machine that is gone.
        A partition that nobody has ever owned is taken, unless `yields`: then it counts as held.
        """
        reply = await self._take(b"", yields=yields)
        if reply[0] == b"held":
            holder = Holder.decode(reply[2])
            if holder is None or not holder.is_gone():
                return Held(holder, int(reply[3]), is_vacant=not reply[1])
            reply = await self._take(reply[1], yields=yields)
        if reply[0] == b"held":
            return Held(Holder.decode(reply[2]), int(reply[3]))
        self._token = reply[1]
        return None

    async def beat(self, heartbeat: str, messages: Sequence[tuple[str, str]] = ()) -> None:
        """Give a sign of life: extend the lease, set and publish the heartbeat.

        `messages` are published with it: (channel, text). Raises `Conflict` where there is no
        owner any more, or `OwnershipLost`.
        """
        channel = self._keys.heartbeat_channel
        told = [word for message in messages for word in message]
        await self._ask(BEAT, heartbeat, HEARTBEAT_S, channel, *told)

    async def keep(self) -> None:
        """Extend the lease and say nothing. Raises as `beat` does."""
        await self._ask(KEEP)

    async def release(self) -> None:
        """End the lease now, so that the next owner need not wait."""
        await self._ask(RELEASE, absent_is_fine=True)

    async def position(self) -> str | None:
        """The committed position; None when nothing was committed, or the server lost its data."""
        offset: Any = await self._client.hget(self._keys.state, "offset")
        return None if offset is None else str(offset, "ascii")

    async def last_signal(self) -> str:
        """The id of the signal that was written last, "0-0" when there was none."""
        signal: Any = await self._client.hget(self._keys.state, "signal")
        return START if signal is None else str(signal, "ascii")

    async def last_record(self) -> str:
        """The id of the record that was written last, "0-0" when there was none."""
        record: Any = await self._client.hget(self._keys.state, "record")
        return START if record is None else str(record, "ascii")

    async def risk(self) -> str:
        """The state of the risk brain at the committed position; empty when none was written."""
        risk: Any = await self._client.hget(self._keys.state, "risk")
        return "" if risk is None else str(risk, "ascii")

    async def equity_position(self) -> str:
        """How far the equity stream was followed; "0-0" when it never was."""
        position: Any = await self._client.hget(self._keys.state, "equity")
        return START if position is None else str(position, "ascii")

    async def has_record(self, record: str) -> bool:
        """Whether the stream of records has an entry of this id."""
        return bool(await self._client.xrange(self._keys.records, record, record))

    async def forget_records(self, before: str) -> None:
        """Drop the records that a snapshot has made needless; the one with this id stays."""
        await self._client.xtrim(self._keys.records, minid=before, approximate=False)

    async def is_written(self, signal: str) -> bool:
        """Whether the signal stream has an entry of this id."""
        return bool(await self._client.xrange(self._keys.signals, signal, signal))

    async def controls(self) -> Controls:
        """How far the control stream was followed, and which commands took effect where."""
        read: Any = await self._client.hmget(self._keys.state, "control", "controls")
        if read[0] is None:
            return Controls()
        applied = msgspec.msgpack.decode(read[1], type=tuple[Control, ...])
        return Controls(str(read[0], "ascii"), applied)

    async def commit(
        self,
        start: str,
        end: str,
        signals: Sequence[Signal],
        dead: Sequence[DeadLetter],
        controls: Followed | None = None,
        kept: Kept = Kept(),
    ) -> Receipt:
        """Move the position from `start` to `end` and write what belongs to that step.

        It extends the lease. May be repeated after any failure to reach Redis. Raises `Conflict`
        or `OwnershipLost`.
        """
        published: list[Argument] = []
        for signal in signals:
            published += [self._keys.signal_channel(signal.symbol), _JSON.encode(signal)]
        letters: list[Argument] = []
        for letter in dead:
            fields = letter.fields()
            letters += [len(fields), *fields]
        head: list[Argument] = [start, end, SIGNALS_KEPT, DEAD_KEPT, len(signals)]
        if controls is None:
            head += ["", "", ""]
        else:
            applied = msgspec.msgpack.encode(controls.after.applied)
            head += [controls.before, controls.after.position, applied]
        head += self._kept(start, end, kept)
        changes = self._changes(kept.changes)
        reply = await self._ask(COMMIT, *head, *published, *changes, *letters)
        if reply[0] == b"done":
            signal, trimmed, unheard, record = reply[1:]
            return Receipt(signal.decode(), bool(trimmed), bool(unheard), record.decode())
        offset, signal, control, equity, record = (one.decode() for one in reply[1:])
        if (
            offset == end
            and (controls is None or control == controls.after.position)
            and equity == (kept.equity_after or equity)
        ):  # written before, only the reply was lost
            return Receipt(signal, trimmed=False, record=record)
        raise Conflict(f"the committed position is {offset}, not {start}")

    def _kept(self, start: str, end: str, kept: Kept) -> list[Argument]:
        record: Argument = ""
        if kept.records or kept.equity:
            record = encode_round(start, end, kept.records, kept.equity)
        told: list[Argument] = [kept.equity_before, kept.equity_after, record, RECORDS_KEPT]
        return [*told, len(kept.changes), CHANGES_KEPT, kept.risk]

    def _changes(self, changes: Sequence[Change]) -> list[Argument]:
        told: list[Argument] = []
        for change in changes:
            key = FIRST_ROOM + ROOMS.index(change.room)
            told += [key, self._keys.room_channel(change.room), _JSON.encode(change)]
        return told

    async def save(self, snapshot: Snapshot) -> None:
        """Put a snapshot in the place of the earlier one, which is whole until this one is.

        Commits may go on meanwhile, another save may not. After a failure to reach Redis save anew.
        Raises `Conflict` or `OwnershipLost`.
        """
        number = uuid.uuid4().hex
        slot = int((await self._ask(BEGIN, number))[1])
        digests = []
        for index, part in enumerate(snapshot.parts):
            await self._ask(PART, number, part_field(slot, index), part)
            digests.append(digest(part))
        contents = Contents(slot, snapshot.offset, snapshot.record, tuple(digests))
        await self._ask(END, number, slot, len(digests), contents.seal())

    async def load(self) -> Snapshot | None:
        """The snapshot, if there is one. Raises `SavedStateError` when it is not whole."""
        sealed: Any = await self._client.hget(self._keys.state, "snapshot")
        if sealed is None:
            return None
        contents = Contents.unseal(sealed)
        parts = []
        for index in range(len(contents.digests)):
            part: Any = await self._client.hget(self._keys.state, part_field(contents.slot, index))
            parts.append(contents.check(index, part))
        return Snapshot(contents.offset, contents.record, tuple(parts))

    async def _take(self, gone: bytes, *, yields: bool) -> Any:
        holder = msgspec.json.encode(self._holder)
        return await self._run(ACQUIRE, self._holder.id, self._lease_ms, holder, gone, int(yields))

    async def _ask(self, script: str, *arguments: Argument, absent_is_fine: bool = False) -> Any:
        """The answer to a script of the owner. Raises `Conflict` or `OwnershipLost`."""
        reply = await self._run(script, self._token, self._lease_ms, *arguments)
        state = self._keys.state
        if reply[0] == b"overtaken":
            raise Conflict(f"the snapshot in {state} was begun anew, or parts of it are gone")
        if reply[0] != b"refused":
            return reply
        if reply[1]:
            raise OwnershipLost(f"partition {state} is now owned by {_name(reply[1], reply[2])}")
        if not absent_is_fine:
            raise Conflict(f"partition {state} has no owner: it was released, or Redis emptied")
        return reply

    async def _run(self, script: str, *arguments: Argument) -> Any:
        """Run a script by its digest; whole where the server has not seen it, or has forgotten."""
        keys = self._keys
        fixed = (keys.state, keys.signals, keys.dead, keys.bars, keys.heartbeat, keys.records)
        names = (*fixed, *keys.rooms.values())
        client: Any = self._client  # its methods are typed for two worlds at once
        try:
            return await client.evalsha(_SHA[script], len(names), *names, *arguments)
        except NoScriptError:
            return await client.eval(script, len(names), *names, *arguments)


def order_of(entry_id: str) -> tuple[int, int]:
    """By what entries follow each other.

    >>> order_of("9-1") < order_of("10-0")
    True
    """
    made_at, _, sequence = entry_id.partition("-")
    return int(made_at), int(sequence or 0)


_SHA = {
    script: sha1(script.encode(), usedforsecurity=False).hexdigest()
    for script in (ACQUIRE, BEAT, KEEP, RELEASE, COMMIT, BEGIN, PART, END)
}


def _name(owner: bytes, text: bytes) -> str:
    """Whoever owns the partition, in words."""
    if holder := Holder.decode(text):
        return f"process {holder.pid} on {holder.host}"
    return owner.decode(errors="replace")
