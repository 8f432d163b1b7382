"""`bundle`: validate, inspect and list, on real bundles, whole and broken."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.cli.app import main
from quantum_ai_engine.market.table import BarTable

FAILED_BOTH = "failed: gru, patchtst"


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def blocks(shown: str) -> dict[str, list[str]]:
    """The lines of each bundle's checks, by its path."""
    found: dict[str, list[str]] = {}
    for line in shown.splitlines():
        if line.startswith("  "):
            found[list(found)[-1]].append(line.strip())
        else:
            found[line] = []
    return found


def test_whole_bundles_validate(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L24: each bundle is a block of checks, none of which fails."""
    assert qae("bundle", "validate", str(bundles)) == 0
    found = blocks(capsys.readouterr().out)
    assert list(found) == [str(bundles / name) for name in ("gru", "patchtst")]
    for path, lines in found.items():
        assert len(lines) == 12
        assert {line.split()[0] for line in lines} == {"ok", "measured"}
        assert read_bundle(Path(path)).digest in lines[0]


def test_real_bars_judge(
    bundles: Path, history: BarTable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L01: with --data the answers are judged on the newest windows of recorded bars."""
    table = history.only(["BTCUSDT"])
    data = tmp_path / "bars.csv"
    rows = [
        ",".join(map(str, (time, *prices)))
        for time, prices in zip(table.open_time.tolist(), table.ohlcv.tolist(), strict=True)
    ]
    data.write_text("\n".join(["open_time,open,high,low,close,volume", *rows]))
    named = ("--data", str(data), "--symbol", "BTCUSDT", "--interval", "1m")
    assert qae("bundle", "validate", str(bundles / "gru"), *named) == 0
    assert "answers to the newest 512 windows of the data" in capsys.readouterr().out
    data.write_text("\n".join(["open_time,open,high,low,close,volume", *rows[:60]]))
    assert qae("bundle", "validate", str(bundles / "gru"), *named) == 1
    assert "the data has 0 windows for gru of the 64" in capsys.readouterr().out
    hourly = ("--data", str(data), "--symbol", "BTCUSDT", "--interval", "1h")
    assert qae("bundle", "validate", str(bundles), *hourly) == 1
    found = blocks(capsys.readouterr().out)
    assert found.keys() == {*(str(bundles / name) for name in ("gru", "patchtst")), FAILED_BOTH}
    for name in ("gru", "patchtst"):
        assert f"the data has bars of 1h, but {name} reads 1m" in "".join(
            line for line in found[str(bundles / name)] if line.startswith("failed")
        )


def test_the_settings_say_where_bundles_are(
    bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L38: without a path, every command takes the directory of the settings."""
    setting = ("--set", f"agents.bundles={bundles}")
    for command in ("list", "inspect"):
        assert qae("bundle", command, *setting) == 0
        assert "patchtst" in capsys.readouterr().out


def test_a_path_is_no_markup(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Brackets in a name are shown as they are."""
    copy = Path(shutil.copytree(bundles / "gru", tmp_path / "[red]gru"))
    (copy / "[bold]x").write_text("")
    assert qae("bundle", "validate", str(copy)) == 1
    shown = capsys.readouterr().out
    assert f"bundle {copy}: [bold]x is not in the manifest" in shown
    assert shown.endswith("failed: [red]gru\n")


def test_a_broken_bundle_exits_1(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L24: a 0-byte payload is told in one line beside the whole one, and the exit code is 1."""
    copy = Path(shutil.copytree(bundles, tmp_path / "bundles"))
    (copy / "gru" / "model.pt").write_bytes(b"")
    assert qae("bundle", "validate", str(copy)) == 1
    found = blocks(capsys.readouterr().out)
    (failed,) = found[str(copy / "gru")]
    assert failed.split()[:2] == ["failed", "bundle"]
    assert f"bundle {copy / 'gru'}: model.pt (0 bytes) does not have" in failed
    assert not any(line.startswith("failed") for line in found[str(copy / "patchtst")])
    assert "failed: gru" in found


def test_a_wrong_golden_pair_exits_1(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L20: validation runs the model: a manifest that lies about its answers is broken."""
    copy = Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["golden"]["probabilities"] = [1.0, 0.0]
    (copy / "manifest.json").write_text(json.dumps(manifest))
    assert qae("bundle", "validate", str(copy)) == 1
    assert "the golden input gives probabilities off by" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["validate", "inspect", "list"])
def test_no_bundle_is_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    """A directory without bundles exits 1 and says how to make one."""
    assert qae("bundle", command, str(tmp_path)) == 1
    assert capsys.readouterr().err == (
        f"quantum-ai-engine: no bundle in {tmp_path}; make one with `qae train`\n"
    )


def test_inspect_tells_the_payload(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Parameters, each layer in one line that no width cuts, and what the head answers alone."""
    assert qae("bundle", "inspect", str(bundles / "patchtst")) == 0
    shown = capsys.readouterr().out
    assert "parameters       611713" in shown
    assert "encoder.layers.2.self_attn.in_proj_weight" in shown
    assert "384 × 128" in shown
    assert "…" not in shown
    head = next(line for line in shown.splitlines() if line.startswith("  head"))
    assert "bias" in head
    assert "probability 0." in head
    assert "positions" in shown.partition("buffers")[2]


def test_inspect_prints_json(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed parses: the manifest without the golden numbers, and the payload."""
    assert qae("bundle", "inspect", "--json", str(bundles / "gru")) == 0
    shown = json.loads(capsys.readouterr().out)
    manifest = json.loads((bundles / "gru" / "manifest.json").read_text())
    golden = manifest.pop("golden")
    assert shown.pop("golden") == {
        "windows": len(golden["windows"]),
        "probabilities": golden["probabilities"],
    }
    payload = shown.pop("payload")
    assert payload["parameters"] == 10_497
    assert payload["methods"] == ["forward", "pack", "prepare", "weights"]
    assert shown == manifest


def test_list_is_one_line_each(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L08: the figures listed are the held-out scores of the manifest."""
    assert qae("bundle", "list", str(bundles)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["gru", "patchtst"]
    for line in lines:
        bundle = read_bundle(bundles / line.split()[0])
        assert bundle.digest in line
        assert line.index(bundle.digest) == lines[0].index(read_bundle(bundles / "gru").digest)
        assert line.endswith(" 3 symbols")
        assert f"Brier {bundle.manifest.held_out.brier:.4f}" in line
