"""What the sandbox leaves the engine: its password, its kernels, its threads."""

import json
from pathlib import Path

from .conftest import Step
from .engine import NAME, PYTHON, Installed

REPORT = """
import json
from quantum_ai_engine.agents.budget import bound_loaded, bound_threads
bound_threads()
import torch
bound_loaded()
from torch.backends.cpu import get_cpu_capability
torch.randn(512, 512) @ torch.randn(512, 512)
print("REPORT", json.dumps({
    "capability": get_cpu_capability(),
    "threads": torch.get_num_threads(),
    "openmp": torch.backends.openmp.is_available(),
    "mkldnn": torch.backends.mkldnn.is_available(),
    "running": len(__import__("os").listdir("/proc/self/task")),
}))
"""


def has(flag: str) -> bool:
    """Whether this machine's processor has it."""
    return f" {flag} " in Path("/proc/cpuinfo").read_text().replace("\n", " ")


def test_the_password_of_redis_is_a_credential(engine: Installed) -> None:
    """A Redis with a password: refused without the credential, served with it, told to nobody."""
    redis = ("redis-cli", "-a", "open sesame", "--no-auth-warning")
    engine.machine.run("redis-cli", "CONFIG", "SET", "requirepass", "open sesame")
    try:
        engine.machine.run("systemctl", "start", NAME, status=1)
        assert engine.machine.show("ExecMainStatus") == {"ExecMainStatus": "78"}
        engine.machine.ask("systemctl", "reset-failed", NAME)
        engine.machine.write(f"/etc/{NAME}/redis-password", "open sesame\n")
        engine.machine.run("chmod", "600", f"/etc/{NAME}/redis-password")
        engine.start()
        assert engine.machine.run(*redis, "EXISTS", "quantum:state").strip() == "1"
        environ = engine.machine.run("cat", f"/proc/{engine.main_pid()}/environ")
        assert "sesame" not in environ
    finally:
        engine.machine.run(*redis, "CONFIG", "SET", "requirepass", "")


def test_torch_has_its_kernels_and_one_thread(engine: Installed, step: Step) -> None:
    """Under the unit's sandbox torch sees AVX-512 where the processor has it, and starts nothing.

    The very unit runs a report in the place of the engine.
    """
    engine.machine.write("/opt/report.py", REPORT)
    engine.drop_in(
        "[Service]\nType=oneshot\nWatchdogSec=0\nRestart=no\nExecStartPre=\nExecStart=\n"
        f"ExecStart={PYTHON} /opt/report.py\n"
    )
    with step("torch's report under the sandbox"):
        engine.start()
    (line,) = [
        str(entry["MESSAGE"])
        for entry in engine.machine.journal()[-20:]
        if str(entry["MESSAGE"]).startswith("REPORT")
    ]
    report = json.loads(line.removeprefix("REPORT"))
    outside = json.loads(engine.machine.run(PYTHON, "/opt/report.py").removeprefix("REPORT"))
    assert report == outside
    if has("avx512f") and has("avx512vl") and has("avx512dq") and has("avx512bw"):
        assert report["capability"] == "AVX512"
    assert report["threads"] == 1
    assert report["mkldnn"]


def test_networks_serve_with_the_threads_that_are_meant(engine: Installed, step: Step) -> None:
    """A network answers from the pool's workers; no library starts threads beside them."""
    engine.configure(bundles="networks")
    with step("start with a network, until READY"):
        engine.start()
    idle = _threads(engine)
    engine.feed(3000)
    engine.caught_up()
    assert engine.signals()[-1]["votes"][0]["agent"] == "gru"
    (ready,) = engine.events("ready", f"_PID={engine.main_pid()}")
    # The loop, the log's writer, the loop's helpers for files, and the workers.
    assert _threads(engine) <= idle + int(ready["WORKERS"]) + 2


def test_the_exposure_is_what_was_promised(engine: Installed) -> None:
    """systemd itself rates the unit as it is installed."""
    text = engine.machine.run("systemd-analyze", "security", "--no-pager", f"{NAME}.service")
    assert float(text.splitlines()[-1].split(":")[1].split()[0]) <= 1.0


def test_the_engine_can_write_nowhere_else(engine: Installed) -> None:
    """Its state is its own, and private."""
    engine.start()
    state = f"/var/lib/private/{NAME}"
    assert engine.machine.run("stat", "-c", "%a", state).strip() == "700"
    mounts = engine.machine.run("cat", f"/proc/{engine.main_pid()}/mountinfo").splitlines()
    writable = {line.split()[4] for line in mounts if line.split()[5].startswith("rw")}
    assert state in writable
    assert not {"/", "/etc", "/opt", "/usr", "/var"} & writable


def test_what_is_left_off_would_break_it(engine: Installed) -> None:
    """The sandbox is not stricter for a reason: compiled code would not run."""
    engine.drop_in("[Service]\nMemoryDenyWriteExecute=yes\nRestart=no\n")
    engine.machine.run("systemctl", "start", NAME, status=1)


def _threads(engine: Installed) -> int:
    return int(engine.machine.show("TasksCurrent")["TasksCurrent"])
