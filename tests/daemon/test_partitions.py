"""Tests of repartitioning: each symbol's state goes to its new home, once, whatever interrupts."""

import re
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec
import pytest
from redis.exceptions import ConnectionError as RedisConnectionError

from quantum_ai_engine.config import ConfigError, RedisSettings, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Ledger
from quantum_ai_engine.daemon.keys import Keys, partition_of
from quantum_ai_engine.daemon.lease import Holder
from quantum_ai_engine.daemon.ownership import Entrance
from quantum_ai_engine.daemon.partitions import (
    Move,
    MoveRefusedError,
    Record,
    all_keys,
    delete_old,
    read_record,
    record_key,
)
from quantum_ai_engine.daemon.producer import MAX_SPEED, Producer, produce, steps
from quantum_ai_engine.daemon.saved import Snapshot
from quantum_ai_engine.market.table import BarTable

SYMBOLS = [f"S{i}" for i in range(20)]
SIZES = [(1, 4), (4, 1), (2, 4), (4, 2), (3, 2), (1, 2)]
State = dict[str, int]


def regroup(
    snapshots: Sequence[Sequence[bytes]], owner_of: Callable[[str], int], partitions: int
) -> list[list[bytes]]:
    """As the engine's, of states that hold a number for each symbol: a part for each symbol."""
    grouped: list[list[bytes]] = [[] for _ in range(partitions)]
    for parts in snapshots:
        for part in parts:
            grouped[owner_of(next(iter(msgspec.msgpack.decode(part))))].append(part)
    return grouped


def of(partitions: int) -> RedisSettings:
    return RedisSettings(partitions=partitions)


async def save(client: Client, keys: Keys, state: State) -> None:
    """What an engine leaves behind that has read all there was and was stopped."""
    ledger = Ledger(client, keys, 5000, Holder.here())
    assert await ledger.acquire() is None
    end = (await client.xadd(keys.bars, {"b": "1"})).decode()
    await ledger.commit(await ledger.position() or START, end, [], [])
    parts = tuple(msgspec.msgpack.encode({symbol: n}) for symbol, n in state.items())
    await ledger.save(Snapshot(end, "0-0", parts))
    await ledger.release()


def homes(partitions: int) -> list[State]:
    """The state of each partition."""
    states: list[State] = [{} for _ in range(partitions)]
    for number, symbol in enumerate(SYMBOLS):
        states[partition_of(symbol, partitions)][symbol] = number
    return states


async def save_all(client: Client, partitions: int) -> None:
    for keys, state in zip(all_keys("quantum", partitions), homes(partitions), strict=True):
        await save(client.at(keys.partition), keys, state)
        await client.at(keys.partition).set(keys.feed("paper"), 1234)


async def found(client: Client, partitions: int) -> list[State]:
    """What an engine finds in each partition."""
    states = []
    for keys in all_keys("quantum", partitions):
        ledger = Ledger(client.at(keys.partition), keys, 5000, Holder.here())
        assert await ledger.acquire() is None
        assert await ledger.position() == START
        snapshot = await ledger.load()
        assert snapshot is not None
        assert (snapshot.offset, snapshot.record) == (START, START)
        state: State = {}
        for part in snapshot.parts:
            state |= msgspec.msgpack.decode(part)
        states.append(state)
        await ledger.release()
    return states


async def everything(client: Client) -> dict[bytes, bytes]:
    """All keys and what they hold, but for who owns what."""
    held = {}
    for key in await client.keys():
        if await client.type(key) == b"hash":
            fields = await client.hgetall(key)
            held[key] = repr(sorted((f, v) for f, v in fields.items() if f not in LEASE)).encode()
        else:
            held[key] = await client.dump(key)
    return held


LEASE = {b"owner", b"fence", b"lease_until", b"holder", b"saving"}


@pytest.mark.parametrize(("before", "after"), SIZES)
async def test_each_symbol_goes_home(client: Client, before: int, after: int) -> None:
    """L43: all state is where the engines of the new number look for it, and nowhere twice."""
    await save_all(client, before)
    record = await Move(client, of(before), after, regroup).run()
    assert (record.before, record.after, record.done) == (before, after, True)
    assert await found(client, after) == homes(after)
    for keys in all_keys("quantum", after):
        assert not await client.exists(keys.bars)
        assert await client.get(keys.feed("paper")) == b"1234"


@pytest.mark.parametrize(("before", "after"), SIZES)
async def test_the_old_keys_are_kept_until_they_are_deleted(
    client: Client, before: int, after: int
) -> None:
    await save_all(client, before)
    there = await everything(client)
    old = {key.replace(b"quantum:", b"quantum:old:"): value for key, value in there.items()}
    await Move(client, of(before), after, regroup).run()
    there = await everything(client)
    assert old.items() <= there.items()
    deleted = await delete_old(client, "quantum")
    assert deleted == len(old)
    assert set(await client.keys()) == there.keys() - old.keys() - {record_key("quantum").encode()}


async def test_a_feed_goes_on_where_it_was(client: Client, history: BarTable) -> None:
    """L43: no recorded bar is sent again to another home, and none is left out."""
    table, keys = history.rows(0, 400), Keys("quantum", 2)
    first = Producer(client, keys, "file", None)
    await produce(first, steps(table.rows(0, 150), 60_000, 0, together=True), 0, MAX_SPEED, print)
    for partition in all_keys("quantum", 2):
        [(end, _)] = await client.xrevrange(partition.bars, count=1)
        ledger = Ledger(client, partition, 5000, Holder.here())
        await ledger.acquire()
        await ledger.commit(START, end.decode(), [], [])
        await ledger.save(Snapshot(end.decode(), "0-0", (msgspec.msgpack.encode({"A": 1}),)))
        await ledger.release()
    await Move(client, of(2), 3, regroup).run()
    second = Producer(client, Keys("quantum", 3), "file", None)
    assert await second.position() == 150
    plan = steps(table, 60_000, 150, together=True)
    await produce(second, plan, 150, MAX_SPEED, lambda _: None)
    lengths = [await client.xlen(partition.bars) for partition in all_keys("quantum", 3)]
    assert sum(lengths) == 250


class Cut:
    """Lets so many commands pass; the next is lost, or its reply is, and all that come after."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, passes: int, *, is_done: bool) -> None:
        self.commands = 0
        execute = Client.execute_command

        async def cut(client: Client, *arguments: Any, **options: Any) -> Any:
            self.commands += 1
            if self.commands <= passes or (is_done and self.commands == passes + 1):
                reply = await execute(client, *arguments, **options)
                if self.commands <= passes:
                    return reply
            raise RedisConnectionError("cut")

        monkeypatch.setattr(Client, "execute_command", cut)


@pytest.mark.parametrize(("before", "after"), [(2, 3), (3, 2), (1, 2)])
@pytest.mark.parametrize("is_done", [False, True])
async def test_a_move_that_is_interrupted_is_finished(
    client: Client, before: int, after: int, is_done: bool
) -> None:
    """L43: wherever it is cut off, the same command given again comes to the same end."""
    passes = 0
    while True:
        await client.flushall()
        await save_all(client, before)
        with pytest.MonkeyPatch.context() as patch:
            cut = Cut(patch, passes, is_done=is_done)
            try:
                await Move(client, of(before), after, regroup).run()
                break
            except RedisConnectionError:
                assert cut.commands > passes
        await end_leases(client)
        await Move(client, of(before), after, regroup).run()
        assert await found(client, after) == homes(after)
        for keys in all_keys("quantum:old", before):
            assert (await client.hget(keys.state, "offset")) is not None
        passes += 1
    assert passes > 30


async def end_leases(client: Client) -> None:
    """As if the process that was cut off were gone."""
    for key in await client.keys("*state"):
        if await client.hexists(key, "lease_until"):
            await client.hset(key, "lease_until", 0)


async def refused(client: Client, settings: RedisSettings, after: int, why: str) -> None:
    """Assert that nothing is moved, and that the sentence says why."""
    before = await everything(client)
    with pytest.raises(MoveRefusedError, match=re.escape(why)):
        await Move(client, settings, after, regroup).run()
    changed = {key for key, value in (await everything(client)).items() if before.get(key) != value}
    assert all(key.endswith(b"state") and key not in before for key in changed)


async def test_a_partition_that_is_owned_stays(client: Client) -> None:
    """L45: while any process may write, nothing is moved."""
    await save_all(client, 2)
    owner = Ledger(client, Keys("quantum", 2, 1), 5000, Holder.here())
    await owner.acquire()
    await refused(client, of(2), 4, "owns quantum:{1}:state; stop all engines first")
    await owner.release()
    await Move(client, of(2), 4, regroup).run()


async def test_bars_that_were_not_read_stay(client: Client) -> None:
    """L41: no bar is left behind unread."""
    await save_all(client, 2)
    await client.xadd("quantum:{1}:bars", {"b": "2"})
    await refused(client, of(2), 4, "quantum:{1}:bars holds bars that were not read yet")


async def test_bars_that_nobody_ever_read_stay(client: Client) -> None:
    """L41: also where no engine ever ran."""
    await save(client, Keys("quantum", 2, 0), {"S": 1})
    await client.xadd("quantum:{1}:bars", {"b": "2"})
    await refused(client, of(2), 4, "quantum:{1}:bars holds bars that were not read yet")


async def test_a_partition_without_symbols_has_nothing_to_move(client: Client) -> None:
    await save(client, Keys("quantum", 2, 0), homes(1)[0])
    await Move(client, of(2), 3, regroup).run()
    assert await found(client, 3) == homes(3)


async def test_a_snapshot_that_is_older_than_the_position_stays(client: Client) -> None:
    """L43: what came since would be missing from the new state."""
    await save_all(client, 2)
    keys = Keys("quantum", 2, 1)
    ledger = Ledger(client, keys, 5000, Holder.here())
    await ledger.acquire()
    end = (await client.xadd(keys.bars, {"b": "2"})).decode()
    await ledger.commit(await ledger.position() or "", end, [], [])
    await ledger.release()
    await refused(client, of(2), 4, "has no snapshot of its last position; start the engines")


async def test_a_damaged_snapshot_stays(client: Client) -> None:
    await save_all(client, 2)
    [field] = [f for f in await client.hkeys("quantum:{1}:state") if f.endswith(b":0")]
    await client.hset("quantum:{1}:state", field, b"damaged")
    await refused(client, of(2), 4, "quantum:{1}:state: part 1 of")


async def test_feeds_that_are_not_equally_far_stay(client: Client) -> None:
    """L40: a partition would get bars of the source twice, or not at all."""
    await save_all(client, 2)
    await client.set("quantum:{1}:feed:paper", 1200)
    await refused(client, of(2), 4, "the feed of paper is not equally far in all partitions")


async def test_what_is_there_already_stays(client: Client) -> None:
    """As when the engines ran with another number than the settings name."""
    await save_all(client, 4)
    await refused(client, of(2), 3, "quantum:{2}:state is there, though redis.partitions = 2")


async def test_nothing_is_not_moved(client: Client) -> None:
    await refused(client, of(2), 4, "no partition has any state")


async def test_numbers_that_make_no_sense(client: Client) -> None:
    await refused(client, of(2), 2, "redis.partitions = 2 already")
    in_cluster = RedisSettings(partitions=2, cluster=True)
    await refused(client, in_cluster, 1, "a Redis Cluster needs more partitions than one")


async def test_one_move_at_a_time(client: Client) -> None:
    """What the last one put away is not overwritten, and is never deleted while it is needed."""
    await save_all(client, 2)
    with pytest.raises(MoveRefusedError, match="no move has left anything"):
        await delete_old(client, "quantum")
    await Move(client, of(2), 4, regroup).run()
    await refused(client, of(4), 2, "partitions were moved from 2 to 4 before")
    record = await read_record(client, "quantum")
    assert record is not None
    unfinished = Record(2, 4, record.offsets, record.sources)
    await client.set(record_key("quantum"), msgspec.json.encode(unfinished))
    with pytest.raises(MoveRefusedError, match="move --to 4"):
        await delete_old(client, "quantum")
    await client.delete(record_key("quantum"))
    await refused(client, of(2), 4, "is left of an earlier move")


async def test_a_state_that_went_on_meanwhile_stays(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L43: an interrupted move is not finished over what an engine has written since."""
    await save_all(client, 2)

    async def interrupted(*_: Any) -> None:
        raise RedisConnectionError("cut")

    with monkeypatch.context() as patch:
        patch.setattr(Move, "_switch", interrupted)
        with pytest.raises(RedisConnectionError):
            await Move(client, of(2), 4, regroup).run()
    await save(client, Keys("quantum", 2, 1), {"S": 1})
    await refused(client, of(2), 4, "quantum:{1}:state went on after the move had begun")


async def test_an_engine_that_starts_during_the_move_stops_it(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L45: one that took a partition when our lease had ended is noticed before anything moves."""
    await save_all(client, 2)
    taken = list[Ledger]()
    write = Move._write

    async def slow(move: Move, record: Record) -> Record:
        await end_leases(client)
        taken.append(Ledger(client, Keys("quantum", 2, 1), 5000, Holder.here()))
        assert await taken[0].acquire() is None
        return await write(move, record)

    with monkeypatch.context() as patch:
        patch.setattr(Move, "_write", slow)
        with pytest.raises(MoveRefusedError, match=r"owns quantum:\{1\}:state"):
            await Move(client, of(2), 4, regroup).run()
    assert await client.exists("quantum:{0}:state", "quantum:{1}:state") == 2
    await taken[0].release()
    await Move(client, of(2), 4, regroup).run()
    assert await found(client, 4) == homes(4)


async def test_an_engine_with_the_old_number_does_not_start(client: Client) -> None:
    """L45: it would begin anew beside the state that was moved."""
    await save_all(client, 1)
    await Move(client, of(1), 2, regroup).run()
    for partitions, refused in ((1, True), (2, False)):
        entrance = Entrance(client, Settings(redis=of(partitions)))
        with pytest.raises(ConfigError, match="moved to 2") if refused else nullcontext():
            await entrance.enter()
