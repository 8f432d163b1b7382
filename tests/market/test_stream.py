"""Bars from files of any size: the parts are the whole."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from quantum_ai_engine.market import stream
from quantum_ai_engine.market.files import BarFileError, read_bars
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.stream import stream_bars
from quantum_ai_engine.market.table import BarTable

START_MS = 1_735_689_600_000
TABLE = PaperMarket(3, 4, start_ms=START_MS).table(900)


def columns(table: BarTable) -> dict[str, list[object]]:
    prices = zip(("open", "high", "low", "close", "volume"), table.ohlcv.T.tolist(), strict=True)
    return {
        "time": table.open_time.tolist(),
        "symbol": [table.symbols[i] for i in table.symbol_index],
        **dict(prices),
    }


def csv_text(table: BarTable) -> str:
    data = columns(table)
    lines = [",".join(data), *(",".join(map(str, row)) for row in zip(*data.values(), strict=True))]
    return "\n".join(lines) + "\n"


def written(folder: Path, suffix: str, table: BarTable = TABLE) -> Path:
    path = folder / f"bars{suffix}"
    if suffix == ".parquet":
        parquet.write_table(pa.table(columns(table)), path)
    elif suffix == ".csv.gz":
        path.write_bytes(gzip.compress(csv_text(table).encode()))
    else:
        path.write_text(csv_text(table))
    return path


def test_a_file_is_never_held_as_a_whole(tmp_path: Path) -> None:
    """What lies behind the part that is read has been let go of, also in a file of many groups."""
    path, groups, group_rows = tmp_path / "bars.parquet", 20, 60_000
    random = np.random.default_rng(1)
    names = ("time", "open", "high", "low", "close", "volume")
    with parquet.ParquetWriter(path, pa.schema([(name, pa.float64()) for name in names])) as file:
        for group in range(groups):
            times = START_MS + 60_000.0 * (group * group_rows + np.arange(group_rows))
            low, inner, high = np.sort(random.uniform(1.0, 2.0, (group_rows, 3)), axis=1).T
            values = (times, inner, high, low, inner, random.uniform(1.0, 2.0, group_rows))
            file.write_table(pa.table(dict(zip(names, values, strict=True))))
    before, held, rows = pa.total_allocated_bytes(), 0, 0
    for part in stream_bars(path, symbol="A"):
        rows += len(part)
        held = max(held, pa.total_allocated_bytes() - before)
    assert rows == groups * group_rows
    assert held < path.stat().st_size / 2


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_the_parts_are_the_whole(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L53: however small the parts, each bar comes once, in order, with its own symbol."""
    monkeypatch.setattr(stream, "PART_ROWS", 100)
    monkeypatch.setattr(stream, "PART_BYTES", 4096)
    path = written(tmp_path, suffix)
    whole, parts = read_bars(path), list(stream_bars(path))
    assert len(parts) > 5
    bars = [bar for part in parts for bar in part.bars()]
    assert bars == list(whole.bars())


def test_a_file_that_goes_back_in_time_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L16: rows of a later part never come before those already given."""
    monkeypatch.setattr(stream, "PART_BYTES", 4096)
    text = csv_text(TABLE).splitlines(keepends=True)
    path = tmp_path / "back.csv"
    path.write_text("".join([text[0], *text[2000:], *text[1:2000]]))
    with pytest.raises(BarFileError, match=r"back\.csv is not in time order"):
        list(stream_bars(path))


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("none.csv", None, "there is no file"),
        ("empty.csv", b"", "is empty"),
        ("head.csv", b"time,symbol,open,high,low,close,volume\n", "has no bars|cannot read"),
        ("torn.csv.gz", gzip.compress(csv_text(TABLE).encode())[:2000], "cannot read"),
        ("odd.txt", b"", "is not a .csv"),
        ("cols.csv", b"a,b\n1,2\n", "has no column open_time"),
    ],
)
def test_what_cannot_be_read_says_why(
    name: str, content: bytes | None, sentence: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(BarFileError, match=sentence):
        list(stream_bars(path))


def test_a_bad_cell_names_its_row_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L41: also in a later part the row is the one that an editor shows."""
    monkeypatch.setattr(stream, "PART_BYTES", 4096)
    lines = csv_text(TABLE).splitlines(keepends=True)
    cells = lines[1234].split(",")
    lines[1234] = ",".join([*cells[:3], "dear", *cells[4:]])
    path = tmp_path / "bad.csv"
    path.write_text("".join(lines))
    with pytest.raises(BarFileError, match=r"row 1235: 'dear'"):
        list(stream_bars(path))


def test_prices_keep_their_bits(tmp_path: Path) -> None:
    (part,) = stream_bars(written(tmp_path, ".parquet"))
    assert np.array_equal(part.ohlcv, TABLE.ohlcv)
