"""Tests of the snapshot in the state hash: the earlier one is whole until the new one is."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as Cut

from quantum_ai_engine.daemon.client import Client, Unreachable
from quantum_ai_engine.daemon.commit import START, Conflict, Ledger, OwnershipLost
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.saved import Contents, SavedStateError, Snapshot, digest, part_field

KEYS = Keys("quantum")
COMMANDS = 7  # of a save of five parts
OLD = Snapshot("7-0", "1-1", (b"old one", b"old two", b"old three", b""))
NEW = Snapshot("8-0", "2-1", (b"new one", b"new two", bytes(range(256)), b"new four", b"five"))


class Faulty(Client):
    """A client with something that happens before, or after, its n-th command."""

    def __init__(
        self,
        client: Client,
        at: int,
        happens: Callable[[], Awaitable[None]],
        *,
        is_answered: bool = False,
    ) -> None:
        super().__init__(connection_pool=client.connection_pool)
        self.at = at
        self.happens = happens
        self.is_answered = is_answered
        self.sent: tuple[Any, ...] = ()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        self.at -= 1
        if self.at != 0:
            return await super().execute_command(*args, **options)
        self.sent = args
        if self.is_answered:
            await super().execute_command(*args, **options)
        await self.happens()
        return await super().execute_command(*args, **options)


async def cut() -> None:
    raise Cut("the connection was cut")


async def owning(client: Client, holder: Holder | None = None) -> Ledger:
    """A ledger that owns the partition, if need be after the lease of another has ended."""
    ledger = Ledger(client, KEYS, 60_000, holder or Holder.here())
    if await client.hexists(KEYS.state, "owner"):
        await client.hset(KEYS.state, "lease_until", 1)
    assert await ledger.acquire() is None
    return ledger


async def owning_with(client: Client, old: Snapshot) -> tuple[Ledger, Holder]:
    """The same, with a snapshot; the server knows all scripts."""
    holder = Holder.here()
    ledger = await owning(client, holder)
    await ledger.save(old)
    return ledger, holder


async def through(client: Client, holder: Holder) -> Ledger:
    """The same owner's ledger through another client."""
    ledger = Ledger(client, KEYS, 60_000, holder)
    assert await ledger.acquire() is None
    return ledger


async def fields(client: Client) -> list[str]:
    """The fields that a snapshot, or what is left of one, takes up."""
    names = [name.decode() for name in await client.hkeys(KEYS.state)]
    return sorted(name for name in names if name.startswith(("snapshot", "saving")))


def whole(slot: int, snapshot: Snapshot) -> list[str]:
    return ["snapshot", *(part_field(slot, index) for index in range(len(snapshot.parts)))]


async def test_there_is_no_snapshot_at_first(client: Client) -> None:
    assert await (await owning(client)).load() is None


async def test_what_is_saved_is_loaded(client: Client) -> None:
    """L40: also by the next owner, and nothing is left of earlier, longer ones (L42)."""
    ledger = await owning(client)
    for number, snapshot in enumerate([NEW, OLD, Snapshot("9-0", "0-0", ()), NEW]):
        await ledger.save(snapshot)
        assert await (await owning(client)).load() == snapshot
        ledger = await owning(client)
        assert await fields(client) == whole(number % 2, snapshot)


async def test_commits_go_on_beside_a_save(client: Client) -> None:
    """L46: parts are short commands of their own, so that a round never waits for all of them."""
    ledger = await owning(client)
    large = Snapshot("0-1", "0-0", tuple(b"%d" % index * 50_000 for index in range(20)))

    async def rounds() -> int:
        start, count = START, 0
        while not saving.done():
            count += 1
            start = await commit_next(start, count)
        return count

    async def commit_next(start: str, count: int) -> str:
        await ledger.commit(start, f"{count}-0", [], [])
        return f"{count}-0"

    async with asyncio.timeout(20.0):
        saving = asyncio.create_task(ledger.save(large))
        count = await rounds()
        await saving
    assert count > 5
    assert await ledger.position() == f"{count}-0"
    assert await ledger.load() == large


@pytest.mark.parametrize("is_answered", [False, True])
@pytest.mark.parametrize("at", range(1, COMMANDS + 1))
async def test_an_interrupted_save_keeps_the_earlier_snapshot(
    client: Client, at: int, is_answered: bool
) -> None:
    """L43: cut at each command, on its way there or on its way back; the next save clears up."""
    ledger, holder = await owning_with(client, OLD)
    cutting = Faulty(client, at + 1, cut, is_answered=is_answered)  # the first acquires
    with pytest.raises(Cut):
        await (await through(cutting, holder)).save(NEW)
    is_done = at == COMMANDS and is_answered
    assert await ledger.load() == (NEW if is_done else OLD)
    await ledger.save(Snapshot("9-0", "0-0", (b"short",)))
    assert await ledger.load() == Snapshot("9-0", "0-0", (b"short",))
    assert len(await fields(client)) == 2


async def test_a_save_of_five_parts_has_seven_commands(client: Client) -> None:
    """The test above cuts at each of them."""
    ledger, holder = await owning_with(client, OLD)
    await (await through(Faulty(client, COMMANDS + 2, cut), holder)).save(NEW)
    assert await ledger.load() == NEW


@pytest.mark.parametrize("late", range(1, COMMANDS + 1))
@pytest.mark.parametrize("at", range(1, COMMANDS + 1))
async def test_what_comes_late_of_an_abandoned_save_does_no_harm(
    client: Client, late: int, at: int
) -> None:
    """L45: a command that a frozen server reads much later does not mix two snapshots."""
    ledger, holder = await owning_with(client, OLD)
    abandoned = Faulty(client, late + 1, cut)
    with pytest.raises(Cut):
        await (await through(abandoned, holder)).save(NEW)
    newer = Snapshot("9-0", "3-1", tuple(part + b"er" for part in NEW.parts))

    async def arrive() -> None:
        await client.execute_command(*abandoned.sent)

    saving = await through(Faulty(client, at + 1, arrive), holder)
    if late == 1 and at > 1:  # then it is the abandoned one that was begun last
        with pytest.raises(Conflict, match="begun anew"):
            await saving.save(newer)
        assert await ledger.load() == OLD
    else:
        await saving.save(newer)
        assert await ledger.load() == newer
    await ledger.save(NEW)
    assert await ledger.load() == NEW
    assert len(await fields(client)) == len(whole(0, NEW))


async def test_a_zombie_between_two_parts_leaves_the_new_owner_alone(client: Client) -> None:
    """L45: whoever woke up with half a snapshot to write writes no more of it."""
    _, holder = await owning_with(client, OLD)
    owners: list[Ledger] = []

    async def take_over() -> None:
        owners.append(await owning(client))
        await owners[0].save(NEW)

    zombie = await through(Faulty(client, 4, take_over), holder)
    with pytest.raises(OwnershipLost):
        await zombie.save(OLD)
    assert await owners[0].load() == NEW
    assert await fields(client) == whole(1, NEW)


@pytest.mark.parametrize("at", range(1, COMMANDS + 1))
async def test_a_server_that_runs_full_keeps_the_earlier_snapshot(client: Client, at: int) -> None:
    """L42: at whatever part the memory ends; with room again the next save is whole."""
    ledger, holder = await owning_with(client, OLD)

    async def run_full() -> None:
        await client.config_set("maxmemory", 1)

    with pytest.raises(Unreachable, match="OOM"):
        await (await through(Faulty(client, at + 1, run_full), holder)).save(NEW)
    assert await ledger.load() == OLD
    await client.config_set("maxmemory", 0)
    await ledger.save(NEW)
    assert await ledger.load() == NEW


async def test_a_part_that_vanished_meanwhile_keeps_the_earlier_snapshot(client: Client) -> None:
    """L40: as after a failover to a server that had not got it yet."""
    ledger, holder = await owning_with(client, OLD)

    async def lose() -> None:
        await client.hdel(KEYS.state, part_field(1, 2))

    with pytest.raises(Conflict, match="parts of it are gone"):
        await (await through(Faulty(client, COMMANDS + 1, lose), holder)).save(NEW)
    assert await ledger.load() == OLD


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("snapshot:0:1", None, "part 2 of 4 of the snapshot at 7-0 is missing"),
        ("snapshot:0:1", b"old twO", "part 2 of 4 of the snapshot at 7-0 is damaged"),
        ("snapshot:0:1", b"old one", "part 2 of 4 of the snapshot at 7-0 is damaged"),
        ("snapshot", b"", "the field snapshot is damaged"),
        ("snapshot", b"\xff" * 20, "the field snapshot is damaged"),
        ("snapshot", b"0" + digest(b"\xc0") + b"\xc0", "the field snapshot cannot be read"),
    ],
)
async def test_a_damaged_snapshot_is_told(
    client: Client, field: str, value: bytes | None, words: str
) -> None:
    """L40: what is missing or other than it was is named; a later save is whole again."""
    ledger, _ = await owning_with(client, OLD)
    if value is None:
        await client.hdel(KEYS.state, field)
    else:
        await client.hset(KEYS.state, field, value)
    with pytest.raises(SavedStateError, match=words):
        await ledger.load()
    await ledger.save(NEW)
    assert await ledger.load() == NEW
    assert len(await fields(client)) == len(whole(0, NEW))


def test_every_damaged_byte_of_the_contents_is_found() -> None:
    """L40: an offset that is another one would lose or repeat bars."""
    sealed = Contents(0, "7-0", "1-1", (b"x" * 16, b"y" * 16)).seal()
    for place in range(len(sealed)):
        for bit in (1, 128):
            damaged = bytearray(sealed)
            damaged[place] ^= bit
            with pytest.raises(SavedStateError):
                Contents.unseal(bytes(damaged))
    for length in range(len(sealed)):
        with pytest.raises(SavedStateError):
            Contents.unseal(sealed[:length])
