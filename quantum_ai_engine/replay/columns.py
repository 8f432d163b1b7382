"""Parquet files that are written some rows at a time, and are there whole or not at all."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

GROUP_ROWS = 50_000  # what a file says of its groups stays in memory until it is closed
FILLS = {
    "symbol": "string",
    "open_time": "int64",
    "price": "float64",
    "units": "float64",
    "notional": "float64",
    "cost": "float64",
    "target": "float64",
}
EQUITY = {
    "open_time": "int64",
    "equity": "float64",
    "cash": "float64",
    "gross": "float64",
    "net": "float64",
    "drawdown": "float64",
}


class ColumnFile:
    """A Parquet file beside its place, until `finish` puts it there.

    Parameters: `path`, its place; `kinds`, column → type. Nothing is opened before the first rows.
    """

    def __init__(self, path: Path, kinds: Mapping[str, str]) -> None:
        self.path = path
        self._temporary = path.with_name(f".{path.name}.part")
        self._kinds = kinds
        self._writer: Any = None
        self._waiting: list[Any] = []
        self._rows = 0

    def write(self, columns: Sequence[Any]) -> None:
        """Put rows behind the others, given as columns [n]."""
        import pyarrow as pa

        _, schema = self._opened()
        arrays = [
            pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)
        ]
        self._waiting.append(pa.Table.from_arrays(arrays, schema=schema))
        self._rows += len(arrays[0])
        if self._rows >= GROUP_ROWS:
            self._flush()

    def finish(self) -> None:
        """Close the file and put it in its place."""
        self._opened()
        self._flush()
        self._writer.close()
        self._writer = None
        self._temporary.replace(self.path)

    def discard(self) -> None:
        """Leave nothing of what is not finished."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
        self._temporary.unlink(missing_ok=True)

    def _flush(self) -> None:
        import pyarrow as pa

        if self._waiting:
            self._writer.write_table(pa.concat_tables(self._waiting).combine_chunks())
            self._waiting.clear()
            self._rows = 0

    def _opened(self) -> tuple[Any, Any]:
        import pyarrow as pa
        from pyarrow import parquet

        schema = pa.schema([(name, getattr(pa, kind)()) for name, kind in self._kinds.items()])
        if self._writer is None:
            self._temporary.parent.mkdir(parents=True, exist_ok=True)
            self._writer = parquet.ParquetWriter(self._temporary, schema, compression="zstd")
        return self._writer, schema
