"""`qae features`: a feature matrix from recorded bars, as the live engine would compute it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from quantum_ai_engine.cli.common import (
    CommandError,
    ConfigOption,
    UsageError,
    day_ms,
    load_settings,
    progress_bar,
    say,
)
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.kernel import KERNEL_VERSION
from quantum_ai_engine.features.schema import FeatureSet, SchemaError, feature_set
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.stream import stream_bars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix


def features(
    data: Annotated[Path, typer.Option(help="Bars in time order: .csv, .csv.gz or .parquet.")],
    set_name: Annotated[str, typer.Option("--set", help="Feature set.")],
    out: Annotated[Path, typer.Option(help="The .parquet file to write.")],
    start: Annotated[str | None, typer.Option(help="First day to write: 2025-01-31.")] = None,
    symbol: Annotated[str | None, typer.Option(help="Symbol, when the file names none.")] = None,
    interval: Annotated[
        str | None, typer.Option(help="Interval, when the file names none.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Write one row per bar: symbol, close_time, ready, then the set's columns by name.

    Bars that the live engine would refuse have no row. Earlier bars warm up the rows from --start.
    """
    try:
        chosen = feature_set(set_name)
    except SchemaError as error:
        raise UsageError(f"--set: {error}") from error
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out}: name a .parquet file")
    start_ms = day_ms("--start", start) if start is not None else 0
    calendars = Calendars(load_settings(config, None).settings.sessions.by_symbol())
    parts = stream_bars(data, symbol=symbol, interval=interval)
    temporary = out.with_name(f".{out.name}.part")
    try:
        bars, rows = _write(temporary, chosen, _frames(parts, chosen, calendars, start_ms))
        temporary.replace(out)
    except OSError as error:
        raise CommandError(f"cannot write {out}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)
    say(f"{out}: {rows} rows of {chosen.name} from {bars} bars")


def _frames(
    parts: Iterator[BarTable], chosen: FeatureSet, calendars: Calendars, start_ms: int
) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each part of the file: how many bars it had, and the columns to write."""
    admission, matrix = Admission(), FeatureMatrix(calendars)
    for part in parts:
        table = part.where(admission.judge(part))
        rows, counts = matrix.rows(table)
        close_time = table.open_time + INTERVAL_MS[table.interval]
        written = table.open_time >= start_ms
        names = np.array(table.symbols)[table.symbol_index[written]]
        values = rows[written][:, chosen.indices]
        yield (
            len(part),
            {
                "symbol": names,
                "close_time": close_time[written],
                "ready": counts[written] >= chosen.ready_at,
                **{name: values[:, i] for i, name in enumerate(chosen.columns)},
            },
        )


def _write(
    path: Path, chosen: FeatureSet, frames: Iterator[tuple[int, dict[str, Any]]]
) -> tuple[int, int]:
    """Write the frames; bars read and rows written."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ModuleNotFoundError as error:
        raise CommandError("pip install 'quantum-ai-engine[files]' to write Parquet") from error
    columns = [(name, pa.float64()) for name in chosen.columns]
    schema = pa.schema(
        [("symbol", pa.string()), ("close_time", pa.int64()), ("ready", pa.bool_()), *columns],
        metadata={
            "feature_set": chosen.name,
            "schema_hash": chosen.hash,
            "kernel_version": str(KERNEL_VERSION),
        },
    )
    bars = rows = 0
    with progress_bar() as bar, parquet.ParquetWriter(path, schema) as file:
        task = bar.add_task(f"{chosen.name}", total=None, note="")
        for read, frame in frames:
            table = pa.table(frame, schema=schema)
            file.write_table(table)
            bars, rows = bars + read, rows + table.num_rows
            bar.update(task, completed=bars, note=f"{rows:,} rows")
        bar.update(task, total=bars)
    return bars, rows
