"""Repartitioning: the state of all partitions becomes that of another number of them.

First the new state is written beside the old, under `<prefix>:new`, and a record says that it is
whole: from then on a move that was interrupted is finished by the next one. Then, partition by
partition, one script gives the old keys names under `<prefix>:old`, and the new ones their own.
"""

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from typing import Any, TypeAlias

import msgspec

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Ledger, OwnershipLost
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.saved import SavedStateError, Snapshot

# Snapshots (each in parts), which partition a symbol goes to, and how many partitions there are:
# their snapshots.
Regroup: TypeAlias = Callable[
    [Sequence[Sequence[bytes]], Callable[[str], int], int], list[list[bytes]]
]
NAMES = (
    "state",
    "bars",
    "signals",
    "dead",
    "records",
    "control",
    "equity",
)  # what is renamed, besides positions of feeds

# KEYS: from, to, from, to, … If the first one is in its place, all have been renamed before.
SWITCH = """
if redis.call('EXISTS', KEYS[2]) == 1 then
  return
end
for i = 1, #KEYS, 2 do
  if redis.call('EXISTS', KEYS[i]) == 1 then
    redis.call('RENAME', KEYS[i], KEYS[i + 1])
  end
end
"""


class MoveRefusedError(Exception):
    """Why the partitions cannot be moved now: one sentence that says what to do."""


class Record(msgspec.Struct, frozen=True):
    """A move that has begun: all new state is written; if `done`, it has its own names, too."""

    before: int
    after: int
    offsets: tuple[str | None, ...]
    sources: tuple[str, ...]
    done: bool = False


class Move:
    """Moves the state of all partitions that the settings name to another number of them.

    `regroup` takes the snapshots apart by symbol. All of them are in memory at once.
    """

    def __init__(
        self, client: Client, settings: RedisSettings, partitions: int, regroup: Regroup
    ) -> None:
        prefix, before = settings.prefix, settings.partitions
        self._client = client
        self._settings = settings
        self._regroup = regroup
        self._old = all_keys(prefix, before)
        self._new = all_keys(prefix, partitions)
        self._archive = all_keys(f"{prefix}:old", before)
        self._staged = all_keys(f"{prefix}:new", partitions)

    async def run(self) -> Record:
        """Move, or finish a move that was interrupted. Raises `MoveRefusedError`."""
        self._check_numbers()
        record = await read_record(self._client, self._settings.prefix)
        async with AsyncExitStack() as owned:
            ledgers = [await self._own(keys, owned) for keys in self._old]
            if record is None:
                record = await self._stage(ledgers)
            for ledger, keys in zip(ledgers, self._old, strict=True):
                if ledger is not None:
                    await _take(ledger, keys)  # again: writing may have taken longer than a lease
            await self._check_record(record, ledgers)
            for partition in range(max(record.before, record.after)):
                await self._switch(partition, record.sources)
        return await self._write(msgspec.structs.replace(record, done=True))

    def _check_numbers(self) -> None:
        if len(self._new) == len(self._old):
            raise MoveRefusedError(
                f"redis.partitions = {len(self._old)} already; give --to another number"
            )
        if self._settings.cluster and len(self._new) == 1:
            raise MoveRefusedError("a Redis Cluster needs more partitions than one; give --to 2")

    async def _own(self, keys: Keys, owned: AsyncExitStack) -> Ledger | None:
        """The ledger of an old partition, ours until the end; None if it was moved already."""
        at = keys.partition
        if await self._client.at(at).exists(self._archive[at].state):
            return None
        ledger = self._ledger(keys)
        await _take(ledger, keys)
        owned.push_async_callback(_leave, ledger)
        return ledger

    def _ledger(self, keys: Keys) -> Ledger:
        client = self._client.at(keys.partition)
        return Ledger(client, keys, self._settings.lease_ms, Holder.here())

    async def _check_record(self, record: Record, ledgers: Sequence[Ledger | None]) -> None:
        """Refuse if the record is of another move, or if an engine has gone on since."""
        if (record.before, record.after) != (len(self._old), len(self._new)):
            raise MoveRefusedError(
                f"partitions were moved from {record.before} to {record.after} before: remove what "
                "that has left by qae partitions delete-old"
            )
        for ledger, offset, keys in zip(ledgers, record.offsets, self._old, strict=True):
            if ledger is not None and await ledger.position() != offset:
                raise MoveRefusedError(
                    f"{keys.state} went on after the move had begun; if no other partition "
                    f"was moved, delete {record_key(self._settings.prefix)} to begin again"
                )

    async def _stage(self, ledgers: Sequence[Ledger | None]) -> Record:
        """Check all that a move needs, write the new state beside the old, and say so."""
        offsets, snapshots = [], []
        for ledger, keys in zip(ledgers, self._old, strict=True):
            if ledger is None:
                raise MoveRefusedError(
                    f"{self._archive[keys.partition].state} is left of an earlier move; remove it: "
                    "qae partitions delete-old"
                )
            snapshot = await self._drained(ledger, keys)
            offsets.append(await ledger.position())
            snapshots += [snapshot.parts] if snapshot is not None else []
        await self._check_free()
        positions = await self._feeds()
        if not snapshots:
            raise MoveRefusedError("no partition has any state: start with the new number at once")
        owner_of = partial(partition_of, partitions=len(self._new))
        grouped = self._regroup(snapshots, owner_of, len(self._new))
        for keys, parts in zip(self._staged, grouped, strict=True):
            await self._stage_one(keys, parts, positions)
        return await self._write(
            Record(len(self._old), len(self._new), tuple(offsets), tuple(positions))
        )

    async def _drained(self, ledger: Ledger, keys: Keys) -> Snapshot | None:
        """The snapshot of a partition that has read all its bars; None if there never were any."""
        newest: Any = await self._client.at(keys.partition).xrevrange(keys.bars, count=1)
        offset = await ledger.position()
        if newest and newest[0][0].decode() != offset:
            raise MoveRefusedError(
                f"{keys.bars} holds bars that were not read yet; stop the producers, let the "
                "engines go on until they have read all, and stop them then"
            )
        try:
            snapshot = await ledger.load()
        except SavedStateError as error:
            raise MoveRefusedError(f"{keys.state}: {error}; {_AGAIN}") from error
        if offset is not None and (snapshot is None or snapshot.offset != offset):
            raise MoveRefusedError(f"{keys.state} has no snapshot of its last position; {_AGAIN}")
        return snapshot

    async def _check_free(self) -> None:
        """That no new partition would be put in the place of something else."""
        for keys in self._new:
            for name in (keys.state, keys.bars, keys.signals):
                taken = await self._client.at(keys.partition).exists(name)
                if taken and keys.state not in {old.state for old in self._old}:
                    raise MoveRefusedError(
                        f"{name} is there, though redis.partitions = {len(self._old)}; is that the "
                        "number that the engines ran with? If so, delete or rename that key"
                    )

    async def _feeds(self) -> dict[str, int]:
        """Source → position of recorded feeds, the same in all partitions."""
        found: list[dict[str, int]] = []
        for keys in self._old:
            client, start = self._client.at(keys.partition), keys.feed("")
            names = [name async for name in client.scan_iter(match=f"{start}*")]
            found.append({n.decode()[len(start) :]: int(await client.get(n) or 0) for n in names})
        for other in found[1:]:
            if apart := sorted(source for source, _ in other.items() ^ found[0].items()):
                raise MoveRefusedError(
                    f"the feed of {apart[0]} is not equally far in all partitions; run it again to "
                    "its end before the move"
                )
        return found[0]

    async def _stage_one(self, keys: Keys, parts: list[bytes], feeds: dict[str, int]) -> None:
        """Write the state of a new partition: at the start of a stream that is not there yet."""
        client, ledger = self._client.at(keys.partition), self._ledger(keys)
        await client.delete(keys.state)
        await ledger.acquire()
        await ledger.commit(START, START, [], [])
        await ledger.save(Snapshot(START, START, tuple(parts)))
        await ledger.release()
        for source, position in feeds.items():
            await client.set(keys.feed(source), position)

    async def _switch(self, partition: int, sources: Sequence[str]) -> None:
        """Put the old keys of a partition away and the new ones in their place, at once."""
        pairs: list[str] = []
        for before, after in ((self._old, self._archive), (self._staged, self._new)):
            if partition < len(before):
                for here, there in zip(
                    _names(before[partition], sources),
                    _names(after[partition], sources),
                    strict=True,
                ):
                    pairs += [here, there]
        client: Any = self._client.at(partition)
        await client.eval(SWITCH, len(pairs), *pairs)

    async def _write(self, record: Record) -> Record:
        key = record_key(self._settings.prefix)
        await self._client.at(0).set(key, msgspec.json.encode(record))
        return record


async def _take(ledger: Ledger, keys: Keys) -> None:
    """Own an old partition, or go on owning it."""
    if held := await ledger.acquire():
        who = f"process {held.holder.pid} on {held.holder.host}" if held.holder else "a process"
        raise MoveRefusedError(f"{who} owns {keys.state}; stop all engines first")


async def _leave(ledger: Ledger) -> None:
    with suppress(OwnershipLost):  # whoever took it over is told elsewhere
        await ledger.release()


_AGAIN = "start the engines and stop them again: one that is stopped leaves a snapshot"


def all_keys(prefix: str, partitions: int) -> list[Keys]:
    """The keys of every partition."""
    return [Keys(prefix, partitions, partition) for partition in range(partitions)]


def _names(keys: Keys, sources: Sequence[str]) -> list[str]:
    return [*(getattr(keys, name) for name in NAMES), *(keys.feed(source) for source in sources)]


def record_key(prefix: str) -> str:
    """Where the record of a move is: beside the first partition, also in a cluster."""
    return f"{prefix}:move:{{0}}"


async def read_record(client: Client, prefix: str) -> Record | None:
    """The record of the last move, unless what it left was deleted."""
    text: Any = await client.at(0).get(record_key(prefix))
    return None if text is None else msgspec.json.decode(text, type=Record)


async def delete_old(client: Client, prefix: str) -> int:
    """Delete what the last move put away, and its record; how many keys. Raises as a move does."""
    record = await read_record(client, prefix)
    if record is None:
        raise MoveRefusedError("no move has left anything")
    if not record.done:
        raise MoveRefusedError(
            f"the move to {record.after} partitions was interrupted; finish it first: qae "
            f"partitions move --to {record.after}"
        )
    deleted = 0
    for keys in all_keys(f"{prefix}:old", record.before):
        names = _names(keys, record.sources)
        deleted += await client.at(keys.partition).unlink(*names)
    await client.at(0).delete(record_key(prefix))
    return deleted
