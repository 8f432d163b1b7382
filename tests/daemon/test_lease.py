"""Tests of the lease: who owns a partition, by the server's clock and by who still lives."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from quantum_ai_engine.daemon import lease
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import START, Conflict, Ledger, OwnershipLost
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.lease import Held, Holder

KEYS = Keys("quantum")
PATIENCE_S = 20.0
LEASE_MS = 60_000
SLEEPER = """
import sys, threading
from quantum_ai_engine.daemon.lease import Holder
import msgspec
threading.Thread(target=sys.stdin.read, daemon=True).start()
print(msgspec.json.encode(Holder.here()).decode(), flush=True)
threading.Event().wait()
"""


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, or fail."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, of several threads, that writes who it is and goes on."""
    with subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as running:
        yield running
        running.kill()


def holder_of(process: subprocess.Popen[bytes]) -> Holder:
    assert process.stdout is not None
    holder = Holder.decode(process.stdout.readline())
    assert holder is not None
    assert holder.pid == process.pid
    return holder


def ledger(client: Client, holder: Holder | None = None) -> Ledger:
    return Ledger(client, KEYS, LEASE_MS, holder or Holder.here())


async def state(client: Client) -> dict[str, bytes]:
    return {name.decode(): value for name, value in (await client.hgetall(KEYS.state)).items()}


def test_a_holder_is_this_process() -> None:
    """Each call is another holder in the same process, which tells two owners in it apart."""
    first, second = Holder.here(), Holder.here()
    assert first.id != second.id
    assert msgspec.structs.replace(first, id=second.id) == second
    assert first.pid == os.getpid()
    assert first.started > 0
    assert first.boot
    assert first.namespace
    assert Holder.decode(msgspec.json.encode(first)) == first


@pytest.mark.parametrize(
    ("change", "is_gone"),
    [
        ({}, False),
        ({"id": "another"}, False),
        ({"started": 1}, True),  # its process id was given to us since
        ({"started": 1, "boot": "another"}, False),
        ({"started": 1, "namespace": "1"}, False),
        ({"started": 1, "boot": ""}, False),
        ({"started": 1, "namespace": ""}, False),
        ({"pid": 2**31 - 1}, True),
        ({"pid": 2**31 - 1, "boot": "another"}, False),
    ],
)
def test_only_what_certainly_ended_is_gone(change: dict[str, Any], is_gone: bool) -> None:
    """L45: of another machine, boot or container nothing is known, and unknown is alive."""
    assert msgspec.structs.replace(Holder.here(), **change).is_gone() is is_gone


def test_without_a_proc_of_ours_nobody_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L45: where the system tells nothing, or tells of others, everybody counts as alive."""
    stranger = msgspec.structs.replace(Holder.here(), pid=2**31 - 1)
    real = Path("/proc")
    monkeypatch.setattr(lease, "PROC", tmp_path)
    nobody = Holder.here()
    assert (nobody.boot, nobody.namespace, nobody.started) == ("", "", 0)
    assert not stranger.is_gone()
    assert not msgspec.structs.replace(nobody, pid=2**31 - 1).is_gone()
    (tmp_path / "sys").symlink_to(real / "sys")
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to(real / "self/ns/pid")
    (tmp_path / "self/stat").write_text(f"{os.getpid()} (own) S", "ascii")
    assert stranger.is_gone()
    (tmp_path / "self/stat").write_text(
        "1 (under the id that another namespace gave us) S", "ascii"
    )
    assert not stranger.is_gone()


def test_a_process_that_may_not_be_seen_is_alive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L45: it may be hidden from us, as other users' are where /proc is mounted that way."""
    visible = msgspec.structs.replace(Holder.here(), started=1)
    assert visible.is_gone()
    for name in ("sys", "self"):
        (tmp_path / name).symlink_to(Path("/proc") / name)
    monkeypatch.setattr(lease, "PROC", tmp_path)
    assert not visible.is_gone()


def test_a_process_that_may_not_be_signalled_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """L45: it is another user's, and its start tells whether it is the one that was meant."""

    def refuse(pid: int, number: int) -> None:
        raise PermissionError(pid, number)

    own = Holder.here()
    monkeypatch.setattr(os, "kill", refuse)
    assert not own.is_gone()
    assert msgspec.structs.replace(own, started=1).is_gone()


@pytest.mark.parametrize(
    "text", [b"", b"\xff", b"[]", b"{}", b'{"id": "\xff"}', b'{"pid": 0}', b'{"pid": "x"}']
)
def test_a_holder_that_cannot_be_read_is_unknown(text: bytes) -> None:
    assert Holder.decode(text) is None


async def test_a_killed_process_is_gone_before_its_parent_knows(
    process: subprocess.Popen[bytes],
) -> None:
    """L45: nobody need collect its exit status for its partition to be free."""
    holder = holder_of(process)
    assert not holder.is_gone()
    process.kill()
    await until(holder.is_gone)
    assert process.returncode is None
    process.wait()
    assert holder.is_gone()


async def test_a_partition_has_one_owner(client: Client) -> None:
    """L45: who comes second is told who owns it and for how long yet, and changes nothing."""
    first, second = Holder.here(), ledger(client)
    assert await ledger(client, first).acquire() is None
    before = await state(client)
    held = await second.acquire()
    assert await state(client) == before
    assert held is not None
    assert held.holder == first
    assert 0 < held.left_ms <= LEASE_MS
    with pytest.raises(OwnershipLost, match=f"owned by process {os.getpid()} on {first.host}"):
        await second.commit(START, "1-0", [], [])


async def test_acquiring_again_extends_the_lease(client: Client) -> None:
    """L45: as when the reply to the first try was lost; the fence counts changes of owner only."""
    holder = Holder.here()
    owner = ledger(client, holder)
    assert await owner.acquire() is None
    await client.hset(KEYS.state, "lease_until", 1)
    assert await ledger(client, holder).acquire() is None
    now = await state(client)
    assert now["owner"] == f"1-{holder.id}".encode()
    assert now["fence"] == b"1"
    seconds, microseconds = await client.time()
    assert 0 < int(now["lease_until"]) - seconds * 1000 - microseconds // 1000 <= LEASE_MS
    await owner.commit(START, "1-0", [], [])


async def test_a_lease_that_ended_is_taken_over(client: Client) -> None:
    """L45: by the server's clock; each change of owner counts the fence up by one."""
    first, second = ledger(client), ledger(client)
    assert await first.acquire() is None
    await client.hset(KEYS.state, "lease_until", 1)
    assert await second.acquire() is None
    assert (await state(client))["fence"] == b"2"
    assert await first.acquire() is not None
    with pytest.raises(OwnershipLost):
        await first.beat("{}")
    await client.hset(KEYS.state, "lease_until", 1)
    assert await first.acquire() is None
    assert (await state(client))["owner"].startswith(b"3-")
    with pytest.raises(OwnershipLost):
        await second.keep()


async def test_a_lease_ends_by_itself(client: Client) -> None:
    """L45: an owner that is no longer heard loses the partition after `lease_ms`, not before."""
    short = Ledger(client, KEYS, 50, Holder.here())
    assert await short.acquire() is None
    waits = []
    async with asyncio.timeout(PATIENCE_S):
        while (held := await ledger(client).acquire()) is not None:
            waits.append(held.left_ms)
            await asyncio.sleep(0.001)
    assert waits == sorted(waits, reverse=True)
    assert all(0 < wait <= 50 for wait in waits)


@pytest.mark.parametrize("says_so", [False, True])
async def test_a_sign_of_life_keeps_the_partition(client: Client, says_so: bool) -> None:
    """L45: also when the lease had ended and nobody has come."""
    owner = ledger(client)
    assert await owner.acquire() is None
    await client.hset(KEYS.state, "lease_until", 1)
    await (owner.beat("{}") if says_so else owner.keep())
    held = await ledger(client).acquire()
    assert held is not None
    assert held.left_ms > LEASE_MS - 10_000
    assert bool(await client.exists(KEYS.heartbeat)) is says_so


async def test_a_beat_is_heard_once_or_not_at_all(client: Client) -> None:
    """L06, L45: heartbeat and messages go out together, and never from who lost the partition."""
    first, second = ledger(client), ledger(client)
    tombstones = [(KEYS.signal_channel(symbol), symbol) for symbol in ("BTCUSDT", "ETHUSDT")]
    async with client.pubsub() as channel:
        await channel.psubscribe(KEYS.signal_channels, KEYS.heartbeat_channel)
        assert await first.acquire() is None
        await first.beat("alive", tombstones)
        assert await client.get(KEYS.heartbeat) == b"alive"
        assert 0 < await client.ttl(KEYS.heartbeat) <= 10
        await client.hset(KEYS.state, "lease_until", 1)
        assert await second.acquire() is None
        with pytest.raises(OwnershipLost):
            await first.beat("undead", tombstones)
        assert await client.get(KEYS.heartbeat) == b"alive"
        await client.publish(KEYS.heartbeat_channel, "end")
        heard = []
        async with asyncio.timeout(PATIENCE_S):
            while not heard or heard[-1] != b"end":
                message = await channel.get_message(timeout=1.0)
                heard += [message["data"]] if message and message["type"] == "pmessage" else []
    assert heard == [b"alive", b"BTCUSDT", b"ETHUSDT", b"end"]


async def test_a_clean_stop_leaves_no_wait(client: Client) -> None:
    """L45: the next process owns the partition at once, with a higher fence."""
    first, second = ledger(client), ledger(client)
    assert await first.acquire() is None
    await first.commit(START, "7-0", [], [])
    await first.release()
    await first.release()
    with pytest.raises(Conflict, match="has no owner"):
        await first.commit("7-0", "8-0", [], [])
    assert await second.acquire() is None
    assert await second.position() == "7-0"
    assert (await state(client))["fence"] == b"2"
    with pytest.raises(OwnershipLost):
        await first.release()
    await second.beat("{}")


async def test_an_owner_from_before_leases_is_replaced(client: Client) -> None:
    """A state hash of an earlier version has an owner without a lease, and a position to keep."""
    await client.hset(KEYS.state, mapping={"owner": "5f0c", "offset": "7-0"})
    now = ledger(client)
    assert await now.acquire() is None
    assert await now.position() == "7-0"


async def test_a_holder_that_cannot_be_read_keeps_its_lease(client: Client) -> None:
    """L45: unknown is alive; the lease alone decides then."""
    assert await ledger(client).acquire() is None
    await client.hset(KEYS.state, "holder", "{")
    held = await ledger(client).acquire()
    assert held is not None
    assert held.holder is None
    with pytest.raises(OwnershipLost, match="is now owned by 1-"):
        await ledger(client).keep()


async def test_a_dead_owner_of_this_machine_is_replaced_at_once(
    client: Client, process: subprocess.Popen[bytes]
) -> None:
    """L45: a stopped process keeps the partition until its lease ends, a dead one does not."""
    holder = holder_of(process)
    assert await ledger(client, holder).acquire() is None
    successor = ledger(client)
    process.send_signal(signal.SIGSTOP)
    held = await successor.acquire()
    assert held is not None
    assert held.holder == holder
    process.kill()
    process.wait()
    assert await successor.acquire() is None
    assert (await state(client))["fence"] == b"2"


async def test_one_successor_of_a_dead_owner(
    client: Client, process: subprocess.Popen[bytes]
) -> None:
    """L45: of many that find the same owner gone, one owns the partition and the others wait."""
    assert await ledger(client, holder_of(process)).acquire() is None
    process.kill()
    process.wait()
    held = await asyncio.gather(*(ledger(client).acquire() for _ in range(8)))
    waiting = [one for one in held if isinstance(one, Held)]
    assert len(waiting) == 7
    assert (await state(client))["fence"] == b"2"
