"""`qae replay --check` and `--certify`: what they say, and with which exit code."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
from typer.testing import CliRunner

from quantum_ai_engine.cli.app import build
from quantum_ai_engine.cli.checks import CHECKS, parse
from quantum_ai_engine.cli.common import CommandError, UsageError
from quantum_ai_engine.market.table import BarTable

from ..market.test_stream import written


def run(*arguments: object) -> Any:
    result = CliRunner().invoke(build("replay"), ["replay", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(scope="module")
def data(history: BarTable, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("bars"), ".csv", history.rows(0, 2_000))


def test_checks_say_what_they_found(data: Path, bundles: Path, tmp_path: Path) -> None:
    """L16: every check of the command passes on the engine, in a sentence with numbers."""
    asked = [word for name in CHECKS for word in ("--check", name)]
    few = ("bars=1200", "cuts=1", "shuffles=1", "p=0.9")
    result = run("--data", data, "--bundles", bundles, "--out", tmp_path, *asked, *few)
    assert result.exit_code == 0, result.output
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == list(CHECKS)
    assert result.stdout.count("passed.") == len(CHECKS)
    assert "p = 0.9" in result.stdout


def test_a_check_that_fails_ends_with_1(data: Path, bundles: Path, tmp_path: Path) -> None:
    """L05: of too few bars an oracle trades nothing, and that is no pass."""
    result = run(
        *("--data", data, "--bundles", bundles, "--out", tmp_path), "--check", "cheat", "bars=60"
    )
    assert result.exit_code == 1
    assert "cheat: FAILED. An oracle traded nothing" in result.stdout


def test_what_a_replay_says_can_be_certified(data: Path, bundles: Path, tmp_path: Path) -> None:
    """L11: the signals file of a replay is certified like a live stream; a flipped bit ends 1."""
    given = ("--data", data, "--bundles", bundles, "--set", "engine.clock=bars")
    out = tmp_path / "out"
    as_live = ("--set", "engine.clock=bars", "--set", f"agents.bundles={bundles}", "--data", data)
    # From the first bar on, since a certificate begins where the engine began.
    assert run(*given, "--out", out).exit_code == 0
    result = run(*as_live, "--certify", out / "signals.parquet", "--out", tmp_path / "certified")
    assert result.exit_code == 0, result.output
    assert "0 differences" in result.stdout
    told = msgspec.json.decode((tmp_path / "certified" / "certificate.json").read_bytes())
    assert told["signals"]["same"] == told["signals"]["published"] > 1_000


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        (("--check", "nothing"), "--check nothing: there are lookahead, warmup, cheat, shuffle"),
        (("--check", "cheat", "q=1"), "q=1: a check has p, bars"),
        (("--check", "cheat", "p=much"), "p=much: write p=NUMBER"),
        (("--check", "cheat", "p=2"), "p=2: it must be from 0 to 1"),
        (("p=0.6",), "only --check has parameters"),
    ],
)
def test_what_cannot_be_checked_is_a_usage_error(
    data: Path, bundles: Path, tmp_path: Path, words: tuple[str, ...], wrong: str
) -> None:
    """L38: an option without effect is refused."""
    with pytest.raises(UsageError, match=wrong.replace("?", ".")):
        run("--data", data, "--bundles", bundles, "--out", tmp_path, *words)


def test_too_few_bars_are_refused(history: BarTable, bundles: Path, tmp_path: Path) -> None:
    few = written(tmp_path, ".csv", history.rows(0, 20))
    with pytest.raises(CommandError, match="a check needs 50"):
        run("--data", few, "--bundles", bundles, "--out", tmp_path, "--check", "cheat")
    assert parse([]) == {}
