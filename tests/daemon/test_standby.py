"""Tests of a second daemon of the same partition: it waits, takes over, and gives way."""

import asyncio
import contextlib
import os
import signal
import socket
from pathlib import Path

import pytest
from aiohttp import ClientSession

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.commit import OwnershipLost
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable

from ..faults.test_kill import Manager
from .lives import at_the_end, brain_of, cut_off, nervous, state_of, told, uninterrupted
from .test_app import (
    KEYS,
    PATIENCE_S,
    changed,
    ends_with,
    fails_to_serve,
    feed,
    serving,
    until,
    with_one_agent,
)

BARS = 300
HALF = BARS // 2


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return nervous(with_one_agent(settings, tmp_path))


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


async def test_a_standby_says_what_it_is(
    settings: Settings,
    client: Client,
    bars: list[Bar],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L05, L06, L10, L45: not ready, naming the owner; started and alive all the same."""
    async with serving(settings) as first:
        await until(lambda: first.status.ready)
        await feed(client, bars[:HALF])
        await at_the_end(first, client)
        monkeypatch.setenv("WATCHDOG_USEC", "600000")
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
            manager.bind(str(tmp_path / "notify"))
            manager.setblocking(False)
            async with (
                serving(settings, Notifier(str(tmp_path / "notify"))) as second,
                ClientSession(second.http_address) as http,
            ):
                await hears(manager, b"READY=1")
                await until(lambda: second.status.state() == "standby")
                owner = f"partition 0 is owned by process {os.getpid()} on {os.uname().nodename}"
                async with http.get("/health/ready") as answer:
                    assert answer.status == 503
                    assert await answer.json() == {"ready": False, "reason": owner}
                async with http.post("/predict", json={"symbol": "BTCUSDT"}) as answer:
                    assert answer.status == 503
                    assert owner in (await answer.json())["error"]
                value = second.metrics.registry.get_sample_value
                assert value("qae_owner", {"partition": "0"}) == 0
                assert value("qae_ready") == 0
                for _ in range(2):
                    await hears(manager, b"WATCHDOG=1")
                first.stop.set()
                await until(lambda: second.status.ready)
                assert value("qae_owner", {"partition": "0"}) == 1
                async with http.get("/health/ready") as answer:
                    assert answer.status == 200
                async with http.post("/predict", json={"symbol": "BTCUSDT"}) as answer:
                    assert answer.status == 200


async def hears(manager: socket.socket, word: bytes) -> None:
    """Return when the service manager has been told this."""
    async with asyncio.timeout(PATIENCE_S):
        while await asyncio.get_running_loop().sock_recv(manager, 4096) != word:
            pass


async def test_a_standby_goes_on_where_the_owner_was_cut_off(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L43, L45: state and signals are those of one that was never cut off."""
    signals, state = await uninterrupted(settings, client, bars)
    async with contextlib.AsyncExitStack() as stack:
        async with cut_off(settings, client) as first:
            await until(lambda: first.status.ready)
            second = await stack.enter_async_context(serving(settings))
            await until(lambda: second.status.state() == "standby")
            await feed(client, bars[:HALF])
            await until(lambda: first.status.seen >= HALF // 2)
        await feed(client, bars[HALF:])
        await at_the_end(second, client)
        assert state_of(second) == state
    assert await told(client) == signals


async def test_where_nobody_shall_wait_the_second_is_refused(
    settings: Settings, client: Client
) -> None:
    """L45: by setting, with one sentence that says who it is and what to do."""
    async with serving(settings) as first:
        await until(lambda: first.status.ready)
        with ends_with(OwnershipLost, "stop it, or set redis.standby = wait"):
            await fails_to_serve(changed(settings, "redis", standby="refuse"))
        assert first.status.ready


@pytest.fixture
def patient(settings: Settings) -> Settings:
    """A lease so long that no test waits for its end."""
    return changed(settings, "redis", lease_ms=600_000)


async def test_a_killed_process_is_followed_at_once(
    patient: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L45: on one machine nobody waits for the lease of the dead."""
    with contextlib.closing(Manager(tmp_path, patient)) as manager:
        async with manager.running(QAE_REDIS__LEASE_MS="600000") as process:
            await until(lambda: client.hget(KEYS.state, "owner"))
            async with serving(patient) as second:
                await until(lambda: second.status.state() == "standby")
                await feed(client, bars[:HALF])
                process.kill()
                await feed(client, bars[HALF:])
                await until(lambda: second.status.ready)
                await at_the_end(second, client)
    ids = [one["id"] for one in await told(client)]
    assert len(ids) == len(set(ids)) > 0


async def test_a_stopped_process_is_followed_when_its_lease_ends_and_then_stands_by(
    settings: Settings, client: Client, bars: list[Bar], tmp_path: Path
) -> None:
    """L06, L45: the zombie that wakes up writes nothing and says nothing; it waits for its turn."""
    signals, state = await uninterrupted(settings, client, bars)
    short = changed(settings, "redis", lease_ms=1_000)
    with contextlib.closing(Manager(tmp_path, settings)) as manager:
        async with manager.running(QAE_REDIS__LEASE_MS="1000") as zombie:
            await until(lambda: client.hget(KEYS.state, "owner"))
            async with serving(short) as second:
                await until(lambda: second.status.state() == "standby")
                await feed(client, bars[:HALF])
                await until(lambda: client.exists(KEYS.heartbeat))
                zombie.send_signal(signal.SIGSTOP)
                await until(lambda: second.status.ready)
                await client.delete(KEYS.heartbeat)
                await feed(client, bars[HALF:])
                await at_the_end(second, client)
                assert state_of(second) == state
                written = await client.xinfo_stream(KEYS.signals)
                zombie.send_signal(signal.SIGCONT)
                await hears_log(zombie, "standby")
                assert await client.xinfo_stream(KEYS.signals) == written
                assert second.status.ready
            await until(lambda: is_owned_by(client, zombie.pid))
    ids = [one["id"] for one in await told(client)]
    assert ids == [one["id"] for one in signals]


async def hears_log(process: asyncio.subprocess.Process, event: str) -> None:
    """Return when a process has logged an event."""
    assert process.stderr is not None
    async with asyncio.timeout(PATIENCE_S):
        while f'"{event}"'.encode() not in await process.stderr.readline():
            pass


async def is_owned_by(client: Client, pid: int) -> bool:
    return f'"pid":{pid},'.encode() in (await client.hget(KEYS.state, "holder") or b"")


async def test_a_standby_leaves_an_emptied_redis_to_who_knows_the_state(
    settings: Settings, client: Client, bars: list[Bar]
) -> None:
    """L43, L45: the owner has it in memory, and what it was told; the standby has nothing."""
    async with serving(settings) as first:
        await until(lambda: first.status.ready)
        await feed(client, bars[:HALF])
        await at_the_end(first, client)
        await client.xadd(KEYS.control, {"command": "halt"})
        await until(lambda: brain_of(first) == ("HALTED", ("manual",)))
        async with serving(settings) as second:
            await until(lambda: second.status.state() == "standby")
            await client.flushall()
            await until(lambda: client.hexists(KEYS.state, "snapshot"))
            assert first.rounds[0].ownership.is_ours
            assert brain_of(first) == ("HALTED", ("manual",))
            assert len(first.rounds[0].engine.state.names()) > 0
            assert second.status.state() == "standby"
