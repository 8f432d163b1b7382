"""The demo, from bundles that are there to its summary."""

from pathlib import Path

from typer.testing import CliRunner

from quantum_ai_engine.cli.app import build


def test_the_demo_signals_every_live_bar_and_ends(bundles: Path, tmp_path: Path) -> None:
    """L44: the history warms up in silence; each bar after it has its signal, and is counted."""
    (tmp_path / "bundles").symlink_to(bundles)
    arguments = ["demo", "--bars", "64", "--speed", "max", "--port", "0"]
    result = CliRunner().invoke(build(), [*arguments, "--directory", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert "the live page is http://127.0.0.1:" in result.output
    assert "64 bars, 0 duplicates, 0 refused, 64 signals" in result.output
