"""`qae bench`: what it offers, what it refuses, and what it says of a run."""

import json
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.cli.app import main
from quantum_ai_engine.proof.faults import SCENARIOS


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_help_names_every_scenario(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be broken is told by the command itself."""
    monkeypatch.setenv("COLUMNS", "200")
    assert qae("bench", "faults", "--help") == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in SCENARIOS)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--scenario", "earthquake"], 2, "--scenario earthquake: there are engine-killed"),
        (["--kills", "0"], 2, "--kills"),
        (["--bars", "1000000"], 2, "--bars"),
        (["--agents", "oracle"], 1, "--agents: no kind 'oracle' can be trained"),
        (["--bundles", "/nonexistent"], 2, "--bundles"),
    ],
)
def test_bad_options(
    arguments: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each is one sentence that names the option."""
    assert qae("bench", "faults", "--quick", *arguments) == code
    assert words in capsys.readouterr().err


def test_a_file_with_too_few_bars(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how many there are."""
    path = tmp_path / "bars.csv"
    path.write_text(
        "symbol,interval,open_time,open,high,low,close,volume\nA,1m,60000,1,1,1,1,1\n"
        "A,1m,120000,1,1,1,1,1\n"
    )
    assert qae("bench", "faults", "--data", str(path), "--bars", "100") == 1
    assert "has 2 bars; give --bars 2 or fewer" in capsys.readouterr().err


def test_a_run_says_what_came_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L43: one row, the same as JSON, and an exit code that a build server understands."""
    results = tmp_path / "results.json"
    chosen = ["--scenario", "replies-lost", "--bars", "300", "--agents", "sigor"]
    assert qae("bench", "faults", *chosen, "--json", str(results)) == 0
    rows = capsys.readouterr().out.strip().splitlines()
    assert [line.split()[1] for line in rows] == ["scenario", "---", "replies-lost"]
    (result,) = json.loads(results.read_text())
    assert (result["agents"], result["bars"]) == (["sigor"], 300)


def test_a_restart_is_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L43: the parts of the time until a killed engine signals again."""
    results = tmp_path / "results.json"
    chosen = ["--symbols", "2", "--runs", "1", "--agents", "sigor", "--json", str(results)]
    assert qae("bench", "restart", *chosen) == 0
    (measured,) = json.loads(results.read_text())
    assert (measured["symbols"], measured["waiting"], len(measured["runs"])) == (2, 2, 1)
    assert measured["snapshot_bytes"] > 0
