"""Recorded bars from files: CSV (plain or gzipped) and Parquet, with columns by common names."""

import contextlib
import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from os import PathLike
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import INTERVAL_MS, INTERVALS
from quantum_ai_engine.market.table import BarTable, Indices, Prices, Times

PRICES = ("open", "high", "low", "close", "volume")
COLUMNS = {
    "open_time": ["open_time", "opentime", "timestamp", "time", "datetime", "date", "ts"],
    "open": ["open", "o", "open_price"],
    "high": ["high", "h", "high_price"],
    "low": ["low", "l", "low_price"],
    "close": ["close", "c", "close_price"],
    "volume": [
        "volume",
        "v",
        "vol",
        "base_volume",
        "volume_base",
        "basevolume",
        "base_asset_volume",
    ],
    "symbol": ["symbol", "ticker", "pair"],
    "interval": ["interval", "timeframe"],
}
OPTIONAL = ("symbol", "interval")
NO_NUMBER = ("", "-", "na", "n/a", "nan", "null", "none")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Times since the epoch by magnitude: below the bound, times the one, by the other, is ms.
EPOCH_UNITS = ((1e11, 1000, 1), (1e14, 1, 1), (1e17, 1, 1000), (np.inf, 1, 1_000_000))
FIRST_DATE, LAST_DATE = 1900_01_01, 2200_12_31
INT64_MAX = 2**63 - 1


class BarFileError(ValueError):
    """A file of bars that cannot be read: one sentence that names the file, column and row."""


def read_bars(
    path: str | PathLike[str], *, symbol: str | None = None, interval: str | None = None
) -> BarTable:
    """Every bar of a `.csv`, `.csv.gz` or `.parquet` file, unchecked, in time order.

    Columns are found by their common names in any case. Times are ISO 8601 (UTC where no zone is
    given), Arrow timestamps, or s, ms, µs or ns since the epoch. `symbol` and `interval` name what
    the file does not name, and choose where it names several. Raises `BarFileError`.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "btc.csv")
    ...     _ = path.write_text("time,o,h,l,c,v\\n2024-05-01T00:00Z,100,102,99,101,5\\n")
    ...     read_bars(path, symbol="BTCUSDT", interval="1m").bar(0).open_time
    1714521600000
    """
    return table_of(_read(Path(path)), symbol, interval)


def table_of(columns: "Columns", symbol: str | None, interval: str | None) -> BarTable:
    """The bars of a file's columns, or of a part of them, in time order."""
    path = columns.path
    if interval is not None and interval not in INTERVAL_MS:
        raise BarFileError(f"--interval {interval} is not one of {', '.join(INTERVALS)}")
    open_time, ohlcv = columns.times(), columns.ohlcv()
    symbols, symbol_index = columns.symbols(symbol)
    interval, kept = columns.interval(interval, symbol_index, open_time)
    order = kept[np.argsort(open_time[kept], kind="stable")]
    table = BarTable(symbols, symbol_index[order], interval, open_time[order], ohlcv[order])
    present = [symbols[place] for place in np.unique(table.symbol_index)]
    if symbol is not None and symbol not in present:
        raise BarFileError(
            f"{path} has no {interval} bars of --symbol {symbol}; it has {', '.join(present)}"
        )
    return table.only(present if symbol is None else [symbol])


@dataclass(frozen=True)
class Columns:
    """The Arrow columns of a file or a part, and the names that the file gives them, by ours.

    `first_row` is the number of the first bar's row, as an editor or a data frame counts.
    """

    path: Path
    headers: dict[str, str]
    arrays: dict[str, Any]
    first_row: int

    def ohlcv(self) -> Prices:
        return np.column_stack([self._numbers(name) for name in PRICES])  # [bars, 5]

    def times(self) -> Times:
        import pyarrow as pa

        column = self.arrays["open_time"]
        if column.null_count:
            self._fail("open_time", column.is_null().index(True).as_py(), "is not a time")
        if pa.types.is_temporal(column.type):
            stamp = pa.timestamp("ms", getattr(column.type, "tz", None))
            return np.asarray(self._cast("open_time", stamp).cast(pa.int64()), np.int64)
        values = _as_numbers(column)
        if values is None:
            row = _first_refused(column, pa.float64())
            if row:  # numbers come before it
                self._fail("open_time", row, "is not a time since the epoch")
            return self._moments()
        if not np.isfinite(values).all():
            self._fail("open_time", int(np.isfinite(values).argmin()), "is not a time")
        basic_dates = FIRST_DATE <= np.median(values) <= LAST_DATE
        return self._moments() if basic_dates else _epoch_ms(values)

    def symbols(self, option: str | None) -> tuple[tuple[str, ...], Indices]:
        """The distinct names and the place of each bar's; the option stands in for a column."""
        if "symbol" not in self.arrays:
            if option is None:
                raise BarFileError(f"{self.path} has no column symbol; name it with --symbol")
            return (option,), np.zeros(len(self.arrays["open_time"]), np.int32)
        return self._names("symbol")

    def interval(
        self, option: str | None, symbol_index: Indices, open_time: Times
    ) -> tuple[str, NDArray[np.intp]]:
        """The interval of the bars to read, and which those are."""
        every = np.arange(len(open_time))
        if "interval" not in self.arrays:
            return option or self._inferred(symbol_index, open_time), every
        names, index = self._names("interval")
        if option is None and len(names) > 1:
            raise BarFileError(
                f"{self.path} has bars of several intervals ({', '.join(names)}); "
                "choose one with --interval"
            )
        name = option or names[0]
        if name not in names:
            raise BarFileError(
                f"{self.path} has no bars of --interval {name}; it has {', '.join(names)}"
            )
        if name not in INTERVAL_MS:
            self._fail("interval", 0, f"is not one of {', '.join(INTERVALS)}")
        return name, np.flatnonzero(index == names.index(name))

    def _inferred(self, symbol_index: Indices, open_time: Times) -> str:
        spacing_ms = _usual_spacing_ms(symbol_index, open_time)
        for name, interval_ms in INTERVAL_MS.items():
            if interval_ms == spacing_ms:
                return name
        raise BarFileError(
            f"{self.path} has no column interval, and its times do not tell one; "
            "give it with --interval"
        )

    def _numbers(self, name: str) -> Prices:
        import pyarrow as pa
        import pyarrow.compute as pc

        column = self.arrays[name]
        if pa.types.is_string(column.type):
            missing = pc.is_in(pc.utf8_lower(column), value_set=pa.array(NO_NUMBER))
            column = pc.if_else(missing, None, column)
        try:
            numbers = column.cast(pa.float64(), safe=False)
        except pa.ArrowException:
            self._fail(name, _first_refused(column, pa.float64()), "is not a number")
        return np.asarray(numbers.to_numpy(zero_copy_only=False), np.float64)

    def _moments(self) -> Times:
        """The times of ISO 8601 texts."""
        import pyarrow as pa

        column = self._cast("open_time", pa.string())
        for zone in (None, "UTC"):
            try:
                stamps = column.cast(pa.timestamp("us", zone))
            except pa.ArrowInvalid:
                continue
            return np.asarray(stamps.cast(pa.int64()).to_numpy() // 1000, np.int64)
        # Arrow wants every text with a zone or every one without, and no basic format.
        times = np.empty(len(column), np.int64)
        for row, text in enumerate(column.to_pylist()):
            try:
                moment = datetime.fromisoformat(text)
            except ValueError:
                self._fail("open_time", row, "is not a time in ISO 8601 or since the epoch")
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            times[row] = (moment - EPOCH) // timedelta(milliseconds=1)
        return times

    def _names(self, name: str) -> tuple[tuple[str, ...], Indices]:
        import pyarrow as pa

        coded = self._cast(name, pa.string()).fill_null("").dictionary_encode()
        index = coded.indices.to_numpy(zero_copy_only=False)
        return tuple(coded.dictionary.to_pylist()), np.asarray(index, np.int32)

    def _cast(self, name: str, kind: Any) -> Any:
        import pyarrow as pa

        try:
            return self.arrays[name].cast(kind, safe=False)
        except pa.ArrowException as error:
            raise BarFileError(
                f"{self.path}: column {self.headers[name]!r} holds {self.arrays[name].type}, "
                f"which is no {name}"
            ) from error

    def _fail(self, name: str, row: int, what: str) -> NoReturn:
        value = self.arrays[name][row].as_py()
        shown = "an empty cell" if value in (None, "") else repr(value)
        place = f"column {self.headers[name]!r}, row {row + self.first_row}"
        raise BarFileError(f"{self.path}: {place}: {shown} {what}")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Whatever goes wrong while a file is read becomes a `BarFileError`."""
    try:
        import pyarrow as pa
    except ImportError as error:
        raise BarFileError(
            f"cannot read {path} without pyarrow; run pip install 'quantum-ai-engine[files]'"
        ) from error
    if not path.name.lower().endswith((".csv", ".csv.gz", ".parquet")):
        raise BarFileError(f"{path} is not a .csv, .csv.gz or .parquet file")
    try:
        yield
    except FileNotFoundError as error:
        raise BarFileError(f"there is no file {path}") from error
    except (OSError, EOFError, zlib.error, UnicodeError, csv.Error, pa.ArrowException) as error:
        raise BarFileError(f"cannot read {path}: {str(error).splitlines()[0]}") from error


def _read(path: Path) -> Columns:
    with reading(path):
        parquet = path.name.lower().endswith(".parquet")
        columns = _read_parquet(path) if parquet else _read_csv(path)
    if not len(columns.arrays["open_time"]):
        raise BarFileError(f"{path} has no bars")
    return columns


def _read_csv(path: Path) -> Columns:
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    data = path.read_bytes()
    if path.name.lower().endswith(".gz"):
        data = gzip.decompress(data)
    header = csv_header(data)
    found = find(path, header)
    # One thread, for errors that name the row.
    table = arrow_csv.read_csv(
        pa.BufferReader(data if data.endswith(b"\n") else data + b"\n"),
        **csv_options(header, found, use_threads=False),
    )
    return columns_of(path, header, found, table, first_row=2)


def csv_options(header: Sequence[str], found: Mapping[str, int], **reading: Any) -> dict[str, Any]:
    """How Arrow reads the columns found: by position, since names may repeat, and as text."""
    import pyarrow as pa
    from pyarrow import csv as arrow_csv

    wanted = [str(position) for position in found.values()]
    return {
        "read_options": arrow_csv.ReadOptions(
            column_names=[str(position) for position in range(len(header))], skip_rows=1, **reading
        ),
        "convert_options": arrow_csv.ConvertOptions(
            include_columns=wanted, column_types=dict.fromkeys(wanted, pa.string())
        ),
    }


def columns_of(
    path: Path, header: Sequence[str], found: Mapping[str, int], table: Any, first_row: int
) -> Columns:
    """Our columns of an Arrow table that holds those found, in that order."""
    headers = {name: header[position] for name, position in found.items()}
    arrays = {name: _plain(table.column(i)) for i, name in enumerate(found)}
    return Columns(path, headers, arrays, first_row)


def csv_header(data: bytes) -> list[str]:
    """The names in the first line."""
    return next(csv.reader([io.BytesIO(data).readline().decode("utf-8-sig")]), [])


def _read_parquet(path: Path) -> Columns:
    from pyarrow import parquet

    with parquet.ParquetFile(path) as file:
        header = file.schema_arrow.names
        found = find(path, header)
        table = file.read(columns=[header[position] for position in found.values()])
    # Arrow gives the columns in the file's order, whatever was asked for.
    names = table.schema.names
    table = table.select([names.index(header[position]) for position in found.values()])
    return columns_of(path, header, found, table, first_row=1)


def find(path: Path, header: Sequence[str]) -> dict[str, int]:
    """Our name → position in the file, for each column that the file has."""
    plain = [name.strip().lower().replace(" ", "_").replace("-", "_") for name in header]
    if not any(plain):
        raise BarFileError(f"{path} is empty")
    found = {}
    for name, aliases in COLUMNS.items():
        alias = next((alias for alias in aliases if alias in plain), None)
        if alias is not None:
            found[name] = plain.index(alias)
        elif name not in OPTIONAL:
            raise BarFileError(
                f"{path} has no column {name} ({', '.join(aliases)}); it has {', '.join(header)}"
            )
    return found


def _plain(chunked: Any) -> Any:
    """One Arrow array: dictionaries decoded, texts trimmed, truth as text (it is no number)."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = chunked.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.type in (pa.large_string(), pa.string_view(), pa.bool_()):
        column = column.cast(pa.string())
    return pc.utf8_trim_whitespace(column) if pa.types.is_string(column.type) else column


def _as_numbers(column: Any) -> NDArray[Any] | None:
    """Whole numbers where all are, else floats; None where some cell is no number."""
    import pyarrow as pa

    for kind in (pa.int64(), pa.float64()):
        try:
            return np.asarray(column.cast(kind).to_numpy(zero_copy_only=False))
        except pa.ArrowException:
            continue
    return None


def _epoch_ms(values: NDArray[Any]) -> Times:
    """Numbers since the epoch in ms; all are taken to be in the unit of their median."""
    middle = abs(float(np.median(values)))
    multiplier, divisor = next(unit[1:] for unit in EPOCH_UNITS if middle < unit[0])
    limit = INT64_MAX // multiplier  # a wild value must stay wild, not wrap into a likely one
    if values.dtype == np.float64:
        scaled = np.rint(np.clip(values, -limit, limit) * (multiplier / divisor))
        return np.asarray(np.clip(scaled, -(2.0**62), 2.0**62), np.int64)
    return np.asarray(np.clip(values, -limit, limit) * multiplier // divisor, np.int64)


def _usual_spacing_ms(symbol_index: Indices, open_time: Times) -> int:
    """The most frequent distance between neighbours of one symbol; 0 when there are none."""
    order = np.lexsort((open_time, symbol_index))
    spacing = np.diff(open_time[order])[np.diff(symbol_index[order]) == 0]
    values, counts = np.unique(spacing[spacing > 0], return_counts=True)
    return int(values[counts.argmax()]) if len(values) else 0


def _first_refused(column: Any, kind: Any) -> int:
    """The first row that does not cast, of a column that does not; found by halves."""
    import pyarrow as pa

    start, stop = 0, len(column)
    while stop - start > 1:
        middle = (start + stop) // 2
        try:
            column[start:middle].cast(kind)
        except pa.ArrowException:
            stop = middle
        else:
            start = middle
    return start
