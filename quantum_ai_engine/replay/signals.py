"""The signals of a replay as columns of a Parquet file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from quantum_ai_engine.events import Signal

GROUP_ROWS = 10_000
COLUMNS = {
    "id": "string",
    "symbol": "string",
    "interval": "string",
    "close_time": "int64",
    "probability": "float64",
    "confidence": "float64",
    "stance": "string",
    "target": "float64",
    "effective_votes": "float64",
    "risk_state": "string",
    "policy_mode": "string",
    "json": "string",
}


class SignalFile:
    """A Parquet file of signals, written a group at a time; `json` has each as on the wire.

    Times are ms since the epoch. It can be read once it is closed.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._schema = signal_schema()
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")
        self._waiting = list[Signal]()

    def add(self, signals: Sequence[Signal]) -> None:
        """Put signals behind the others."""
        self._waiting += signals
        if len(self._waiting) >= GROUP_ROWS:
            self._flush()

    def close(self) -> None:
        """Write what waits, and the end of the file."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        if not self._waiting:
            return
        import pyarrow as pa

        columns = zip(*map(_row, self._waiting), strict=True)
        kinds = self._schema.types
        arrays = [pa.array(values, kind) for values, kind in zip(columns, kinds, strict=True)]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))
        self._waiting = []


def join(parts: Sequence[Path], path: Path) -> None:
    """One file of some, a group at a time."""
    from pyarrow import parquet

    with parquet.ParquetWriter(path, signal_schema(), compression="zstd") as writer:
        for part in parts:
            with parquet.ParquetFile(part) as file:
                for group in range(file.num_row_groups):
                    writer.write_table(file.read_row_group(group))


def signals_in(path: Path) -> Iterator[Signal]:
    """The signals of a file, in their order."""
    from pyarrow import parquet

    decoder = msgspec.json.Decoder(Signal)
    with parquet.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            yield from map(decoder.decode, file.read_row_group(group, ["json"])["json"].to_pylist())


def signal_schema() -> Any:
    """The columns of a file of signals."""
    import pyarrow as pa

    return pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])


def _row(signal: Signal) -> tuple[object, ...]:
    return (
        signal.id,
        signal.symbol,
        signal.interval,
        signal.close_time,
        signal.probability,
        signal.confidence,
        signal.stance.value,
        signal.target,
        signal.effective_votes,
        signal.risk.state,
        signal.policy.mode,
        msgspec.json.encode(signal).decode(),
    )
