"""Where the bars of a replay lie: a file of bars, or what was read from a stream."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar, Refused
from quantum_ai_engine.market.files import BarFileError
from quantum_ai_engine.market.stream import columns_in, stream_bars

SPOOLED_AT_ONCE = 20_000  # bars


class Rows(NamedTuple):
    """Rows of a record [n], unchecked, in the order in which an engine has them."""

    symbol: NDArray[np.object_]
    interval: Sequence[str]
    open_time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]
    revision: Sequence[int]

    def where(self, kept: NDArray[np.bool_]) -> "Rows":
        """The rows that a mask [n] keeps."""
        if kept.all():
            return self
        at = np.flatnonzero(kept).tolist()
        return Rows(
            self.symbol[kept],
            [self.interval[i] for i in at],
            self.open_time[kept],
            self.ohlcv[kept],
            [self.revision[i] for i in at],
        )

    def bars(self) -> Iterator[Bar | Refused]:
        """Each bar, or why there is none."""
        columns = (
            self.symbol.tolist(),
            self.interval,
            self.open_time.tolist(),
            *self.ohlcv.T.tolist(),
            self.revision,
        )
        for fields in zip(*columns, strict=True):
            try:
                yield Bar(*fields)
            except Refused as refused:
                yield refused


class Source(Protocol):
    """A record of bars that can be read more than once, part by part.

    `name` is how it is spoken of; `symbols` are those that were chosen, none where all are.
    """

    name: str
    symbols: tuple[str, ...]

    def parts(self) -> Iterator[Rows]:
        """All rows, from the first on. Raises `BarFileError`."""


class FileSource:
    """A `.csv`, `.csv.gz` or `.parquet` file in time order; of these symbols, or of all.

    A file that names no symbol has the one that is given.
    """

    def __init__(
        self, path: Path, symbols: Sequence[str] = (), interval: str | None = None
    ) -> None:
        self.name = str(path)
        self.symbols = tuple(symbols)
        self._path, self._interval = path, interval

    def parts(self) -> Iterator[Rows]:
        named = self._named()
        for part in stream_bars(self._path, symbol=named, interval=self._interval):
            table = part
            if self.symbols:
                table = part.only(name for name in self.symbols if name in part.symbols)
            names = np.array(table.symbols, dtype=np.object_)
            n = len(table)
            symbol = names[table.symbol_index]
            yield Rows(symbol, [table.interval] * n, table.open_time, table.ohlcv, [0] * n)

    def _named(self) -> str | None:
        """The symbol of a file that names none."""
        if "symbol" in columns_in(self._path):
            return None
        if len(self.symbols) != 1:
            raise BarFileError(
                f"{self._path} has no column symbol; name the one it has with --symbols"
            )
        return self.symbols[0]


@dataclass
class SpoolSource:
    """Bars as they came on a stream, late ones and revisions too, spooled in a Parquet file."""

    path: Path
    name: str
    symbols: tuple[str, ...] = ()

    def parts(self) -> Iterator[Rows]:
        from pyarrow import parquet

        with parquet.ParquetFile(self.path) as file:
            for i in range(file.num_row_groups):
                group = file.read_row_group(i)
                symbol = np.array(group["symbol"].to_pylist(), dtype=np.object_)
                prices = [
                    group[name].to_numpy() for name in ("open", "high", "low", "close", "volume")
                ]
                rows = Rows(
                    symbol,
                    group["interval"].to_pylist(),
                    group["open_time"].to_numpy(),
                    np.column_stack(prices),
                    group["revision"].to_pylist(),
                )
                wanted = (
                    np.isin(symbol, self.symbols) if self.symbols else np.full(len(symbol), True)
                )
                yield rows.where(wanted)


class Spool:
    """Writes bars, in the order in which they came, for a `SpoolSource`."""

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._schema = _spool_schema()
        self._file = parquet.ParquetWriter(path, self._schema)
        self._waiting = list[Bar]()

    def write(self, bars: Iterable[Bar]) -> None:
        """Put bars behind the others."""
        self._waiting += bars
        while len(self._waiting) >= SPOOLED_AT_ONCE:
            self._flush(SPOOLED_AT_ONCE)

    def close(self) -> None:
        """Write what is left; only then the file can be read."""
        if self._waiting:
            self._flush(len(self._waiting))
        self._file.close()

    def _flush(self, count: int) -> None:
        import pyarrow as pa

        some, self._waiting = self._waiting[:count], self._waiting[count:]
        columns = [[getattr(bar, name) for bar in some] for name in self._schema.names]
        arrays = [pa.array(c, kind) for c, kind in zip(columns, self._schema.types, strict=True)]
        self._file.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


def _spool_schema() -> Any:
    import pyarrow as pa

    return pa.schema(
        [
            ("symbol", pa.string()),
            ("interval", pa.string()),
            ("open_time", pa.int64()),
            *((name, pa.float64()) for name in ("open", "high", "low", "close", "volume")),
            ("revision", pa.int64()),
        ]
    )
