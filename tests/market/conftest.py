"""Writers of files of bars, for the tests that read them."""

import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines to a file of the given name, gzipped where the name says so."""

    def write_lines(*lines: str, name: str = "bars.csv", encoding: str = "utf-8") -> Path:
        path = tmp_path / name
        data = "".join(f"{line}\n" for line in lines).encode(encoding)
        path.write_bytes(gzip.compress(data) if name.lower().endswith(".gz") else data)
        return path

    return write_lines


@pytest.fixture
def write_parquet(tmp_path: Path) -> Callable[..., Path]:
    """Writes BTCUSDT bars at the given times; columns may be exchanged, added or, by None, left."""

    def write_columns(open_time: Any, **others: Any) -> Path:
        names = {"symbol": "BTCUSDT", "interval": "1m"}
        prices = {"open": 100.0, "high": 102.0, "low": 99.0, "close": 101.0, "volume": 5.0}
        same = {name: [value] * len(open_time) for name, value in (names | prices).items()}
        columns = {"open_time": open_time} | same | others
        path = tmp_path / "bars.parquet"
        kept = {name: cells for name, cells in columns.items() if cells is not None}
        parquet.write_table(pa.table(kept), path)
        return path

    return write_columns
