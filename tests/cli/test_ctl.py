"""`qae ctl` as a user calls it."""

import subprocess
import sys

from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedis


def ctl(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "quantum_ai_engine", "ctl", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


async def test_a_command_is_in_every_partitions_stream(
    redis: EmbeddedRedis, client: Client
) -> None:
    """L50: one control stream a partition, and one way into it."""
    for partition in range(2):
        await client.set(f"quantum:{{{partition}}}:heartbeat", "{}")
    done = ctl("halt", "--set", f"redis.url={redis.url}", "--set", "redis.partitions=2")
    assert (done.returncode, done.stderr) == (0, "")
    for partition in range(2):
        [(_, fields)] = await client.xrange(f"quantum:{{{partition}}}:control")
        assert fields == {b"command": b"halt"}


def test_a_command_that_nobody_hears_is_no_success(redis: EmbeddedRedis) -> None:
    """L45: a halt in the wrong place halts nobody, and that is said."""
    done = ctl("halt", "--set", f"redis.url={redis.url}")
    assert done.returncode == 1
    assert "no engine has a heartbeat in partition 0" in done.stderr


def test_without_redis_it_says_so() -> None:
    done = ctl("resume", "--set", "redis.url=redis://127.0.0.1:1")
    assert done.returncode == 1
    assert "no Redis answers at redis://127.0.0.1:1" in done.stderr
    assert "Traceback" not in done.stderr
