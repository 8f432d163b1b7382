"""Tests of the systemd units: that they say what they must, and that systemd agrees."""

import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from quantum_ai_engine.config import CREDENTIALS, HttpSettings, read_credentials
from quantum_ai_engine.daemon.activation import NAME

SYSTEMD = Path(__file__).parents[2] / "deploy" / "systemd"
UNIT = SYSTEMD / "quantum-ai-engine.service"
TEMPLATE = SYSTEMD / "quantum-ai-engine@.service"
SLICE = SYSTEMD / "quantum-ai-engine.slice"
SOCKET = SYSTEMD / "quantum-ai-engine.socket"
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def read_unit(unit: Path = UNIT) -> dict[str, list[str]]:
    """Each setting's values, in order: a unit may give a setting more than once."""
    settings: dict[str, list[str]] = defaultdict(list)
    for line in unit.read_text(encoding="utf-8").splitlines():
        key, mark, value = line.partition("=")
        if mark and not line.startswith("#"):
            settings[key].append(value)
    return settings


def check(*units: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SYSTEMD / "check.sh", *units], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("Type", "notify"),
        ("NotifyAccess", "main"),
        ("Alias", "quantum_ai_engine.service"),
        ("ExecStartPre", "/opt/quantum-ai-engine/bin/quantum-ai-engine doctor --warm"),
        (
            "ExecStart",
            "/opt/quantum-ai-engine/bin/quantum-ai-engine serve "
            "--config /etc/quantum-ai-engine/engine.toml",
        ),
        (
            "ExecReload",
            "/opt/quantum-ai-engine/bin/quantum-ai-engine ctl reload --wait --pid $MAINPID",
        ),
        ("RuntimeDirectory", "quantum-ai-engine"),
        ("RuntimeDirectoryMode", "0700"),
        ("TimeoutStartSec", "180"),
        ("TimeoutStopSec", "10"),
        ("KillMode", "mixed"),
        ("Slice", "quantum-ai-engine.slice"),
        ("CPUQuota", "350%"),
        ("MemoryLow", "3G"),
        ("MemoryHigh", "10G"),
        ("MemoryMax", "12G"),
        ("StateDirectory", "quantum-ai-engine"),
        ("StateDirectoryMode", "0700"),
        ("CacheDirectoryMode", "0700"),
        ("ConfigurationDirectory", "quantum-ai-engine"),
        ("IPAddressDeny", "any"),
        ("IPAddressAllow", "localhost"),
    ],
)
def test_says_what_it_must(key: str, value: str) -> None:
    """Each of these is said exactly once."""
    assert read_unit()[key] == [value]


def test_bad_settings_are_not_restarted() -> None:
    """L48: exit status 78 is final, and other failures have a start limit."""
    unit = read_unit()
    assert unit["Restart"] == ["on-failure"]
    assert unit["RestartPreventExitStatus"] == ["78"]
    assert int(unit["StartLimitBurst"][0]) * float(unit["RestartSec"][0]) < float(
        unit["StartLimitIntervalSec"][0]
    )


def test_watchdog_is_set() -> None:
    """L06: systemd ends an engine that completes no work."""
    assert read_unit()["WatchdogSec"] == ["30"]


def test_nothing_depends_on_the_directory_of_the_caller() -> None:
    """L49: programs are absolute paths, and the working directory is the engine's own."""
    unit = read_unit()
    assert unit["WorkingDirectory"] == ["%S/quantum-ai-engine"]
    assert all(command.startswith("/") for key in unit if "Exec" in key for command in unit[key])


def test_what_must_stay_off_is_off() -> None:
    """Each of these would break the compiled kernel, the CPU's detection or OpenMP."""
    unit = read_unit()
    assert "MemoryDenyWriteExecute" not in unit
    assert "ProcSubset" not in unit
    assert "OMP_NUM_THREADS=1" in " ".join(unit["Environment"])


def test_libraries_have_one_thread_each() -> None:
    """The pool's workers are the parallelism; compiled code goes to the cache directory."""
    environment = " ".join(read_unit()["Environment"]).split()
    assert {"OMP_NUM_THREADS=1", "MKL_NUM_THREADS=1", "OPENBLAS_NUM_THREADS=1"} < set(environment)
    assert "NUMBA_CACHE_DIR=%C/quantum-ai-engine/numba" in environment


@pytest.mark.parametrize("name", CREDENTIALS)
def test_a_secret_is_optional(name: str, tmp_path: Path) -> None:
    """Each credential has a default, which the settings read as none."""
    unit = read_unit()
    assert f"{name}:/etc/quantum-ai-engine/{name}" in unit["LoadCredential"]
    defaults = dict(default.split(":", 1) for default in unit["SetCredential"])
    (tmp_path / name).write_text(defaults[name].encode().decode("unicode_escape"))
    (layer,) = read_credentials({"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert layer.values == {CREDENTIALS[name]: ""}


def test_an_instance_differs_only_in_what_is_its_own() -> None:
    """L45: limits, sandbox and restarts are the same; user, directories and partition are not."""
    plain, instance = read_unit(), read_unit(TEMPLATE)
    differing = {key for key in plain.keys() | instance.keys() if plain[key] != instance[key]}
    assert differing == {
        "Alias",
        "CacheDirectory",
        "Description",
        "Environment",
        "EnvironmentFile",
        "ExecStart",
        "RuntimeDirectory",
        "StateDirectory",
        "User",
        "WorkingDirectory",
    }
    for key in ("CacheDirectory", "RuntimeDirectory", "StateDirectory", "User"):
        assert instance[key] == ["quantum-ai-engine-%i"]
    assert instance["WorkingDirectory"] == ["%S/quantum-ai-engine-%i"]
    assert instance["ExecStart"] == [plain["ExecStart"][0] + " --set redis.partition=%i"]


def test_instances_do_not_fight_over_a_port() -> None:
    """Any free one by default; a file of the instance may name one, and need not be there."""
    instance = read_unit(TEMPLATE)
    environment = " ".join(instance["Environment"]).split()
    assert "QAE_HTTP__PORT=0" in environment
    assert "NUMBA_CACHE_DIR=%C/quantum-ai-engine-%i/numba" in environment
    assert instance["EnvironmentFile"] == ["-/etc/quantum-ai-engine/%i.env"]
    rest = set(environment) - {"QAE_HTTP__PORT=0", "NUMBA_CACHE_DIR=%C/quantum-ai-engine-%i/numba"}
    assert rest < set(" ".join(read_unit()["Environment"]).split())


def test_all_engines_together_have_the_limits_of_one() -> None:
    """The CPU contract is the machine's, however many engines there are."""
    limits = read_unit(SLICE)
    for key in ("CPUQuota", "MemoryLow", "MemoryHigh", "MemoryMax"):
        assert limits[key] == read_unit()[key]


def test_the_socket_is_the_one_that_the_engine_would_open() -> None:
    """The address is the settings' default, and the name is what the engine takes."""
    socket, http = read_unit(SOCKET), HttpSettings()
    assert socket["ListenStream"] == [f"{http.host}:{http.port}"]
    assert socket["FileDescriptorName"] == [NAME]
    assert "Accept" not in socket


@needs_systemd
def test_systemd_agrees() -> None:
    """The units verify in silence, and the services score at most 1.0."""
    result = check()
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.count("Overall exposure level") == 2


@needs_systemd
@pytest.mark.parametrize("unit", [UNIT, TEMPLATE])
@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("PrivateMounts=yes", "PrivateMounts=no", "above 1.0"),
        ("WatchdogSec=30", "WatchdogSeconds=30", "WatchdogSeconds"),
        ("SetCredential=redis-password:\\n", "SetCredential=redis-password:", "Invalid syntax"),
        ("ExecStart=/opt/quantum-ai-engine/bin/", "ExecStart=/none/", "not executable"),
    ],
)
def test_check_finds_faults(tmp_path: Path, unit: Path, old: str, new: str, complaint: str) -> None:
    """The check fails for a weaker sandbox and for a setting that systemd would ignore."""
    text = unit.read_text(encoding="utf-8")
    assert old in text
    faulty = tmp_path / unit.name
    faulty.write_text(text.replace(old, new), encoding="utf-8")
    result = check(faulty)
    assert result.returncode == 1
    assert complaint in result.stderr


@needs_systemd
def test_check_finds_faults_of_the_slice(tmp_path: Path) -> None:
    faulty = tmp_path / SLICE.name
    faulty.write_text(SLICE.read_text(encoding="utf-8").replace("CPUQuota", "CPUQota"))
    result = check(faulty)
    assert result.returncode == 1
    assert "CPUQota" in result.stderr


@needs_systemd
def test_check_finds_faults_of_the_socket(tmp_path: Path) -> None:
    faulty = tmp_path / SOCKET.name
    faulty.write_text(SOCKET.read_text(encoding="utf-8").replace("ListenStream", "ListenStraem"))
    result = check(UNIT, faulty)
    assert result.returncode == 1
    assert "ListenStraem" in result.stderr
