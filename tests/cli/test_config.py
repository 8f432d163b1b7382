"""`config`: bad settings are named and exit 78; good ones are shown with where they come from."""

import subprocess
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.cli.app import main

ENGINE_TOML = Path(__file__).parents[2] / "config" / "engine.toml"


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def write(path: Path, text: str) -> str:
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[redis]\nurll = 'x'\n", "did you mean redis.url?"),
        ("[risc]\nlong_threshold = 0.6\n", "unknown key risc.long_threshold"),
        ("[http]\nport = 99999\n", "http.port = 99999"),
        ("[http]\nport = '80'\n", "http.port = '80'"),
        ("[risk]\nlong_threshold = 0.51\n", "risk.long_threshold"),
        ("[redis]\npassword = 'hunter2'\n", "redis.password is a secret"),
        ("port = 1\n", "port = … stands outside a table"),
        ("[redis\n", "cannot read the settings file"),
    ],
)
def test_bad_settings_exit_78(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, says: str
) -> None:
    """L48: settings that cannot be used exit 78 with one sentence that names file and key."""
    path = write(tmp_path / "engine.toml", text)
    assert qae("config", "check", "--config", path) == 78
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("quantum-ai-engine: ")
    assert told.err.count("\n") == 1
    assert says in told.err
    assert "hunter2" not in told.err


def test_the_file_that_is_shipped_is_good(capsys: pytest.CaptureFixture[str]) -> None:
    """The settings file of the repository can be used as it is."""
    assert qae("config", "check", "--config", str(ENGINE_TOML)) == 0
    assert "the settings are good (hash " in capsys.readouterr().out


def test_show_says_where_each_value_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L38: command line over environment over file over default, and each is named."""
    path = write(tmp_path / "e.toml", "[risk]\nlong_threshold = 0.61\nshort_threshold = 0.39\n")
    monkeypatch.setenv("QAE_RISK__LONG_THRESHOLD", "0.62")
    monkeypatch.setenv("QAE_LOG__LEVEL", "debug")
    monkeypatch.setenv("QAE_REDIS__PASSWORD", "hunter2")
    assert qae("config", "show", "--origin", "--config", path, "--set", "log.level=error") == 0
    out = capsys.readouterr().out
    shown = {}
    for line in out.splitlines():
        setting, _, origin = line.partition("#")
        shown[setting.partition(" = ")[0]] = (setting.partition(" = ")[2].strip(), origin.strip())
    assert shown["log.level"] == ('"error"', "command line")
    assert shown["risk.long_threshold"] == ("0.62", "environment")
    assert shown["risk.short_threshold"] == ("0.39", path)
    assert shown["redis.prefix"] == ('"quantum"', "default")
    assert shown["redis.password"] == ('"********"', "environment")
    assert "hunter2" not in out


def test_show_is_one_line_per_setting(capsys: pytest.CaptureFixture[str]) -> None:
    """Long values are not wrapped: each line is a key and its value."""
    long = "/" + "/".join(["folder"] * 30)
    assert qae("config", "show", "--set", f"engine.state_dir={long}") == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(" = " in line for line in lines)
    assert f'engine.state_dir = "{long}"' in lines


@pytest.mark.parametrize(
    ("assignment", "says"),
    [
        ("redis.url", "write KEY=VALUE"),
        ("redis.password=hunter2", "a secret does not belong on the command line"),
        ("agents.deadline=5", "unknown key agents.deadline (command line)"),
        ("risk.exposure_cap=1.5", "risk.exposure_cap = '1.5' (command line)"),
    ],
)
def test_bad_assignments_exit_78(
    capsys: pytest.CaptureFixture[str], assignment: str, says: str
) -> None:
    """L48: an override on the command line is checked like a file."""
    assert qae("config", "check", "--set", assignment) == 78
    told = capsys.readouterr().err
    assert says in told
    assert "hunter2" not in told


def test_a_real_process_exits_78(tmp_path: Path) -> None:
    """L48: what systemd sees is 78, and what a person sees is one line without a traceback."""
    path = write(tmp_path / "engine.toml", "[engine]\nclok = 'wall'\n")
    ended = subprocess.run(
        [sys.executable, "-m", "quantum_ai_engine", "config", "check", "--config", path],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
    )
    assert (ended.returncode, ended.stdout) == (78, "")
    assert ended.stderr == (
        f"quantum-ai-engine: unknown key engine.clok ({path}); did you mean engine.clock?\n"
    )
