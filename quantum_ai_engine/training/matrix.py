"""Recorded bars through the live engine's judges and kernel, part by part."""

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import INTERVAL_MS, Refused
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.order import Arrival, Sequencer
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable


class Admission:
    """Which recorded bars the live engine would take, by its own two judges.

    `Bar` says whether it could have happened, `Sequencer` whether it is new to its series.
    """

    def __init__(self) -> None:
        self._order = Sequencer()
        self._series: dict[str, int] = {}

    def judge(self, table: BarTable) -> NDArray[np.bool_]:
        """Which bars [n] of the table, coming after all tables before, are taken."""
        for symbol in table.symbols:
            self._series.setdefault(symbol, len(self._series))
        self._order.reserve(len(self._series))
        series = [self._series[symbol] for symbol in table.symbols]
        kept = np.zeros(len(table), dtype=np.bool_)
        for i, place in enumerate(table.symbol_index.tolist()):
            try:
                bar = table.bar(i)
            except Refused:
                continue
            kept[i] = self._order.update(series[place], bar) is Arrival.NEW
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
