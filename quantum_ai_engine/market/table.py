"""Many bars of one interval as columns, in time order."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.events import Bar

Times = NDArray[np.int64]
Prices = NDArray[np.float64]
Indices = NDArray[np.int32]


class UnknownSymbolError(ValueError):
    """A symbol of which the table has no bars: one sentence that names those it has."""


@dataclass(frozen=True, eq=False, slots=True)
class BarTable:
    """Bars as they were recorded, bad ones too: what is a bar is decided where one is made.

    Parameters: `symbols`, the distinct names; `symbol_index` [n], the place of each bar's name in
    `symbols`; `interval`, that of all bars; `open_time` [n] in ms, never falling; `ohlcv` [n, 5]:
    open, high, low, close, volume.

    >>> table = BarTable(
    ...     ("BTCUSDT",),
    ...     np.array([0, 0], np.int32),
    ...     "1m",
    ...     np.array([0, 60_000]),
    ...     np.array([[100.0, 102.0, 99.0, 101.0, 5.0], [101.0, 103.0, 100.0, 102.0, 4.0]]),
    ... )
    >>> table.bar(1).close
    102.0
    >>> [bar.close_time for bar in table.bars()]
    [60000, 120000]
    """

    symbols: tuple[str, ...]
    symbol_index: Indices
    interval: str
    open_time: Times
    ohlcv: Prices

    def __post_init__(self) -> None:
        bars = len(self.open_time)
        if self.symbol_index.shape != (bars,) or self.ohlcv.shape != (bars, 5):
            raise ValueError(
                f"symbol_index {self.symbol_index.shape} and ohlcv {self.ohlcv.shape} do not fit "
                f"the {bars} values of open_time"
            )
        if len(set(self.symbols)) != len(self.symbols):
            raise ValueError(f"symbols {self.symbols} are not distinct")
        if np.any(self.open_time[1:] < self.open_time[:-1]):
            raise ValueError("open_time falls; sort the bars by time")

    def __len__(self) -> int:
        return len(self.open_time)

    def bar(self, i: int) -> Bar:
        """The i-th bar. Raises `Refused` when it is not a bar that could have happened."""
        open_, high, low, close, volume = self.ohlcv[i].tolist()
        symbol, open_time = self.symbols[self.symbol_index[i]], self.open_time.item(i)
        return Bar(symbol, self.interval, open_time, open_, high, low, close, volume)

    def bars(self, start: int = 0) -> Iterator[Bar]:
        """The bars from the start-th on; after a `Refused`, the next call gives the next bar."""
        return map(self.bar, range(start, len(self)))

    def of(self, symbol: str) -> tuple[Times, Prices]:
        """The `open_time` [m] and `ohlcv` [m, 5] of one symbol. Raises `UnknownSymbolError`."""
        own = self.only([symbol])
        return own.open_time, own.ohlcv

    def only(self, symbols: Iterable[str]) -> "BarTable":
        """The bars of these symbols, in this order of names. Raises `UnknownSymbolError`."""
        names = tuple(dict.fromkeys(symbols))
        if names == self.symbols:
            return self
        place = np.full(len(self.symbols), -1, np.int32)
        for new, name in enumerate(names):
            place[self._index(name)] = new
        symbol_index = place[self.symbol_index]
        kept = symbol_index >= 0
        return BarTable(
            names, symbol_index[kept], self.interval, self.open_time[kept], self.ohlcv[kept]
        )

    def rows(self, start: int, stop: int) -> "BarTable":
        """The bars from the start-th up to, and without, the stop-th."""
        return self.where(slice(start, stop))

    def where(self, kept: NDArray[np.bool_] | slice) -> "BarTable":
        """The bars that a mask [n] or a slice keeps."""
        return BarTable(
            self.symbols,
            self.symbol_index[kept],
            self.interval,
            self.open_time[kept],
            self.ohlcv[kept],
        )

    def head(self, fraction: float) -> "BarTable":
        """The first fraction (0 to 1) of the bars, rounded down."""
        if not 0.0 <= fraction <= 1.0:
            raise ValueError(f"fraction {fraction} is not between 0 and 1")
        return self.rows(0, int(len(self) * fraction))

    def _index(self, symbol: str) -> int:
        if symbol not in self.symbols:
            raise UnknownSymbolError(
                f"there are no bars of symbol {symbol!r}; there are {', '.join(self.symbols)}"
            )
        return self.symbols.index(symbol)
