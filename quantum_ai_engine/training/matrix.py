"""Recorded bars through the live engine's judges and kernel, part by part."""

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import INTERVAL_MS, Refused
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable


class Admission:
    """Which recorded bars the live engine would take as new, in the order of the record.

    `Bar` says whether it could have happened; it must open after all others of its symbol.
    """

    def __init__(self) -> None:
        self._last_open: dict[str, int] = {}

    def judge(self, table: BarTable) -> NDArray[np.bool_]:
        """Which bars [n] of the table, coming after all tables before, are taken."""
        kept = np.zeros(len(table), dtype=np.bool_)
        for i in range(len(table)):
            try:
                bar = table.bar(i)
            except Refused:
                continue
            kept[i] = bar.open_time > self._last_open.get(bar.symbol, -1)
            if kept[i]:
                self._last_open[bar.symbol] = bar.open_time
        return kept


class FeatureMatrix:
    """Kernel rows of recorded bars, one table after the other; each symbol's state goes on."""

    def __init__(self, calendars: Calendars) -> None:
        self._calendars = calendars
        self._states: dict[str, NDArray[np.float64]] = {}

    def rows(self, table: BarTable) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Rows [n, columns] of bars that were taken, and how many bars [n] its symbol had then."""
        rows = np.empty((len(table), kernel.COLUMN_COUNT))
        counts = np.empty(len(table), dtype=np.int64)
        for place, symbol in enumerate(table.symbols):
            at = np.flatnonzero(table.symbol_index == place)
            state = self._states.setdefault(symbol, kernel.new_states(1)[0])
            before = int(kernel.bars_seen(state[np.newaxis])[0])
            bars = self._calendars.of(symbol).rows(
                table.open_time[at], table.ohlcv[at], INTERVAL_MS[table.interval]
            )
            out = np.empty((len(at), kernel.COLUMN_COUNT))
            kernel.history(state, bars, out)
            rows[at] = out
            counts[at] = before + 1 + np.arange(len(at))
        return rows, counts
