"""A torn end of the append-only file: no half of a transaction ever comes back."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.aof import MULTI, mend
from quantum_ai_engine.daemon.client import Client, connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis, find_server

from ..faults.observed import has_rewritten
from .test_app import answers, until


async def written(directory: Path) -> tuple[bytes, int]:
    """The file of a server that was killed after a transaction, and where that begins."""
    async with EmbeddedRedis(directory) as server:
        async with connect(RedisSettings(), server.url) as client:
            await until(lambda: has_rewritten(client))
            await client.set("before", 1)
            await client.eval(
                "for i = 1, 3 do redis.call('XADD', KEYS[1], '*', 'i', i) end", 1, "signals"
            )
            # A write may wait for an fsync that is under way.
            await until(lambda: b"EXEC" in (directory / "appendonly.aof").read_bytes())
        os.kill(server.pid, signal.SIGKILL)
        await server.wait()
    whole = (directory / "appendonly.aof").read_bytes()
    return whole, whole.rindex(MULTI)


async def test_wherever_a_transaction_was_torn_it_is_gone_whole(tmp_path: Path) -> None:
    """L43: cut at every byte of it, what came before stays."""
    whole, begins = await written(tmp_path / "redis")
    path, server = tmp_path / "torn" / "appendonly.aof", find_server()
    path.parent.mkdir()
    path.write_bytes(whole)
    assert mend(server, path.parent) == 0
    for end in range(begins + len(MULTI), len(whole), 3):
        path.write_bytes(whole[:end])
        assert mend(server, path.parent) == end - begins
        assert path.read_bytes() == whole[:begins]


@asynccontextmanager
async def bare(directory: Path) -> AsyncIterator[Client]:
    """A server as it is, that neither mends nor rewrites its file; killed at the end."""
    words = ["--port", "0", "--unixsocket", "s", "--dir", str(directory), "--appendonly", "yes"]
    server = await asyncio.create_subprocess_exec(
        find_server(), *words, stdout=asyncio.subprocess.DEVNULL, cwd=directory
    )
    try:
        async with connect(RedisSettings(), f"unix://{directory / 's'}") as client:
            await until(lambda: answers(client))
            yield client
    finally:
        server.kill()
        await server.wait()


async def test_torn_and_killed_again_before_the_file_is_rewritten(tmp_path: Path) -> None:
    """L43: what is written after a torn end is not taken for the rest of it.

    Without mending, two of the three entries are back here after the second start (Redis 6.2).
    """
    directory = tmp_path / "redis"
    whole, begins = await written(directory)
    path = directory / "appendonly.aof"
    path.write_bytes(whole[:-60])
    assert mend(find_server(), directory) == len(whole) - 60 - begins
    for starts in range(1, 4):
        async with bare(directory) as client:
            assert await client.get("before") == b"1"
            assert await client.xlen("signals") == 0
            await client.eval("redis.call('INCR', 'n') redis.call('INCR', 'm')", 0)
            await until(lambda n=starts: path.read_bytes().upper().count(b"EXEC") >= n)
    async with bare(directory) as client:
        assert await client.get("n") == b"3"


@pytest.mark.parametrize(
    "content", [None, b"", b"no such format", MULTI + b"*1\r\n$3\r\nabX\r\nno"]
)
def test_what_is_no_torn_transaction_is_left_alone(tmp_path: Path, content: bytes | None) -> None:
    """L41: what is damaged otherwise is not thrown away; the server says what it is."""
    path = tmp_path / "appendonly.aof"
    if content is not None:
        path.write_bytes(content)
    assert mend(find_server(), tmp_path) == 0
    assert (path.read_bytes() if content is not None else None) == content
