"""The installer on a machine of its own: install, upgrade, a broken release, going back."""

from pathlib import Path

from . import image
from .conftest import INSTALL, Boot, Step
from .engine import CONFIG, NAME, Installed
from .machine import UNIT

BROKEN = """

def serve(config: ConfigOption = None, assignments: SetOption = None) -> None:
    raise RuntimeError("a broken release")
"""


def test_releases_come_and_go(boot: Boot, own: Path, step: Step) -> None:
    """A running engine moves to a release that works, stays with it otherwise, and goes back."""
    machine = boot()
    engine = Installed(machine)
    (first,) = own.glob("quantum_ai_engine-*.whl")
    others = own / "others"
    others.mkdir()
    second = image.wheel(others, version="7.1")
    broken = image.wheel(others, version="7.2", changes={"quantum_ai_engine/cli/serve.py": BROKEN})

    with step("install.sh install, without torch"):
        machine.run(*INSTALL, f"/shared/own/{first.name}", "--extras", "embedded")
    engine.configure()
    machine.run("systemctl", "enable", "--now", NAME)
    engine.feed(1000, "--restart")
    engine.caught_up()
    before, told = _version(engine), engine.signals()

    with step("upgrade of a running engine, until READY"):
        machine.run(*INSTALL, f"/shared/own/others/{second.name}")
    assert _version(engine).startswith("7.1+")
    engine.feed(2000)
    engine.caught_up()
    signals = engine.signals()
    assert signals[: len(told)] == told
    ids = [signal["id"] for signal in signals]
    assert len(ids) == len(set(ids)) == 1820  # state was kept: no second warm-up, nothing twice

    with step("upgrade to a release that does not come up, until the old one is READY"):
        done = machine.ask(*INSTALL, f"/shared/own/others/{broken.name}")
    assert done.returncode == 1
    assert f"{UNIT} did not come up with 7.2+" in done.stderr
    assert "is current, and it runs again" in done.stderr
    assert _version(engine).startswith("7.1+")
    assert machine.show("ActiveState")["ActiveState"] == "active"

    pid = engine.main_pid()
    engine.configure(more="[http]\nprt = 1\n")
    done = machine.ask(*INSTALL, f"/shared/own/{first.name}")
    assert done.returncode == 1
    assert f"{CONFIG} does not pass" in done.stderr
    assert "unknown key http.prt" in done.stderr
    assert engine.main_pid() == pid
    engine.configure()

    with step("rollback, until READY"):
        machine.run(f"/opt/{NAME}/current/share/{NAME}/install.sh", "rollback")
    assert _version(engine) == before

    machine.run(f"/opt/{NAME}/current/share/{NAME}/install.sh", "uninstall")
    assert machine.ask("systemctl", "cat", UNIT).returncode == 1
    assert machine.ask("test", "-e", f"/opt/{NAME}").returncode == 1
    assert machine.ask("test", "-d", f"/var/lib/private/{NAME}").returncode == 0
    assert machine.ask("test", "-f", CONFIG).returncode == 0


def _version(engine: Installed) -> str:
    """What the running engine calls itself."""
    (ready,) = engine.events("ready", f"_PID={engine.main_pid()}")
    return str(ready["VERSION"])
