"""Files of bars that cannot be read: each way is one sentence that names the file and place."""

import sys
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from quantum_ai_engine.market.files import BarFileError, read_bars

START_MS = 1_714_521_600_000  # 2024-05-01T00:00Z
MINUTE_MS = 60_000
HEADER = "open_time,symbol,interval,open,high,low,close,volume"
CELLS = "BTCUSDT,1m,100,102,99,101,5"

Write = Callable[..., Path]


def error_of(path: Path, **options: str) -> str:
    """The one sentence with which reading fails; it names the file."""
    with pytest.raises(BarFileError) as raised:
        read_bars(path, **options)
    sentence = str(raised.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize("cell", ["abc", "1,5", "1_000", "$5", "1 2"])
@pytest.mark.parametrize("row", [0, 1, 6])
def test_a_text_that_is_no_number(write: Write, cell: str, row: int) -> None:
    """A price that is no number is an error of its column, row and cell, never a guess."""
    cells = [f"{START_MS + i * MINUTE_MS},BTCUSDT,1m,100,102,99,101" for i in range(7)]
    lines = [f'{text},"{cell if i == row else 5}"' for i, text in enumerate(cells)]
    path = write(HEADER.replace("volume", "Vol"), *lines)
    sentence = f"{path}: column 'Vol', row {row + 2}: {cell!r} is not a number"
    assert error_of(path) == sentence


@pytest.mark.parametrize(
    ("times", "row", "shown"),
    [
        ([str(START_MS), "soon", str(START_MS)], 3, "'soon'"),
        ([str(START_MS), str(START_MS), ""], 4, "an empty cell"),
        ([str(START_MS), "inf", str(START_MS)], 3, "'inf'"),
        (["2024-05-01", "2024-05-02", "2024-13-01"], 4, "'2024-13-01'"),
        (["05/01/2024", "05/02/2024", "05/03/2024"], 2, "'05/01/2024'"),
        (["", "2024-05-02", "2024-05-02"], 2, "an empty cell"),
    ],
)
def test_a_text_that_is_no_time(write: Write, times: list[str], row: int, shown: str) -> None:
    """A time that cannot be read is an error of its row, also where days could be months."""
    path = write(HEADER, *(f"{text},{CELLS}" for text in times))
    assert f"column 'open_time', row {row}: {shown} is not a time" in error_of(path)


def test_columns_of_another_type(write_parquet: Write) -> None:
    """Typed columns that hold something else, and cells without a time, are errors."""
    path = write_parquet(pa.array([START_MS, None]))
    assert "column 'open_time', row 2: an empty cell is not a time" in error_of(path)
    path = write_parquet(pa.array([1, 2], pa.time32("ms")))
    assert "column 'open_time' holds time32[ms], which is no open_time" in error_of(path)
    path = write_parquet(pa.array([True, False]))
    assert "column 'open_time', row 1: 'true' is not a time" in error_of(path)
    path = write_parquet(pa.array([START_MS]), low=pa.array([True]))
    assert "column 'low', row 1: 'true' is not a number" in error_of(path)
    path = write_parquet(pa.array([START_MS]), high=pa.array([{"a": 1}]))
    assert "column 'high', row 1: {'a': 1} is not a number" in error_of(path)
    path = write_parquet(pa.array([START_MS]), symbol=pa.array([["A"]]))
    assert "column 'symbol' holds list" in error_of(path)


@pytest.mark.parametrize("name", ["open_time", "open", "high", "low", "close", "volume"])
def test_a_missing_column(write: Write, write_parquet: Write, name: str) -> None:
    """L50: an absent column is an error that tells the names it may have, never a default."""
    path = write_parquet([START_MS])
    parquet.write_table(parquet.read_table(path).drop_columns([name]), path)
    assert f"{path} has no column {name} ({name}, " in error_of(path)
    others = [column for column in HEADER.split(",") if column != name]
    path = write(",".join(others), ",".join("1" for _ in others))
    assert f"{path} has no column {name} ({name}, " in error_of(path)


def test_a_missing_symbol_names_the_option(write: Write) -> None:
    """L50: a bar without a symbol is nobody's."""
    path = write("time,o,h,l,c,v", f"{START_MS},100,102,99,101,5")
    assert error_of(path, interval="1m") == f"{path} has no column symbol; name it with --symbol"


def test_a_missing_interval_names_the_option(write: Write) -> None:
    """Neither one bar nor an unusual spacing tells the interval."""
    one = f"{START_MS},100,102,99,101,5"
    odd = f"{START_MS + 7 * MINUTE_MS},100,102,99,101,5"
    for lines in ([one], [one, odd], [one, one]):
        path = write("time,o,h,l,c,v", *lines)
        assert "its times do not tell one; give it with --interval" in error_of(path, symbol="A")


def test_wrong_names(write: Write) -> None:
    """Several intervals, an interval that is none, and options that choose nothing are errors."""
    path = write(HEADER, f"{START_MS},A,1m,1,1,1,1,1", f"{START_MS},B,5m,1,1,1,1,1")
    assert "several intervals (1m, 5m); choose one with --interval" in error_of(path)
    assert "no bars of --interval 1h; it has 1m, 5m" in error_of(path, interval="1h")
    assert "--interval 7m is not one of 1s, " in error_of(path, interval="7m")
    assert "no 1m bars of --symbol B; it has A" in error_of(path, symbol="B", interval="1m")
    path = write(HEADER, f"{START_MS},A,5min,1,1,1,1,1")
    assert "column 'interval', row 2: '5min' is not one of 1s, " in error_of(path)


@pytest.mark.parametrize("name", ["bars.csv", "bars.csv.gz", "bars.parquet"])
def test_a_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    """A path without a file is said to be one, and a folder cannot be read."""
    path = tmp_path / name
    assert error_of(path) == f"there is no file {path}"
    path.mkdir()
    assert f"cannot read {path}: " in error_of(path)


def test_an_empty_file(write: Write, write_parquet: Write, tmp_path: Path) -> None:
    """L24: no bytes, no header and no bars are errors."""
    for name in ("bars.csv", "bars.csv.gz"):
        assert error_of(write(name=name)).endswith(f"{name} is empty")
        assert error_of(write(HEADER, name=name)).endswith(f"{name} has no bars")
    bare = tmp_path / "bare.csv"
    bare.write_text(HEADER)
    assert error_of(bare) == f"{bare} has no bars"
    path = write_parquet(pa.array([], pa.int64()))
    assert error_of(path) == f"{path} has no bars"
    path.write_bytes(b"")
    assert f"cannot read {path}: " in error_of(path)


def test_a_damaged_file(write: Write, write_parquet: Write, tmp_path: Path) -> None:
    """L24: a cut or foreign file is an error, never the part that could be read."""
    lines = [f"{START_MS + i * MINUTE_MS},{CELLS}" for i in range(1000)]
    whole = write(HEADER, *lines, name="bars.csv.gz").read_bytes()
    flipped = bytearray(whole)
    flipped[-6] ^= 1
    for damaged in (whole[:-20], b"PK" + whole, whole[:30] + bytes(50), bytes(flipped)):
        path = tmp_path / "damaged.csv.gz"
        path.write_bytes(damaged)
        assert f"cannot read {path}: " in error_of(path)
    whole = write_parquet([START_MS]).read_bytes()
    for damaged in (whole[:-20], b"no parquet at all", whole[:4] + bytes(40) + whole[44:]):
        path = tmp_path / "damaged.parquet"
        path.write_bytes(damaged)
        assert f"cannot read {path}: " in error_of(path)


def test_a_row_of_another_length(write: Write) -> None:
    """A row with too few cells is an error that tells its number."""
    path = write(HEADER, f"{START_MS},{CELLS}", f"{START_MS},BTCUSDT")
    assert f"cannot read {path}: CSV parse error: Row #3: Expected 8 columns, got 2" in error_of(
        path
    )


def test_text_in_another_encoding(write: Write) -> None:
    """A file that is not UTF-8 is an error, in its header as in its cells."""
    lines = [HEADER, f"{START_MS},{CELLS}".replace("BTC", "BÄR")]
    assert "UTF8" in error_of(write(*lines, encoding="latin-1"))
    assert "cannot read" in error_of(write(*lines, encoding="utf-16"))


def test_a_file_of_another_kind(write: Write) -> None:
    """The name tells the format; other names are refused."""
    path = write(HEADER, name="bars.xlsx")
    assert error_of(path) == f"{path} is not a .csv, .csv.gz or .parquet file"


def test_without_pyarrow(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, the error tells how to install it."""
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    sentence = error_of(write(HEADER, f"{START_MS},{CELLS}"))
    assert "pip install 'quantum-ai-engine[files]'" in sentence
