"""An operator's day: start, stop, settings that are wrong, the journal, limits."""

from .conftest import Step
from .engine import CONFIG, GROUPS, NAME, SLICE, Installed
from .machine import UNIT


def test_start_blocks_until_ready(engine: Installed, step: Step) -> None:
    """`systemctl start` returns when the engine answers, and not before."""
    engine.machine.run("systemctl", "start", "--no-block", NAME)
    assert engine.machine.show("ActiveState")["ActiveState"] == "activating"
    assert not engine.events("ready", f"_SYSTEMD_INVOCATION_ID={_invocation(engine)}")
    with step("start until READY"):
        engine.start()
    assert engine.http("/health/live")[0] == 200
    assert engine.events("ready", f"_SYSTEMD_INVOCATION_ID={_invocation(engine)}")
    shown = engine.machine.show("ActiveState", "StatusText", "NRestarts")
    assert shown["ActiveState"] == "active"
    assert "0 bars" in shown["StatusText"]
    assert shown["NRestarts"] == "0"


def test_stop_commits_and_ends_by_itself(engine: Installed, step: Step) -> None:
    """Within TimeoutStopSec=, hence without SIGKILL, and with every bar that was read."""
    engine.start()
    engine.feed(2000)
    engine.caught_up()
    with step("stop"):
        engine.machine.run("systemctl", "stop", NAME)
    shown = engine.machine.show("Result", "ExecMainStatus", "ActiveState")
    assert shown == {"Result": "success", "ExecMainStatus": "0", "ActiveState": "inactive"}
    assert engine.events("stopped")[-1]["SIGNALS"] == str(len(engine.signals()))


def test_both_spellings_are_one_unit(engine: Installed) -> None:
    """`enable` makes the alias."""
    engine.machine.run("systemctl", "enable", NAME)
    engine.start()
    assert engine.machine.show("Id", unit="quantum_ai_engine.service") == {"Id": UNIT}
    engine.machine.run("systemctl", "disable", NAME)


def test_bad_settings_are_not_restarted(engine: Installed, step: Step) -> None:
    """L48: exit status 78 is final, and the journal says in a sentence what is wrong."""
    engine.configure(more="[http]\nprt = 8001\n")
    with step("start with bad settings, until it has failed"):
        engine.machine.run("systemctl", "start", NAME, status=1)
    shown = engine.machine.show("SubState", "ExecMainStatus", "NRestarts")
    assert shown == {"SubState": "failed", "ExecMainStatus": "78", "NRestarts": "0"}
    said = [str(entry["MESSAGE"]) for entry in engine.machine.journal()]
    assert any(f"unknown key http.prt ({CONFIG}); did you mean http.port?" in line for line in said)


def test_the_journal_finds_a_symbol(engine: Installed) -> None:
    """`journalctl -u … SYMBOL=BTCUSDT` gives exactly what was said of that symbol."""
    engine.start()
    engine.feed(6000)
    engine.caught_up()
    run = f"_SYSTEMD_INVOCATION_ID={_invocation(engine)}"
    found = engine.machine.journal("SYMBOL=BTCUSDT", run)
    everything = engine.machine.journal(run)
    assert found
    assert found == [entry for entry in everything if "BTCUSDT" in str(entry["MESSAGE"])]
    assert len(found) < len([entry for entry in everything if "SYMBOL" in entry])


def test_limits_are_the_kernel_s(engine: Installed) -> None:
    """CPU, memory and tasks of the unit and of the slice are what the files say."""
    engine.start()
    shown = engine.machine.show("CPUQuotaPerSecUSec", "MemoryMax", "TasksMax", "LimitNOFILE")
    assert shown == {
        "CPUQuotaPerSecUSec": "3.500000s",
        "MemoryMax": str(12 * 1024**3),
        "TasksMax": "256",
        "LimitNOFILE": "16384",
    }
    for place in (SLICE, f"{SLICE}/{UNIT}"):
        assert _cpu_and_memory(engine, place) == (3.5, 12 * 1024**3)


def test_the_cpu_quota_holds_the_engine_back(engine: Installed) -> None:
    """Above the quota the kernel pauses it."""
    engine.drop_in("[Service]\nCPUQuota=20%\nTimeoutStartSec=600\n")
    engine.start()
    stat = engine.machine.run("cat", f"{engine.cpu_root()}/{SLICE}/{UNIT}/cpu.stat")
    throttled = dict(line.split() for line in stat.splitlines())["nr_throttled"]
    assert int(throttled) > 0


def test_reload_takes_good_settings_and_refuses_bad_ones(engine: Installed) -> None:
    """`systemctl reload` puts a good file into force, and leaves the old one in force else."""
    engine.start()
    before = engine.main_pid()
    engine.configure(more="[risk]\nexposure_cap = 0.5\n")
    engine.machine.run("systemctl", "reload", NAME)
    engine.machine.until(lambda: bool(engine.events("config_reloaded")), "config_reloaded")
    engine.configure(more="[risk]\nexposure_cap = 5.0\n")
    engine.machine.ask("systemctl", "reload", NAME)
    engine.machine.until(lambda: bool(engine.events("config_refused")), "config_refused")
    assert engine.main_pid() == before


def _invocation(engine: Installed) -> str:
    return engine.machine.show("InvocationID")["InvocationID"]


def _cpu_and_memory(engine: Installed, place: str) -> tuple[float, int]:
    """Cores and bytes that a group may use."""
    read = lambda path: engine.machine.run("cat", path).split()  # noqa: E731
    if (root := engine.cpu_root()) == GROUPS:
        quota, period = read(f"{root}/{place}/cpu.max")
        return int(quota) / int(period), int(read(f"{root}/{place}/memory.max")[0])
    (quota,), (period,) = (read(f"{root}/{place}/cpu.cfs_{n}_us") for n in ("quota", "period"))
    (most,) = read(f"{GROUPS}/memory/{place}/memory.limit_in_bytes")
    return int(quota) / int(period), int(most)
