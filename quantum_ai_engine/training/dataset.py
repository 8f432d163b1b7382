"""From recorded bars to labelled windows, split by time, with the statistics of the train span."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from quantum_ai_engine.agents.normaliser import Normaliser
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.kernel import matrix
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.matrix import Admission

CLAMP = 8.0
SPREAD_FLOOR = 1e-8
LEAST_SAMPLES = 20  # of a span: fewer say nothing about a model
SPAN_NAMES = ("train", "validation", "test")


class TrainingError(ValueError):
    """Bars or options from which no honest bundle can come: one sentence that says what to do."""


@dataclass(frozen=True, eq=False, slots=True)
class Samples:
    """The labelled windows of one span, in order of time.

    `row` [n] is where the newest row of each window stands in the dataset's rows, `close_time` [n]
    its time, and `rose` [n] 1 where the close is higher at the horizon and 0 where it is lower.
    """

    row: NDArray[np.int64]
    close_time: NDArray[np.int64]
    rose: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, eq=False, slots=True)
class Dataset:
    """Rows [bars, columns], one symbol after the other, and the labelled windows of each span.

    `refused` bars were left out because the engine would not take them, `unlabelled` windows
    because their move was inside the dead zone or their outcome was not recorded.
    """

    feature_set: FeatureSet
    interval: str
    horizon_bars: int
    symbols: tuple[str, ...]
    rows: NDArray[np.float64]
    train: Samples
    validation: Samples
    test: Samples
    normaliser: Normaliser
    refused: int
    unlabelled: int
    data_sha256: str

    @property
    def base_rate(self) -> float:
        """The share of the train span's windows after which the close rose."""
        return float(self.train.rose.mean())

    @property
    def embargo_bars(self) -> int:
        """Bars between the last decision of one span and the first of the next, at least."""
        return self.horizon_bars + self.feature_set.window

    def windows(self, samples: Samples) -> NDArray[np.float64]:
        """The raw windows [n, window, columns] of these samples."""
        window = self.feature_set.window
        views = sliding_window_view(self.rows, window, axis=0)  # [bars, columns, window]
        return views[samples.row - window + 1].transpose(0, 2, 1)  # [n, window, columns]


@dataclass(frozen=True, eq=False, slots=True)
class _Bars:
    """The accepted bars, one symbol after the other; `start[i]` is the first of symbol i."""

    start: NDArray[np.int64]
    open_time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]


@dataclass(frozen=True, eq=False, slots=True)
class _Decisions:
    """Bars with a whole window: what each touches in time, and the log move that followed.

    `opens` is the open time of the window's first bar, `settles` the close time of the outcome;
    `move` is NaN where no bar closes at that time.
    """

    row: NDArray[np.int64]
    opens: NDArray[np.int64]
    close_time: NDArray[np.int64]
    settles: NDArray[np.int64]
    move: NDArray[np.float64]


def build(
    table: BarTable,
    feature_set: FeatureSet,
    horizon_bars: int,
    dead_zone: float = 0.0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    calendars: Calendars | None = None,
) -> Dataset:
    """Label, split and measure the bars of a table. Raises `TrainingError`.

    The label of bar t is 1 if ln(close[t + horizon] / close[t]) is above `dead_zone` (a fraction),
    0 if it is below −`dead_zone`, else the window is left out. `fractions` are the shares of the
    decisions that lie before the borders of the spans; the borders hold for all symbols.
    """
    if table.interval not in INTERVAL_MS:
        raise TrainingError(f"interval {table.interval!r} is unknown; name one such as 1m or 1h")
    calendars = calendars or Calendars({})
    kept = Admission().judge(table)
    bars = _by_symbol(table, kept)
    rows = _rows(bars, table.symbols, feature_set, calendars, table.interval)
    decisions = _decisions(bars, feature_set, horizon_bars, INTERVAL_MS[table.interval])
    labelled = np.abs(decisions.move) > dead_zone  # False for NaN: unlabelled, never class 0
    spans = _split(decisions, labelled, fractions)
    return Dataset(
        feature_set,
        table.interval,
        horizon_bars,
        table.symbols,
        rows,
        *spans,
        _statistics(bars, rows, feature_set, int(spans[0].close_time[-1])),
        int(np.count_nonzero(~kept)),
        int(np.count_nonzero(~labelled)),
        _data_sha256(table, bars),
    )


def _by_symbol(table: BarTable, kept: NDArray[np.bool_]) -> _Bars:
    at = np.flatnonzero(kept)
    at = at[np.argsort(table.symbol_index[at], kind="stable")]  # the order of time stays
    bounds = np.arange(len(table.symbols) + 1)
    start = np.searchsorted(table.symbol_index[at], bounds).astype(np.int64)
    return _Bars(start, table.open_time[at], table.ohlcv[at])


def _rows(
    bars: _Bars,
    symbols: Sequence[str],
    feature_set: FeatureSet,
    calendars: Calendars,
    interval: str,
) -> NDArray[np.float64]:
    rows = np.empty((len(bars.open_time), len(feature_set.columns)))
    for symbol, (first, end) in zip(symbols, itertools.pairwise(bars.start), strict=True):
        part = slice(first, end)
        given = calendars.of(symbol).rows(
            bars.open_time[part], bars.ohlcv[part], INTERVAL_MS[interval]
        )
        rows[part] = matrix(given)[:, feature_set.indices]
    return rows


def _decisions(
    bars: _Bars, feature_set: FeatureSet, horizon_bars: int, interval_ms: int
) -> _Decisions:
    ready = [
        np.arange(first + feature_set.window_ready_at - 1, end, dtype=np.int64)
        for first, end in itertools.pairwise(bars.start)
    ]
    outcome = [
        _outcomes(bars.open_time[first:end], part - first, horizon_bars * interval_ms) + first
        for part, (first, end) in zip(ready, itertools.pairwise(bars.start), strict=True)
    ]
    row, at = np.concatenate(ready), np.concatenate(outcome)
    close, close_time = bars.ohlcv[:, 3], bars.open_time + interval_ms
    settles = close_time[row] + horizon_bars * interval_ms
    recorded = close_time[at] == settles
    return _Decisions(
        row,
        bars.open_time[row - feature_set.window + 1],
        close_time[row],
        settles,
        np.where(recorded, np.log(close[at] / close[row]), np.nan),
    )


def _outcomes(
    open_time: NDArray[np.int64], row: NDArray[np.int64], horizon_ms: int
) -> NDArray[np.int64]:
    """The first bar at or after each outcome's time: beyond a gap it is another one."""
    at = np.searchsorted(open_time, open_time[row] + horizon_ms)
    return np.minimum(at, len(open_time) - 1).astype(np.int64)


def _split(
    decisions: _Decisions, labelled: NDArray[np.bool_], fractions: tuple[float, float, float]
) -> tuple[Samples, Samples, Samples]:
    """Spans that share no bar: what a window reads and what settles it lie inside one span.

    So the last decision of a span and the first of the next are horizon + window bars apart.
    """
    if min(fractions) <= 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise TrainingError(f"fractions {fractions} must be positive and sum to 1")
    times = np.sort(decisions.close_time)
    if not len(times):
        raise TrainingError("no symbol has bars enough for one window; give more bars per symbol")
    # The borders follow from times alone: no price after a border can move it.
    first, second = (
        int(times[int(share * len(times))]) for share in (fractions[0], 1.0 - fractions[2])
    )
    return (
        _samples(decisions, labelled & (decisions.settles <= first), "train"),
        _samples(
            decisions,
            labelled & (decisions.opens >= first) & (decisions.settles <= second),
            "validation",
        ),
        _samples(decisions, labelled & (decisions.opens >= second), "test"),
    )


def _samples(decisions: _Decisions, chosen: NDArray[np.bool_], name: str) -> Samples:
    at = np.flatnonzero(chosen)
    at = at[np.argsort(decisions.close_time[at], kind="stable")]
    rose = (decisions.move[at] > 0.0).astype(np.float64)
    if len(at) < LEAST_SAMPLES:
        raise TrainingError(
            f"the {name} span has {len(at)} labelled windows of the {LEAST_SAMPLES} it needs at "
            "least; give more bars per symbol, a shorter horizon or a smaller dead zone"
        )
    if not 0.0 < rose.mean() < 1.0:
        moved = "rises" if rose[0] else "falls"
        raise TrainingError(
            f"every window of the {name} span is followed by {moved}; give bars of a longer time"
        )
    return Samples(decisions.row[at], decisions.close_time[at], rose)


def _statistics(
    bars: _Bars, rows: NDArray[np.float64], feature_set: FeatureSet, train_until_ms: int
) -> Normaliser:
    """Mean and spread of the whole rows up to the last decision of the train span."""
    place = np.concatenate(
        [np.arange(end - first) for first, end in itertools.pairwise(bars.start)]
    )
    # A bar that opens before that moment has closed by then: both lie on the interval's grid.
    inside = (place >= feature_set.ready_at - 1) & (bars.open_time < train_until_ms)
    mean, spread = rows[inside].mean(axis=0), rows[inside].std(axis=0)
    for column, value in zip(feature_set.columns, spread, strict=True):
        if not value >= SPREAD_FLOOR:
            raise TrainingError(
                f"column {column} hardly varies in the train span (spread {value:.2g}, floor "
                f"{SPREAD_FLOOR:g}); give bars in which it does, or train a kind without it"
            )
    return Normaliser(tuple(mean.tolist()), tuple(spread.tolist()), CLAMP)


def _data_sha256(table: BarTable, bars: _Bars) -> str:
    digest = hashlib.sha256(table.interval.encode())
    for symbol, (first, end) in zip(table.symbols, itertools.pairwise(bars.start), strict=True):
        digest.update(f"\n{symbol} {end - first}\n".encode())
        digest.update(bars.open_time[first:end].astype("<i8").tobytes())
        digest.update(bars.ohlcv[first:end].astype("<f8").tobytes())
    return digest.hexdigest()
