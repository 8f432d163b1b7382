"""The real process: started, killed, started again, stopped, and refused."""

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quantum_ai_engine.config import Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis
from quantum_ai_engine.events import Bar
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.proof.proxy import Proxy

from ..daemon.lives import disordered, told
from ..daemon.test_app import (
    BARS,
    KEYS,
    PATIENCE_S,
    feed,
    is_at_the_end,
    until,
    with_one_agent,
)

STOP_WITHIN_S = 5.0  # 2 in practice; the machine may be busy
BAD_CONFIGURATION, INTERRUPTED = 78, 130
Process = asyncio.subprocess.Process


@pytest.fixture
def settings(settings: Settings, tmp_path: Path) -> Settings:
    return with_one_agent(settings, tmp_path)


@pytest.fixture
def bars(history: BarTable) -> list[Bar]:
    return list(history.rows(0, BARS).bars())


class Manager:
    """A service manager that starts `serve` and listens to what it tells."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._address = directory / "notify"
        self._environ = os.environ | {
            "NOTIFY_SOCKET": str(self._address),
            "QAE_ENGINE__CLOCK": "bars",
            "QAE_ENGINE__BURN_IN_BARS": "0",
            "QAE_ENGINE__STATE_DIR": settings.engine.state_dir,
            "QAE_REDIS__URL": settings.redis.url,
            "QAE_AGENTS__BUNDLES": settings.agents.bundles,
            "QAE_INGEST__BATCH": "20",
            "QAE_RISK__SHORT_THRESHOLD": str(settings.risk.short_threshold),
            "QAE_RISK__EXIT_HYSTERESIS": str(settings.risk.exit_hysteresis),
            "QAE_RISK__BREAKERS": ",".join(settings.risk.breakers),
            "QAE_HTTP__PORT": "0",
        }
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self._address))
        self._socket.setblocking(False)

    def close(self) -> None:
        self._socket.close()

    @asynccontextmanager
    async def running(self, **environ: str) -> AsyncIterator[Process]:
        """The process, ready; killed at the end if it still runs."""
        async with self.started(**environ) as process:
            await self.hears(b"READY=1")
            yield process

    @asynccontextmanager
    async def started(self, **environ: str) -> AsyncIterator[Process]:
        """The process; killed at the end if it still runs."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "quantum_ai_engine", "serve"),
            env=self._environ | environ,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def hears(self, word: bytes) -> None:
        """Return when the process has said this."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(PATIENCE_S):
            while await loop.sock_recv(self._socket, 4096) != word:
                pass


@pytest.fixture
async def manager(tmp_path: Path, settings: Settings) -> AsyncIterator[Manager]:
    manager = Manager(tmp_path, settings)
    yield manager
    manager.close()


async def has_signals(client: Client, count: int) -> bool:
    """Whether so many signals are in the stream."""
    return bool(await client.xlen(KEYS.signals) >= count)


async def test_killed_in_the_middle_of_a_feed(
    manager: Manager, bundles: Path, client: Client, bars: list[Bar]
) -> None:
    """L43, L48: what is in the stream afterwards is what a run without deaths had written, in each
    field, with bars that are late, doubled and revised, and with snapshots in between.
    """
    everyone = {"QAE_AGENTS__BUNDLES": str(bundles), "QAE_ENGINE__SNAPSHOT_BARS": "7"}
    everyone |= {"QAE_RISK__SHORT_THRESHOLD": "0.46", "QAE_RISK__EXIT_HYSTERESIS": "0.01"}
    everyone |= {"QAE_RISK__DEAD_BAND": "0.005"}
    stream = disordered(bars, 5)
    async with manager.running(**everyone):
        await feed(client, stream)
        await until(lambda: is_at_the_end(client))
    uninterrupted = await told(client)
    await client.flushall()
    for upto, enough in ((250, 20), (500, 150)):
        async with manager.running(**everyone) as process:
            await feed(client, stream[upto - 250 : upto])
            await until(lambda enough=enough: has_signals(client, enough))
            process.kill()
            assert await process.wait() == -signal.SIGKILL
        assert not await is_at_the_end(client)
    async with manager.running(**everyone) as process:
        await feed(client, stream[500:])
        await until(lambda: is_at_the_end(client))
        process.terminate()
        began = time.monotonic()
        assert await process.wait() == 0
        assert time.monotonic() - began < STOP_WITHIN_S
    assert await told(client) == uninterrupted
    assert {signal["stance"] for signal in uninterrupted} >= {"flat", "short"}


async def test_a_second_sigterm_ends_at_once(
    manager: Manager, redis: EmbeddedRedis, client: Client, bars: list[Bar]
) -> None:
    """The first waits for the batch in hand, here one that cannot be committed."""
    async with Proxy(redis.socket) as proxy:
        proxy.withhold = b"EVALSHA"
        async with manager.running(QAE_REDIS__URL=proxy.url) as process:
            await feed(client, bars[:20])
            await until(lambda: proxy.withheld)
            process.terminate()
            await manager.hears(b"STOPPING=1")
            process.terminate()
            began = time.monotonic()
            assert await process.wait() == INTERRUPTED
            assert time.monotonic() - began < STOP_WITHIN_S


async def test_a_batch_that_cannot_be_committed_does_not_hold_up_the_stop(
    manager: Manager, redis: EmbeddedRedis, client: Client, bars: list[Bar]
) -> None:
    """After a short wait it is given up: nothing is lost, the next start reads it again."""
    async with Proxy(redis.socket) as proxy:
        proxy.withhold = b"EVALSHA"
        async with manager.running(QAE_REDIS__URL=proxy.url) as process:
            await feed(client, bars[:20])
            await until(lambda: proxy.withheld)
            process.terminate()
            began = time.monotonic()
            assert await process.wait() == 0
            assert time.monotonic() - began < STOP_WITHIN_S
    assert await client.hget(KEYS.state, "offset") is None


@pytest.mark.parametrize(
    ("environ", "words"),
    [
        ({"QAE_REDIS__URLS": "x"}, "redis.urls"),
        ({"QAE_INGEST__BATCH": "0"}, "ingest.batch"),
        ({"QAE_AGENTS__BUNDLES": "/nonexistent"}, "/nonexistent"),
    ],
)
async def test_bad_configuration_exits_78(
    manager: Manager, environ: dict[str, str], words: str
) -> None:
    """L48: one sentence that names the key, no traceback, and a code that is not restarted."""
    async with manager.started(**environ) as process:
        _, printed = await process.communicate()
    assert process.returncode == BAD_CONFIGURATION
    last = printed.decode().strip().splitlines()[-1]
    assert last.startswith("quantum-ai-engine: ")
    assert words in last
    assert "Traceback" not in printed.decode()


async def test_a_server_that_evicts_exits_78(manager: Manager, client: Client) -> None:
    """L42, L48: found after the start, in a group of tasks, it is still bad configuration."""
    await client.config_set("maxmemory-policy", "allkeys-lru")
    async with manager.started() as process:
        _, printed = await process.communicate()
    assert process.returncode == BAD_CONFIGURATION
    assert "set redis.checks = warn" in printed.decode()
    assert "Traceback" not in printed.decode()


async def test_a_lost_partition_exits_1_where_nobody_shall_wait(
    manager: Manager, client: Client, bars: list[Bar]
) -> None:
    """L45, L47: the process ends non-zero, with the reason."""
    async with manager.running(QAE_REDIS__STANDBY="refuse") as process:
        await until(lambda: client.hget(KEYS.state, "owner"))
        seconds, _ = await client.time()
        lease = {"owner": "9-somebody", "lease_until": seconds * 1000 + 60_000, "holder": "{}"}
        await client.hset(KEYS.state, mapping=lease)
        await feed(client, bars[:1])
        _, printed = await process.communicate()
    assert process.returncode == 1
    last = printed.decode().strip().splitlines()[-1]
    assert "owned by" in last
    assert "Traceback" not in printed.decode()


async def test_one_package_from_any_directory(
    manager: Manager, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L49: it starts in a directory that holds packages of its rooms' names."""
    for name in ("config", "daemon", "agents"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise ImportError('the wrong one')")
    monkeypatch.chdir(tmp_path)
    async with manager.running() as process:
        process.send_signal(signal.SIGINT)
        assert await process.wait() == 0
