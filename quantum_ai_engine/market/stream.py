"""Recorded bars from files of any size: a part at a time, in bounded memory."""

import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from quantum_ai_engine.market.files import (
    BarFileError,
    Columns,
    columns_of,
    csv_header,
    csv_options,
    find,
    reading,
    table_of,
)
from quantum_ai_engine.market.table import BarTable

PART_ROWS, PART_BYTES = 65_536, 8 * 1024 * 1024


def stream_bars(
    path: Path, *, symbol: str | None = None, interval: str | None = None
) -> Iterator[BarTable]:
    """The bars of a `.csv`, `.csv.gz` or `.parquet` file, some ten thousand at a time.

    As `read_bars`, but the file must be in time order: it is never held as a whole. The interval
    is that of the first part. Raises `BarFileError`.
    """
    newest, rows = None, 0
    for columns in _parts(path):
        table = table_of(columns, symbol, interval)
        rows += len(columns.arrays["open_time"])
        interval = table.interval
        if newest is not None and len(table) and table.open_time[0] < newest:
            raise BarFileError(
                f"{path} is not in time order: among the first {rows} rows a bar is older than "
                "one before it; sort the file by time"
            )
        if len(table):
            newest = int(table.open_time[-1])
            yield table
    if newest is None:
        raise BarFileError(f"{path} has no bars")


def columns_in(path: Path) -> dict[str, int]:
    """The columns that a file has: our name → its position there. Raises `BarFileError`."""
    with reading(path):
        if not path.name.lower().endswith(".parquet"):
            with _opened(path) as file:
                return find(path, csv_header(file.readline()))
        from pyarrow import parquet

        return find(path, parquet.read_schema(path).names)


def _parts(path: Path) -> Iterator[Columns]:
    with reading(path):
        parquet = path.name.lower().endswith(".parquet")
        yield from _parquet_parts(path) if parquet else _csv_parts(path)


def _csv_parts(path: Path) -> Iterator[Columns]:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    with _opened(path) as file:
        header = csv_header(file.readline())
    found = find(path, header)
    first_row = 2
    with _opened(path) as file:
        batches = arrow_csv.open_csv(
            pa.PythonFile(file, mode="r"), **csv_options(header, found, block_size=PART_BYTES)
        )
        for batch in batches:
            yield columns_of(path, header, found, _table(batch), first_row)
            first_row += batch.num_rows


def _parquet_parts(path: Path) -> Iterator[Columns]:
    from pyarrow import parquet

    first_row = 1
    # What is buffered ahead stays until the file is closed: in the end that is all of it.
    with parquet.ParquetFile(path, pre_buffer=False) as file:
        header = file.schema_arrow.names
        found = find(path, header)
        wanted = [header[position] for position in found.values()]
        for batch in file.iter_batches(PART_ROWS, columns=wanted):
            table = _table(batch)
            table = table.select([table.schema.names.index(name) for name in wanted])
            yield columns_of(path, header, found, table, first_row)
            first_row += batch.num_rows


def _opened(path: Path) -> BinaryIO:
    if path.name.lower().endswith(".gz"):
        return gzip.open(path, "rb")  # type: ignore[return-value]  # it reads as one
    return path.open("rb")


def _table(batch: Any) -> Any:
    import pyarrow as pa

    return pa.Table.from_batches([batch])
