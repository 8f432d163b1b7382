"""`train`: a bundle that is whole and proven, or one sentence and nothing written."""

import csv
import sys
from pathlib import Path

import pytest

from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.cli.app import main
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.models.registry import FAMILIES


def qae(*arguments: str) -> int:
    """The exit code of a command, run in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["qae", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
    return int(ended.value.code or 0)


def write_csv(path: Path, table: BarTable) -> str:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["symbol", "open_time", "open", "high", "low", "close", "volume"])
        for i, open_time in enumerate(table.open_time.tolist()):
            symbol = table.symbols[table.symbol_index[i]]
            rows.writerow([symbol, open_time, *table.ohlcv[i].tolist()])
    return str(path)


@pytest.fixture(scope="module")
def data(history: BarTable, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Recorded bars of one symbol, enough for a small agent."""
    path = tmp_path_factory.mktemp("data") / "bars.csv"
    return write_csv(path, history.only(["BTCUSDT"]))


@pytest.fixture
def few(history: BarTable, tmp_path: Path) -> str:
    """Recorded bars, too few for anything."""
    return write_csv(tmp_path / "few.csv", history.only(["BTCUSDT"]).rows(0, 50))


def refused(out: Path, capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 1) -> str:
    """The one sentence with which a training is refused; nothing was written."""
    assert qae("train", *arguments, "--out", str(out)) == code
    said = [line for line in capsys.readouterr().err.splitlines() if "quantum-ai-engine" in line]
    assert len(said) == 1
    assert not out.exists() or list(out.iterdir()) == []
    return said[0].removeprefix("quantum-ai-engine: ")


def test_a_training_ends_in_a_whole_bundle(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L21: what was trained is a bundle; its score and the balance of its labels are said.

    They are said before the report, of which the path is said as it is.
    """
    out, reports = tmp_path / "[red]out", tmp_path / "[/red]:smile:"
    options = ("--name", "small", "--epochs", "1", "--samples", "512", "--learning-rate", "0.01")
    places = ("--out", str(out), "--report", str(reports))
    assert qae("train", "gru", "--data", data, *options, *places) == 0
    bundle = read_bundle(out / "small")
    assert (bundle.manifest.name, bundle.manifest.kind) == ("small", "gru")
    said = capsys.readouterr().err
    assert f"Brier {bundle.manifest.held_out.brier:.4f}" in said
    assert "skill" in said
    pages = [f"small-{bundle.digest}.html", f"small-{bundle.digest}.png"]
    path = f"{out / 'small'}: Brier"
    assert 0 <= said.index(path) < said.index(f"report: {reports / pages[0]}\n")
    labels = bundle.manifest.labels
    assert f"{labels.rose} rose, {labels.fell} fell, {labels.masked} masked" in said
    assert [p.name for p in out.iterdir()] == ["small"]
    assert {p.name for p in reports.iterdir()} == set(pages)


def test_a_report_that_cannot_be_written_costs_no_bundle(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L23: the bundle is whole without its report; that there is none is said."""
    (tmp_path / "file").write_text("not a directory")
    places = ("--out", str(tmp_path / "out"), "--report", str(tmp_path / "file"))
    assert qae("train", "momentum", "--data", data, *places) == 0
    said = capsys.readouterr().err
    assert f"no report: File exists: {tmp_path / 'file'}\n" in said
    assert read_bundle(tmp_path / "out" / "momentum").manifest.kind == "momentum"


def test_without_matplotlib_it_is_said_before_the_training(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line says what to install, word for word; the training goes on without a report."""
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    places = ("--out", str(tmp_path / "out"), "--report", str(tmp_path / "reports"))
    assert qae("train", "momentum", "--data", data, "--symbols", " BTCUSDT ", *places) == 0
    said = capsys.readouterr().err
    line = (
        "no report will be written: the training report needs matplotlib.figure: "
        "pip install 'quantum-ai-engine[report]'\n"
    )
    assert 0 <= said.index(line) < said.index("training momentum") < said.index("Brier")
    assert read_bundle(tmp_path / "out" / "momentum").manifest.kind == "momentum"
    assert not (tmp_path / "reports").exists()
    assert "no report:" not in said


def test_few_independent_outcomes_are_no_verdict(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L08: on a short held-out span no skill is claimed, whatever its standard error."""
    options = ("--horizon", "20", "--no-report", "--out", str(tmp_path))
    assert qae("train", "momentum", "--data", data, *options) == 0
    assert "(too few independent outcomes to tell: " in capsys.readouterr().err


def test_a_training_that_is_stopped(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """L23: Ctrl-C is one sentence, and leaves no bundle."""

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("quantum_ai_engine.training.models.rules.shares", interrupted)
    said = refused(tmp_path / "out", capsys, "momentum", "--data", data)
    assert said == "stopped: no bundle was written"


def test_a_kind_is_no_markup(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Brackets in a kind are shown as they are."""
    assert "no kind '[/x]' can be trained" in refused(
        tmp_path / "out", capsys, "[/x]", "--data", data
    )


def test_a_model_that_learned_nothing_is_no_agent(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L01: one that ranks held-out bars no better than chance is refused, not let out flat."""
    quick = ("--data", data, "--epochs", "1", "--samples", "64", "--seed", "0")
    said = refused(tmp_path / "out", capsys, "gru", *quick)
    assert said.startswith("the model has learned nothing that holds")


def test_an_unknown_kind(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A kind that cannot be trained is named beside those that can."""
    said = refused(tmp_path / "out", capsys, "oracle", "--data", data)
    assert said == f"no kind 'oracle' can be trained; there are {', '.join(FAMILIES)}"


def test_a_missing_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that is not there is named, once."""
    path = tmp_path / "no.csv"
    assert (
        refused(tmp_path / "out", capsys, "gru", "--data", str(path)) == f"there is no file {path}"
    )


def test_too_few_bars(few: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """L27: bars from which no span can be cut train nothing."""
    assert "give more bars" in refused(tmp_path / "out", capsys, "gru", "--data", few)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--symbols", "DOGE"), "there are no bars of symbol 'DOGE'; there are BTCUSDT"),
        (("--first", "2"), "--first 2 must be above 0, at most 1"),
        (("--first", "0"), "--first 0 must be above 0, at most 1"),
        (("--horizon", "0"), "horizon_bars = 0 must be at least 1"),
        (("--epochs", "0"), "epochs = 0 must be at least 1"),
        (("--dead-zone", "1.5"), "dead_zone = 1.5 must be a fraction"),
        (("--seed", "-1"), "seed = -1 must be from 0"),
        (("--name", "../up"), "name = '../up' must be"),
        (("--interval", "7m"), "--interval 7m is not one of"),
    ],
)
def test_bad_options(
    few: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    options: tuple[str, ...],
    says: str,
) -> None:
    """An option that cannot be used is named with its value."""
    code = 1 if options[0] in ("--symbols", "--interval") else 2
    assert says in refused(tmp_path / "out", capsys, "gru", "--data", few, *options, code=code)


def test_an_existing_bundle_is_kept(
    data: str, bundles: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """L23: a training never replaces a bundle, and says so before it begins."""
    before = read_bundle(bundles / "gru")
    assert qae("train", "gru", "--data", data, "--out", str(bundles)) == 1
    assert "exists; remove it or choose another --name" in capsys.readouterr().err
    assert read_bundle(bundles / "gru") == before


def test_a_place_that_cannot_be_written(
    data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bundle directory that is a file is one sentence too."""
    (tmp_path / "out").write_text("a file")
    out = str(tmp_path / "out")
    assert qae("train", "momentum", "--data", data, "--out", out) == 1
    assert f"cannot write a bundle to {out}: File exists" in capsys.readouterr().err
