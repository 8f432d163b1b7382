"""The signals of a replay as columns of a Parquet file."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec

from quantum_ai_engine.events import Signal

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

    Times are ms since the epoch. Closed by leaving its context, else it cannot be read.
    """

    def __init__(self, path: Path) -> None:
        from pyarrow import parquet

        self._schema = signal_schema()
        self._writer = parquet.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> "SignalFile":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._writer.close()

    def write(self, signals: Sequence[Signal]) -> None:
        """Put signals behind the others, as a group of their own."""
        import pyarrow as pa

        rows = list(zip(*map(_row, signals), strict=True)) or [()] * len(COLUMNS)
        arrays = [
            pa.array(values, kind) for values, kind in zip(rows, self._schema.types, strict=True)
        ]
        self._writer.write_table(pa.Table.from_arrays(arrays, schema=self._schema))


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
