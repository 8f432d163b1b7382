"""`bundle`: validate, inspect and list, on real bundles, whole and broken."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.cli.app import main


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def test_whole_bundles_validate(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L24: each bundle is loaded and its golden pair replayed; one line each says its digest."""
    assert qae("bundle", "validate", str(bundles)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    for line, name in zip(lines, ("gru", "patchtst"), strict=True):
        path = bundles / name
        assert line.split() == ["whole", str(path), name, read_bundle(path).digest]


def test_a_broken_bundle_exits_1(
    bundles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L24: a 0-byte payload is told in one line beside the whole ones, and the exit code is 1."""
    copy = Path(shutil.copytree(bundles, tmp_path / "bundles"))
    (copy / "gru" / "model.pt").write_bytes(b"")
    assert qae("bundle", "validate", str(copy)) == 1
    broken, whole = capsys.readouterr().out.splitlines()
    assert broken.startswith(f"broken bundle {copy / 'gru'}: model.pt (0 bytes) does not have")
    assert whole.startswith("whole")


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


def test_inspect_prints_json(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What is printed parses, and is the manifest without the golden windows' numbers."""
    assert qae("bundle", "inspect", str(bundles / "gru")) == 0
    shown = json.loads(capsys.readouterr().out)
    manifest = json.loads((bundles / "gru" / "manifest.json").read_text())
    golden = manifest.pop("golden")
    assert shown.pop("golden") == {
        "windows": len(golden["windows"]),
        "probabilities": golden["probabilities"],
    }
    assert shown == manifest


def test_list_is_one_line_each(bundles: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L08: the figures listed are the held-out scores of the manifest."""
    assert qae("bundle", "list", str(bundles)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["gru", "patchtst"]
    for line in lines:
        bundle = read_bundle(bundles / line.split()[0])
        assert bundle.digest in line
        assert f"Brier {bundle.manifest.held_out.brier:.4f}" in line
