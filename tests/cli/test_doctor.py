"""`doctor`: findings about this machine, and that the command runs from anywhere."""

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from quantum_ai_engine.cli import doctor
from quantum_ai_engine.cli.app import main
from quantum_ai_engine.cli.doctor import (
    Finding,
    bundle_findings,
    cores_finding,
    examine,
    kernel_finding,
    library_finding,
    redis_findings,
    torch_finding,
)
from quantum_ai_engine.config import AgentsSettings, RedisSettings, Settings
from quantum_ai_engine.daemon.client import Client
from quantum_ai_engine.daemon.embedded import EmbeddedRedisError

DECOY = "raise SystemExit('a module of the working directory was imported')\n"
DECOYS = ("agents", "config", "daemon", "engine", "events", "features", "risk", "supervisor")


def test_a_cuda_build_is_a_warning() -> None:
    """A torch built for GPUs is gigabytes that serving never uses: it is said, and not fatal."""
    finding = torch_finding(lambda: "12.8")
    assert finding.grade == "warning"
    assert "CUDA 12.8" in finding.text
    assert torch_finding(lambda: None).grade == "good"


def test_the_kernel_gives_its_bits() -> None:
    """L11: the kernel as compiled on this machine gives the bits that it gives everywhere."""
    assert kernel_finding().grade == "good"


@pytest.mark.parametrize(
    ("cores", "grade", "threads"), [(4, "good", 3), (8, "good", 3), (2, "warning", 1)]
)
def test_cores_of_the_budget(cores: int, grade: str, threads: int) -> None:
    """L46: the agents' threads are inside the budget, and a machine below it is a warning."""
    finding = cores_finding(3.5, cores)
    assert finding == (grade, f"{cores} cores, budget 3.5: {threads} agent threads")


def test_redis_that_answers(settings: Settings) -> None:
    """A Redis that answers and is fit is good, and what was looked at is said."""
    [finding] = redis_findings(settings)
    assert finding == (
        "good",
        f"Redis answers at {settings.redis.url}; right are its version, cluster, role, eviction, "
        "requests, clock, persistence, disk, replicas, memory, permission",
    )


@pytest.mark.parametrize(
    ("mode", "grades"),
    [
        ("normal", ["good", "bad", "warning"]),
        ("strict", ["good", "bad", "bad"]),
        ("warn", ["good", "warning", "warning"]),
    ],
)
async def test_redis_that_could_lose_data(
    settings: Settings, client: Client, mode: Literal["normal", "strict", "warn"], grades: list[str]
) -> None:
    """L42: bad is what `serve` would refuse by the same settings, the rest is a warning."""
    await client.config_set("maxmemory-policy", "allkeys-lru")
    await client.config_set("appendonly", "no")
    redis = msgspec.structs.replace(settings.redis, checks=mode)
    chosen = msgspec.structs.replace(settings, redis=redis)
    findings = await asyncio.to_thread(lambda: list(redis_findings(chosen)))
    assert [finding.grade for finding in findings] == grades
    assert "eviction" not in findings[0].text
    assert "set it to noeviction" in findings[1].text
    assert "appendonly no" in findings[2].text


async def test_redis_that_answers_but_tells_nothing(settings: Settings, client: Client) -> None:
    """That it may not be asked is a warning, not a failure."""
    await client.acl_setuser("default", enabled=True, commands=["-info", "-config"])
    findings = await asyncio.to_thread(lambda: list(redis_findings(settings)))
    assert [finding.grade for finding in findings] == ["good", "warning"]
    assert "INFO and CONFIG GET" in findings[1].text


async def test_redis_that_answers_with_an_error(settings: Settings, client: Client) -> None:
    """What it says is given: here one of our keys is something else."""
    await client.config_set("maxmemory", "100mb")
    await client.set("quantum:signals", "mine")
    [finding] = await asyncio.to_thread(lambda: list(redis_findings(settings)))
    assert finding.grade == "bad"
    assert "but not to what is asked (WRONGTYPE" in finding.text


def test_redis_that_does_not_answer(tmp_path: Path) -> None:
    """A Redis that does not answer is bad, in one sentence with its address."""
    url = f"unix://{tmp_path}/nobody.sock"
    [finding] = redis_findings(Settings(redis=RedisSettings(url=url)))
    assert finding.grade == "bad"
    assert f"no Redis answers at {url}" in finding.text


def test_a_redis_of_our_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `redis.url` there must be a server to start."""
    [finding] = redis_findings(Settings())
    assert finding.grade == "good"
    assert "will be started" in finding.text

    def find_none() -> Path:
        raise EmbeddedRedisError("no Redis server found")

    monkeypatch.setattr(doctor, "find_server", find_none)
    assert list(redis_findings(Settings())) == [("bad", "no Redis server found")]


def test_bundles_are_examined(bundles: Path, tmp_path: Path) -> None:
    """L24: each bundle is whole or bad by itself; that there is none is a warning."""

    def grades(directory: Path) -> list[str]:
        settings = Settings(agents=AgentsSettings(bundles=str(directory)))
        return [finding.grade for finding in bundle_findings(settings)]

    copy = Path(shutil.copytree(bundles, tmp_path / "bundles"))
    (copy / "gru" / "model.pt").write_bytes(b"")
    assert grades(bundles) == ["good", "good"]
    assert grades(copy) == ["bad", "good"]
    assert grades(tmp_path / "nowhere") == ["warning"]


def test_everything_is_examined(settings: Settings) -> None:
    """With Redis and whole bundles nothing is bad."""
    findings = list(examine(settings))
    assert len(findings) == 9
    assert {finding.grade for finding in findings} <= {"good", "warning"}


@pytest.mark.parametrize("name", ["xgboost", "lightgbm"])
def test_a_missing_library_of_trees_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agents would abstain: that is a warning with what to install."""
    assert library_finding(name).grade == "good"
    monkeypatch.setitem(sys.modules, name, None)
    finding = library_finding(name)
    assert finding.grade == "warning"
    assert "pip install 'quantum-ai-engine[trees]'" in finding.text


def test_what_to_install_is_printed_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name of an extra stands in brackets, which are no markup."""
    monkeypatch.setattr(doctor, "examine", lambda _: [Finding("warning", "install 'it[trees]'")])
    monkeypatch.setattr(sys, "argv", ["qae", "doctor"])
    with pytest.raises(SystemExit):
        main()
    assert "warning install 'it[trees]'" in capsys.readouterr().out


def test_bad_findings_exit_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine on which the engine would fail is exit code 1."""
    url, state = f"unix://{tmp_path}/nobody.sock", str(tmp_path)
    arguments = ["--set", f"redis.url={url}", "--set", f"engine.state_dir={state}"]
    monkeypatch.setattr(sys, "argv", ["qae", "doctor", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert "bad     no Redis answers" in capsys.readouterr().out


def test_runs_from_a_folder_of_decoys(tmp_path: Path) -> None:
    """L49: neither a `config` folder nor an `agents.py` in the working directory is imported."""
    for name in DECOYS:
        (tmp_path / f"{name}.py").write_text(DECOY)
    (tmp_path / "config.py").unlink()
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "__init__.py").write_text(DECOY)
    ended = subprocess.run(
        [sys.executable, "-m", "quantum_ai_engine", "doctor", "--warm"],
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("good    the feature kernel gives its golden bits")
