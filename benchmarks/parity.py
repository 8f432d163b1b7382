"""Every column of every bar of real files by three ways: how many bits differ.

`python -m benchmarks.parity FILE …`: whole histories, single steps, and bursts over all symbols in
the file's order, a thousand bars at a time, as the live engine takes them.
"""

import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import EVERYTHING
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.files import read_bars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix

BATCH = 1_000
Rows = NDArray[np.float64]


def main() -> None:
    if len(sys.argv) == 1:
        sys.exit("usage: python -m benchmarks.parity FILE …")
    total = 0
    for name in sys.argv[1:]:
        table = read_bars(name)
        table = table.where(Admission().judge(table))
        histories, _ = FeatureMatrix(Calendars({})).rows(table)
        bars = _kernel_bars(table)
        for way, rows in (("steps", _steps(table, bars)), ("bursts", _bursts(table, bars))):
            difference = histories.view(np.uint64) ^ rows.view(np.uint64)
            differing = int(np.bitwise_count(difference).sum())
            total += differing
            print(
                f"{Path(name).name}: {len(table):,} bars × {kernel.COLUMN_COUNT} columns, "
                f"history against {way}: {differing} bits differ"
            )
    sys.exit(1 if total else 0)


def _kernel_bars(table: BarTable) -> Rows:
    """The bars as the kernel reads them, in the order of the file."""
    calendars = Calendars({})
    return np.array([calendars.row(table.bar(i)) for i in range(len(table))])


def _steps(table: BarTable, bars: Rows) -> Rows:
    states, rows = kernel.new_states(len(table.symbols)), _empty(table)
    for i, place in enumerate(table.symbol_index.tolist()):
        kernel.step(states[place], bars[i], rows[i], EVERYTHING)
    return rows


def _bursts(table: BarTable, bars: Rows) -> Rows:
    states, rows = kernel.new_states(len(table.symbols)), _empty(table)
    series, counts = table.symbol_index.astype(np.int64), np.empty(len(table), dtype=np.int64)
    for start in range(0, len(table), BATCH):
        cut = slice(start, start + BATCH)
        kernel.burst(states, series[cut], bars[cut], rows[cut], counts[cut], EVERYTHING)
    return rows


def _empty(table: BarTable) -> Rows:
    return np.empty((len(table), kernel.COLUMN_COUNT))


if __name__ == "__main__":
    main()
