"""A torn end of the append-only file: no half of a transaction ever comes back."""

import os
import signal
from pathlib import Path

import pytest

from quantum_ai_engine.config import RedisSettings
from quantum_ai_engine.daemon.aof import MULTI, mend
from quantum_ai_engine.daemon.client import connect
from quantum_ai_engine.daemon.embedded import EmbeddedRedis, find_server

from ..faults.observed import has_rewritten
from .test_app import until


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


async def test_torn_and_killed_again_before_the_file_is_rewritten(tmp_path: Path) -> None:
    """L43: what is written after a torn end is not taken for the rest of it."""
    directory = tmp_path / "redis"
    whole, begins = await written(directory)
    path = directory / "appendonly.aof"
    path.write_bytes(whole[: (begins + len(whole)) // 2])
    for after in range(3):
        async with EmbeddedRedis(directory) as server:
            async with connect(RedisSettings(), server.url) as client:
                assert await client.get("before") == b"1"
                assert await client.xlen("signals") == 0
                await client.set("after", after)
            os.kill(server.pid, signal.SIGKILL)
            await server.wait()


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
