"""Engines of a fault run: heard, ended by their id, and never left behind."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.proof.process import EngineProcess, environ_of

PATIENCE_S = 30.0
PARENT = """
import asyncio, os, sys
from quantum_ai_engine.proof.process import EngineProcess

async def main():
    engine = EngineProcess(dict(os.environ))
    await engine.start()
    print(engine.pid, flush=True)
    await engine.ended()

asyncio.run(main())
"""


def lives(pid: int) -> bool:
    """Whether the process exists, and is no corpse that waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def waiting(tmp_path: Path, **settings: object) -> dict[str, str]:
    """The environment of an engine that waits for a Redis that is not there."""
    url = f"unix://{tmp_path}/nobody.sock"
    return environ_of({"redis.url": url, "http.enabled": "false", **settings}, os.environ)


async def test_bad_configuration_is_heard(tmp_path: Path) -> None:
    """L48: its status and its last words tell why an engine did not serve."""
    engine = EngineProcess(waiting(tmp_path, **{"ingest.batch": 0}))
    await engine.start()
    assert await engine.ended() == 78
    assert "ingest.batch" in engine.last_words
    assert engine.ready is None
    assert not engine.lost_its_place


async def test_it_can_be_stopped_even_when_it_stands_still(agents: Path, tmp_path: Path) -> None:
    """A stopped process is woken up first: nothing is left behind."""
    environ = waiting(tmp_path, **{"agents.bundles": agents, "log.format": "json"})
    engine = EngineProcess(environ)
    await engine.start()
    async with asyncio.timeout(PATIENCE_S):
        while engine.ready is None:
            await asyncio.sleep(0.01)
    assert engine.ready.at_ms >= engine.spawned_ms
    assert await engine.stop() == 0
    assert engine.status == 0
    await engine.kill()  # of one that has ended: nothing


async def test_engines_end_with_their_parent(agents: Path, tmp_path: Path) -> None:
    """L45: a fault run that is killed leaves no engine behind that would go on writing."""
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT),
        env=waiting(tmp_path, **{"agents.bundles": agents}),
        stdout=asyncio.subprocess.PIPE,
    )
    assert parent.stdout is not None
    pid = int(await parent.stdout.readline())
    assert lives(pid)
    parent.kill()
    await parent.wait()
    async with asyncio.timeout(PATIENCE_S):
        while lives(pid):
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("name", ["NOTIFY_SOCKET", "QAE_REDIS__PREFIX", "CREDENTIALS_DIRECTORY"])
def test_nothing_of_ours_reaches_them(name: str) -> None:
    """What this process was given, a setting or a service manager's, is not for the children."""
    assert environ_of({}, {name: "x", "PATH": "/bin"}) == {"PATH": "/bin"}
