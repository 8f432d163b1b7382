"""Tests of the pulse: the watchdog is fed by completed work, and by nothing else."""

import asyncio
import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.agents.budget import CpuBudget
from quantum_ai_engine.agents.lane import Lane
from quantum_ai_engine.agents.pool import AgentPool, Request
from quantum_ai_engine.config import RedisSettings, Settings
from quantum_ai_engine.daemon import pulse
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.commit import HEARTBEAT_S
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.daemon.keys import Keys
from quantum_ai_engine.daemon.killswitch import KillSwitch
from quantum_ai_engine.daemon.metrics import Metrics
from quantum_ai_engine.daemon.notify import Notifier
from quantum_ai_engine.daemon.ownership import Entrance
from quantum_ai_engine.daemon.pulse import Heart, Watchdog, measure_process
from quantum_ai_engine.daemon.rounds import Rounds, Shared
from quantum_ai_engine.daemon.status import Status
from quantum_ai_engine.engine import Engine, Identity
from quantum_ai_engine.features.schema import SETS, FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.features.store import Windows
from quantum_ai_engine.market.table import BarTable

from .test_app import BARS, KEYS, PATIENCE_S, changed, feed, serving, until
from .test_feed import bar

LIMIT_S = 0.5
GRU = SETS["gru9"]


class Waiting:
    """An agent that answers as soon as it may."""

    name, bundle, interval, horizon_bars, clamped = "waiting", "0", "1m", 5, 0
    feature_set: FeatureSet = GRU
    unavailable: str | None = None
    past = Past()

    def __init__(self) -> None:
        self.may_answer = threading.Event()
        self.may_answer.set()

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def predict(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        assert self.may_answer.wait(20)
        return np.full(len(windows), 0.5)


@pytest.fixture
def agent() -> Iterator[Waiting]:
    agent = Waiting()
    yield agent
    agent.may_answer.set()


@pytest.fixture
def pool(agent: Waiting) -> Iterator[AgentPool]:
    pool = AgentPool([agent], 1, 0.05, lambda *_: None, lambda *_: None)
    yield pool
    agent.may_answer.set()
    pool.close()


@pytest.fixture
def status(agent: Waiting) -> Status:
    return Status.of([agent])


async def test_work_feeds_the_watchdog(pool: AgentPool, status: Status) -> None:
    """L06: rounds that turn, a loop in time and a batch through a worker."""
    watchdog = Watchdog(pool, status, LIMIT_S)
    for _ in range(3):
        status.partitions[0].turns += 1
        assert await watchdog.check() is None


async def test_rounds_that_do_not_turn_starve_it(pool: AgentPool, status: Status) -> None:
    """L06: a loop that hangs is not alive, however well everything else answers."""
    watchdog = Watchdog(pool, status, LIMIT_S)
    assert await watchdog.check() is None
    assert await watchdog.check() == "the round loop has not turned since the last check"
    status.partitions[0].turns += 1
    assert await watchdog.check() is None


async def test_a_late_loop_starves_it(pool: AgentPool, status: Status) -> None:
    """L46: the loop's lag is measured, and too much of it counts as death."""
    status.loop_lag_s = 0.75
    assert await Watchdog(pool, status, LIMIT_S).check() == "the event loop was 0.8 s late"


async def test_a_stuck_worker_starves_it(agent: Waiting, pool: AgentPool, status: Status) -> None:
    """L46: a batch that never ends is seen, though its round went on at the deadline."""
    agent.may_answer.clear()
    window = Windows.of(np.zeros((1, GRU.window, len(GRU.columns))))
    [answer] = await pool.predict([Request(agent, window)])
    assert answer.reasons[0] is not None
    await until(lambda: pool.longest_running_s() > 0.1)
    complaint = await Watchdog(pool, status, 0.1).check()
    assert complaint is not None
    assert complaint.startswith("a worker has been busy with one batch for 0.")
    agent.may_answer.set()
    await until(lambda: pool.busy_workers == 0)
    status.partitions[0].turns += 1
    assert await Watchdog(pool, status, LIMIT_S).check() is None


async def test_a_probe_that_does_not_come_through_starves_it(
    agent: Waiting, pool: AgentPool, status: Status
) -> None:
    """L06: an idle pool must prove that it can work."""
    agent.may_answer.clear()
    complaint = await Watchdog(pool, status, 0.05).check()
    assert complaint == "a probe through the pool took more than 0.1 s"


async def test_only_good_checks_are_told(pool: AgentPool, status: Status) -> None:
    """L06: at each bad check the complaint goes to the log, and nothing to the manager."""

    class Told(Notifier):
        """Counts what it is told."""

        count = 0

        def watchdog(self) -> bool:
            self.count += 1
            return True

    told, complaints = Told(None), list[str]()
    run = asyncio.create_task(Watchdog(pool, status, LIMIT_S).run(told, 0.001, complaints.append))
    await until(lambda: complaints)
    assert told.count == 1
    status.partitions[0].turns += 1
    await until(lambda: told.count == 2)
    await ended(run)


async def test_a_blocked_loop_is_seen(status: Status) -> None:
    """L46: the lag is what the loop really was late by."""
    metrics = Metrics("1", "a", "b")
    measuring = asyncio.create_task(
        measure_process(status, metrics, CpuBudget(1.5, 1, 2, 5.0), 0.05)
    )
    await asyncio.sleep(0)
    time.sleep(0.4)  # noqa: ASYNC251 (this is the blocking call that must be seen)
    await until(lambda: status.loop_lag_s > 0.3)
    assert metrics.registry.get_sample_value("qae_event_loop_lag_seconds") == status.loop_lag_s
    await until(lambda: status.loop_lag_s < 0.3)
    await ended(measuring)


async def ended(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait for its end."""
    while not task.done():
        task.cancel()
        await asyncio.wait({task}, timeout=0.05)
    assert task.cancelled()


@contextlib.asynccontextmanager
async def beating(heart: Heart) -> AsyncIterator[None]:
    """The heart at work."""
    task = asyncio.create_task(heart.run(0.001))
    yield
    assert not task.done()
    await ended(task)


@pytest.fixture
def quiet() -> Settings:
    """Settings of a partition whose bars are kept for an hour."""
    return changed(Settings(), "redis", bars_retention_hours=1.0)


def rounds_of(client: Client, settings: Settings, pool: AgentPool, status: Status) -> Rounds:
    """The rounds of a partition, which are not running."""
    calendars, identity = Calendars({}), Identity("live", "0", "0")
    shared = Shared(
        settings,
        lambda: Engine(settings, pool, identity, calendars),
        Entrance(client, settings),
        CpuBudget(1.5, 1, 2, 5.0),
        Lane(pool),
        KillSwitch(Path("/nowhere")),
        status,
        Metrics("1", "a", "b"),
    )
    return Rounds(shared, client, KEYS)


@pytest.fixture
def rounds(client: Client, quiet: Settings, pool: AgentPool, status: Status) -> Rounds:
    return rounds_of(client, quiet, pool, status)


@pytest.fixture
def heart(rounds: Rounds, quiet: Settings, status: Status) -> Heart:
    return Heart(rounds, status)


async def test_who_does_not_own_the_partition_is_silent(client: Client, heart: Heart) -> None:
    """L06, L45: neither before the first recovery, nor as a standby."""
    await heart.beat()
    assert await client.get(KEYS.heartbeat) is None
    assert not await client.exists(KEYS.state)


async def test_while_the_state_is_rebuilt_the_partition_stays_ours(
    client: Client, rounds: Rounds, heart: Heart
) -> None:
    """L06, L45: that may take longer than a lease; there is nothing to be proud of yet."""
    assert await rounds.ownership.take() is None
    await client.hset(KEYS.state, "lease_until", 1)
    await heart.beat()
    assert int(await client.hget(KEYS.state, "lease_until")) > 1
    assert await client.get(KEYS.heartbeat) is None


async def test_lag_is_told(client: Client, rounds: Rounds, heart: Heart, status: Status) -> None:
    """L06, L40: how far the position is behind the newest entry, in time and in entries."""
    await feed(client, [bar(1), bar(2)])
    [(_, _), (newest, _)] = await client.xrange(KEYS.bars)
    await rounds.ownership.take()
    rounds.status.position = f"{int(newest.partition(b'-')[0]) - 1_500}-0"
    await heart.beat()
    assert (status.lag_ms, status.lag_bars) == (1_500, 2)
    heard = json.loads(await client.get(KEYS.heartbeat))
    assert (heard["lag_ms"], heard["lag_bars"]) == (1_500, 2)
    rounds.status.position = newest.decode()
    await heart.beat()
    assert (status.lag_ms, status.lag_bars) == (0, 0)


async def test_who_is_behind_calls_nothing_stale_that_is_yet_to_be_read(
    client: Client, rounds: Rounds, heart: Heart
) -> None:
    """L07: after a long outage the state is old, but the bars since are in the stream."""
    for one in (bar(1), bar(100)):
        await client.xadd(KEYS.bars, {"b": b""}, id=f"{one.close_time}-0")
    await rounds.ownership.take()
    rounds.engine.learn([bar(1)])
    rounds.status.position = f"{bar(1).close_time}-0"
    async with client.pubsub() as channel:
        await channel.psubscribe(KEYS.signal_channels)
        await heart.beat()
        assert json.loads(await client.get(KEYS.heartbeat))["stale"] == 0
        rounds.status.position = f"{bar(100).close_time}-0"  # and there was none of this series
        for _ in range(3):
            await heart.beat()
        assert json.loads(await client.get(KEYS.heartbeat))["stale"] == 1
        await client.publish(KEYS.signal_channel("end"), "end")
        heard = []
        while not heard or heard[-1] != b"end":
            message = await channel.get_message(ignore_subscribe_messages=True, timeout=1.0)
            heard += [message["data"]] if message else []
    assert [b"stale" in text for text in heard] == [True, False]


async def test_the_report_shows_what_the_hearts_found(status: Status) -> None:
    """L09: lag, and series that have stopped, of all partitions."""
    metrics, one = Metrics("1", "a", "b"), status.partitions[0]
    one.lag_ms, one.lag_bars, one.stale = 1_500, 2, ("BTCUSDT 1m",)
    reporting = asyncio.create_task(pulse.report(status, metrics, Notifier(None), 0.001))
    value = metrics.registry.get_sample_value
    await until(lambda: value("qae_lag_seconds") == 1.5)
    assert (value("qae_lag_bars"), value("qae_stale_series")) == (2, 1)
    await ended(reporting)


@pytest.mark.parametrize(("saved", "oldest"), [(None, "500-0"), ("300-0", "300-0")])
async def test_the_heart_trims_the_bar_stream(
    client: Client, rounds: Rounds, heart: Heart, saved: str | None, oldest: str
) -> None:
    """L42, L43: the stream that others write to is bounded by time; what a restart needs stays."""
    async with client.pipeline(transaction=False) as pipe:
        for i in range(1, 801):
            pipe.xadd(KEYS.bars, {"b": b""}, id=f"{i}-0")
        await pipe.execute()
    await rounds.ownership.take()
    rounds.snapshots.begin(saved, 1)
    rounds.status.position = "500-0"
    async with beating(heart):
        await until(lambda: is_shorter(client, 700))
    assert len(await client.xrange(KEYS.bars, oldest, "800-0")) == 801 - int(oldest[:3])


async def is_shorter(client: Client, length: int) -> bool:
    """Whether the bar stream is shorter than this."""
    return bool(await client.xlen(KEYS.bars) < length)


async def test_the_heart_outlives_redis(
    quiet: Settings, pool: AgentPool, status: Status, tmp_path: Path
) -> None:
    """L47: while Redis is away it keeps trying, and beats again when it is back."""
    later = EmbeddedRedis(tmp_path / "later")
    async with connect(RedisSettings(), later.url) as client:
        rounds = rounds_of(client, quiet, pool, status)
        async with beating(Heart(rounds, status)):
            async with later:
                assert await rounds.ownership.take() is None
                rounds.status.position = "1-0"
                await until(lambda: has_beaten(later))
            async with later, connect(RedisSettings(), later.url) as own:
                await own.delete(KEYS.heartbeat)
                await until(lambda: has_beaten(later))


async def has_beaten(server: EmbeddedRedis) -> bool:
    """Whether there is a heartbeat."""
    async with connect(RedisSettings(), server.url) as client:
        return bool(await client.exists(Keys("quantum").heartbeat))


def test_the_heartbeat_outlives_a_few_beats() -> None:
    """L06: one missed beat is not death, ten seconds of silence are."""
    assert 3 * pulse.PERIOD_S <= HEARTBEAT_S <= 10


async def test_the_heartbeat_carries_work(
    settings: Settings, client: Client, history: BarTable
) -> None:
    """L05, L06: last bar, counts and lag, on a key that expires and on a channel."""
    bars = list(history.rows(0, BARS).bars())
    async with client.pubsub() as channel, serving(settings) as daemon:
        await channel.subscribe(KEYS.heartbeat_channel)
        await channel.get_message(timeout=5.0)
        await feed(client, bars)
        await until(lambda: daemon.status.seen == len(bars))
        heard: dict[str, Any] = {}
        async with asyncio.timeout(PATIENCE_S):
            while heard.get("bars") != len(bars) or heard["lag_ms"]:  # it is measured first
                message = await channel.get_message(timeout=5.0)
                heard = json.loads(message["data"]) if message else {}
        kept = json.loads(await client.get(KEYS.heartbeat))
        assert 0 < await client.ttl(KEYS.heartbeat) <= 10
    assert kept.keys() == heard.keys()
    assert heard["last_bar_close_time"] == max(bar.close_time for bar in bars)
    assert heard["signals"] == await client.xlen(KEYS.signals)
    assert heard["lag_ms"] == 0
    assert heard["effective_votes"] > 1.0
    assert heard["loop_lag_ms"] >= 0.0


async def test_the_service_manager_is_told(
    settings: Settings, client: Client, tmp_path: Path
) -> None:
    """Ready once, when Redis has been looked at; a line with numbers; stopping at the end."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        async with serving(settings, Notifier(str(tmp_path / "notify"))) as daemon:
            await until(lambda: daemon.status.ready)
        told = []
        with contextlib.suppress(BlockingIOError):
            while True:
                told.append(manager.recv(4096).decode())
    assert told.count("READY=1") == 1
    assert told[-1] == "STOPPING=1"
    assert any(line.startswith("STATUS=") and "0 bars" in line for line in told)


async def test_the_watchdog_is_fed_by_work(
    settings: Settings, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L06: with a real daemon that turns, the service manager hears of it."""
    monkeypatch.setenv("WATCHDOG_USEC", "200000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    quick = changed(settings, "redis", block_ms=5)
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.setblocking(False)
        async with serving(quick, Notifier(str(tmp_path / "notify"))):
            async with asyncio.timeout(PATIENCE_S):
                while await loop.sock_recv(manager, 4096) != b"WATCHDOG=1":
                    pass
