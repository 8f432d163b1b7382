"""`qae features`: the matrix is what the live engine would compute."""

import re
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet
from typer.testing import CliRunner

from quantum_ai_engine.cli import app as commands
from quantum_ai_engine.cli.app import build
from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.kernel import KERNEL_VERSION, matrix
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.features.sessions import Calendar
from quantum_ai_engine.market import stream
from quantum_ai_engine.market.table import BarTable

from ..market.test_stream import written


def run(*arguments: object) -> None:
    result = CliRunner().invoke(build(), ["features", *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize("name", SETS)
def test_the_matrix_is_the_kernels(
    name: str, history: BarTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L11: part by part from a file, each column has the bits of one pass over the history."""
    monkeypatch.setattr(stream, "PART_ROWS", 333)
    out = tmp_path / "rows.parquet"
    run("--data", written(tmp_path, ".parquet", history), "--set", name, "--out", out)
    table, chosen = parquet.read_table(out), SETS[name]
    assert table.column_names == ["symbol", "close_time", "ready", *chosen.columns]
    assert table.schema.metadata[b"schema_hash"] == chosen.hash.encode()
    assert table.schema.metadata[b"kernel_version"] == str(KERNEL_VERSION).encode()
    symbols = np.array(table["symbol"].to_pylist())
    values = np.column_stack([table[column].to_numpy() for column in chosen.columns])
    for symbol in history.symbols:
        open_time, ohlcv = history.of(symbol)
        rows = matrix(Calendar(Venue()).rows(open_time, ohlcv, 60_000))[:, chosen.indices]
        mine = symbols == symbol
        assert values[mine].tobytes() == np.ascontiguousarray(rows).tobytes()
        assert table["close_time"].to_numpy()[mine].tolist() == (open_time + 60_000).tolist()
        ready = np.array(table["ready"].to_pylist())[mine]
        assert ready.tolist() == (np.arange(len(rows)) >= chosen.ready_at - 1).tolist()


def test_any_start_date_is_warmed_up_by_what_came_before(history: BarTable, tmp_path: Path) -> None:
    """L43: rows from a later day have the bits that they have in the whole matrix."""
    data = written(tmp_path, ".csv.gz", history)
    run("--data", data, "--set", "gru9", "--out", tmp_path / "all.parquet")
    run("--data", data, "--set", "gru9", "--out", tmp_path / "two.parquet", "--start", "2025-01-02")
    every, later = (parquet.read_table(tmp_path / f"{name}.parquet") for name in ("all", "two"))
    assert 0 < len(later) < len(every)
    assert every.slice(len(every) - len(later)).equals(later)
    assert all(later["ready"].to_pylist()[:1])


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (("--set", "gru10"), 2, "no feature set 'gru10'; there are gru9"),
        (("--set", "gru9", "--start", "yesterday"), 2, "--start yesterday: write a day"),
        (("--set", "gru9", "--out", "{}/rows.csv"), 2, "rows.csv: name a .parquet file"),
        (
            ("--set", "gru9", "--out", "{}/none/rows.parquet"),
            1,
            "cannot write .*/none/rows.parquet",
        ),
        (("--set", "gru9", "--data", "{}/none.csv"), 1, "there is no file .*none.csv"),
    ],
)
def test_wrong_use_is_one_sentence_and_leaves_nothing(
    arguments: tuple[str, ...],
    code: int,
    sentence: str,
    history: BarTable,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """L41: nothing is half written."""
    data, out = written(tmp_path, ".parquet", history), tmp_path / "rows.parquet"
    given = [argument.format(tmp_path) for argument in arguments]
    monkeypatch.setattr(
        "sys.argv", ["qae", "features", "--data", str(data), "--out", str(out), *given]
    )
    with pytest.raises(SystemExit) as ended:
        commands.main()
    assert ended.value.code == code
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("quantum-ai-engine: ")
    assert re.search(sentence, error), error
    assert sorted(path.name for path in tmp_path.iterdir()) == [data.name]
