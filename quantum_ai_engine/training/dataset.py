"""From recorded bars to labelled windows, split by time, with the statistics of the train span."""

import hashlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.normaliser import Normaliser
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import FeatureSet
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.matrix import Admission, FeatureMatrix
from quantum_ai_engine.training.options import TrainingError
from quantum_ai_engine.training.rows import PART_BARS, Moments, mapped

CLAMP = 8.0
# Columns are ratios and shares, so this is far below any market's. Times |mean| where that is above
# 1: the rounding of float64 stays below that of the float32 that a model reads.
SPREAD_FLOOR = 1e-8
LEAST_SAMPLES = 20  # of a span: fewer say nothing about a model
SPAN_NAMES = ("train", "validation", "test")


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

    def part(self, some: slice) -> "Samples":
        """Some of these samples."""
        return Samples(self.row[some], self.close_time[some], self.rose[some])


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows [bars, columns], one symbol after the other, and the labelled windows of each span.

    The rows lie in a temporary file, 8 bytes a value, that is gone with the dataset (see `mapped`).
    In memory are the bars of the table, 52 bytes each, about 120 bytes a bar more while the dataset
    is built, and 8 of each bar and 24 of each labelled window thereafter: memory does not grow with
    the columns.

    `open_time` [bars] is that of each row's bar. `train_rows` are the rows of each symbol that were
    whole by the end of the train span. `refused` bars were left out because the engine would not
    take them; `crossing` windows because a hole of the feed or the pause between two sessions lies
    inside; `unlabelled` ones of the train span because their move was inside the dead zone or not
    every bar up to their outcome was recorded.
    """

    feature_set: FeatureSet
    interval: str
    horizon_bars: int
    symbols: tuple[str, ...]
    rows: NDArray[np.float64]
    open_time: NDArray[np.int64]
    train_rows: tuple[slice, ...]
    train: Samples
    validation: Samples
    test: Samples
    refused: int
    crossing: int
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

    def effective_labels(self, samples: Samples) -> float:
        """How many independent outcomes these samples have at least.

        Outcomes less than a horizon apart share bars, and symbols move together at one moment: a
        moment counts once, however many symbols it has.
        """
        return len(np.unique(samples.close_time)) / self.horizon_bars

    @cached_property
    def normaliser(self) -> Normaliser:
        """Mean and spread of the train rows. Raises `TrainingError` naming columns without any."""
        moments = Moments(len(self.feature_set.columns))
        for rows in self.train_rows:
            for part in _slices(rows.start, rows.stop):
                moments.update(self.rows[part])
        mean, spread = moments.mean, moments.spread
        flat = np.flatnonzero(~(spread >= SPREAD_FLOOR * np.maximum(1.0, np.abs(mean))))
        if len(flat):
            named = ", ".join(f"{self.feature_set.columns[i]} ({spread[i]:.2g})" for i in flat)
            raise TrainingError(
                f"the train span has no spread in {named}, floor {SPREAD_FLOOR:g}; give bars of a "
                "longer time, or train a kind that reads other columns"
            )
        return Normaliser(tuple(mean.tolist()), tuple(spread.tolist()), CLAMP)

    @cached_property
    def normalised(self) -> NDArray[np.float32]:
        """All rows as a model that standardises them reads them, in a temporary file of their own.

        Rows are in `window` windows each and windows in many epochs: it is done once.
        """
        parts = (self.normaliser.apply(self.rows[part])[0] for part in _slices(0, len(self.rows)))
        return mapped(parts, self.rows.shape, np.float32)

    def windows(self, samples: Samples) -> NDArray[np.float64]:
        """The raw windows [n, window, columns] of these samples."""
        return self.rows[self.window_rows(samples.row)]  # [n, window, columns]

    def window_rows(self, row: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where the rows [n, window] of the windows that end at these rows [n] stand."""
        return row[:, np.newaxis] + np.arange(1 - self.feature_set.window, 1)


@dataclass(frozen=True, eq=False, slots=True)
class _Bars:
    """The accepted bars, one symbol after the other; `start[i]` is the first of symbol i."""

    start: NDArray[np.int64]
    open_time: NDArray[np.int64]
    ohlcv: NDArray[np.float64]

    def spans(self) -> Iterator[tuple[int, int]]:
        """The first bar of each symbol, and the first after its last."""
        return itertools.pairwise(self.start.tolist())


@dataclass(frozen=True, eq=False, slots=True)
class _Decisions:
    """Bars with a whole window: what each touches in time, and the log move that followed.

    `opens` is the open time of the window's first bar, `settles` the close time of the outcome;
    `move` is NaN where the bars up to that time were not all recorded. `crossing` more bars had
    windows that are not contiguous in time.
    """

    row: NDArray[np.int64]
    opens: NDArray[np.int64]
    close_time: NDArray[np.int64]
    settles: NDArray[np.int64]
    move: NDArray[np.float64]
    crossing: int


def build(
    table: BarTable,
    feature_set: FeatureSet,
    horizon_bars: int,
    dead_zone: float = 0.0,
    fractions: tuple[float, float, float] = (0.7, 0.15, 0.15),
    calendars: Calendars | None = None,
) -> Dataset:
    """Label and split the bars of a table, and make their rows. Raises `TrainingError`.

    The label of bar t is 1 if ln(close[t + horizon] / close[t]) is above `dead_zone` (a fraction),
    0 if it is below −`dead_zone`, else the window is left out. From the oldest bar of a window to
    its outcome no bar is missing: neither a hole nor a pause between sessions lies there.
    `fractions` are the shares of the decisions that lie before the borders of the spans; the
    borders hold for all symbols.
    """
    if table.interval not in INTERVAL_MS:
        raise TrainingError(f"interval {table.interval!r} is unknown; name one such as 1m or 1h")
    kept = Admission().judge(table)
    bars = _by_symbol(table, kept)
    decisions = _decisions(bars, feature_set, horizon_bars, INTERVAL_MS[table.interval])
    labelled = np.abs(decisions.move) > dead_zone  # False for NaN: unlabelled, never class 0
    first, second = _borders(decisions, fractions)
    spans = _split(decisions, labelled, first, second)
    return Dataset(
        feature_set,
        table.interval,
        horizon_bars,
        table.symbols,
        mapped(
            _rows(bars, table, feature_set, calendars or Calendars({})),
            (len(bars.open_time), len(feature_set.columns)),
            np.float64,
        ),
        bars.open_time,
        _train_rows(bars, feature_set, int(spans[0].close_time[-1])),
        *spans,
        int(np.count_nonzero(~kept)),
        decisions.crossing,
        int(np.count_nonzero(~labelled & (decisions.settles <= first))),
        _data_sha256(table, bars),
    )


def _by_symbol(table: BarTable, kept: NDArray[np.bool_]) -> _Bars:
    at = np.flatnonzero(kept)
    at = at[np.argsort(table.symbol_index[at], kind="stable")]  # the order of time stays
    bounds = np.arange(len(table.symbols) + 1)
    start = np.searchsorted(table.symbol_index[at], bounds).astype(np.int64)
    return _Bars(start, table.open_time[at], table.ohlcv[at])


def _rows(
    bars: _Bars, table: BarTable, feature_set: FeatureSet, calendars: Calendars
) -> Iterator[NDArray[np.float64]]:
    """The set's columns of all bars, part by part; the state of a symbol goes on between parts."""
    matrix, columns = FeatureMatrix(calendars), feature_set.indices
    for symbol, (first, end) in zip(table.symbols, bars.spans(), strict=True):
        for part in _slices(first, end):
            open_time = bars.open_time[part]
            nobody = np.zeros(len(open_time), np.int32)
            given = BarTable((symbol,), nobody, table.interval, open_time, bars.ohlcv[part])
            yield matrix.rows(given)[0][:, columns]


def _slices(first: int, end: int) -> Iterator[slice]:
    return (slice(i, min(i + PART_BARS, end)) for i in range(first, end, PART_BARS))


def _decisions(
    bars: _Bars, feature_set: FeatureSet, horizon_bars: int, interval_ms: int
) -> _Decisions:
    ready = [
        np.arange(first + feature_set.window_ready_at - 1, end, dtype=np.int64)
        for first, end in bars.spans()
    ]
    row = np.concatenate(ready)
    end = np.repeat(bars.start[1:], [len(part) for part in ready])  # of the row's symbol
    close, close_time = bars.ohlcv[:, 3], bars.open_time + interval_ms
    opens = bars.open_time[row - feature_set.window + 1]
    whole = close_time[row] - opens == feature_set.window * interval_ms
    row, end, opens = row[whole], end[whole], opens[whole]
    settles = close_time[row] + horizon_bars * interval_ms
    at = np.where(row + horizon_bars < end, row + horizon_bars, row)
    recorded = close_time[at] == settles  # as many bars later as intervals: none is missing
    move = np.where(recorded, np.log(close[at] / close[row]), np.nan)
    return _Decisions(row, opens, close_time[row], settles, move, int(np.count_nonzero(~whole)))


def _borders(decisions: _Decisions, fractions: tuple[float, float, float]) -> tuple[int, int]:
    """The times in ms at which the train span ends and the test span begins."""
    if min(fractions) <= 0.0 or abs(sum(fractions) - 1.0) > 1e-9:
        raise TrainingError(f"fractions {fractions} must be positive and sum to 1")
    times = np.sort(decisions.close_time)
    if not len(times):
        raise TrainingError(
            "no symbol has bars enough for one window without a gap "
            f"({decisions.crossing} windows cross one); give more bars per symbol, or bars of a "
            "shorter interval"
        )
    # The borders follow from times alone: no price after a border can move it.
    first, second = (int(share * len(times)) for share in (fractions[0], 1.0 - fractions[2]))
    return int(times[first]), int(times[second])


def _split(
    decisions: _Decisions, labelled: NDArray[np.bool_], first: int, second: int
) -> tuple[Samples, Samples, Samples]:
    """Spans that share no bar: what a window reads and what settles it lie inside one span.

    So the last decision of a span and the first of the next are horizon + window bars apart.
    """
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
            "least; give more bars per symbol with fewer gaps, a shorter horizon or a smaller "
            "dead zone"
        )
    if not 0.0 < rose.mean() < 1.0:
        moved = "rises" if rose[0] else "falls"
        raise TrainingError(
            f"every window of the {name} span is followed by {moved}; give bars of a longer time"
        )
    return Samples(decisions.row[at], decisions.close_time[at], rose)


def _train_rows(bars: _Bars, feature_set: FeatureSet, train_until_ms: int) -> tuple[slice, ...]:
    """For each symbol its whole rows up to the last decision of the train span."""
    # A bar that opens before that moment has closed by then: both lie on the interval's grid.
    return tuple(
        slice(
            first + feature_set.ready_at - 1,
            first + int(np.searchsorted(bars.open_time[first:end], train_until_ms)),
        )
        for first, end in bars.spans()
    )


def _data_sha256(table: BarTable, bars: _Bars) -> str:
    digest = hashlib.sha256(table.interval.encode())
    for symbol, (first, end) in zip(table.symbols, bars.spans(), strict=True):
        digest.update(f"\n{symbol} {end - first}\n".encode())
        digest.update(bars.open_time[first:end].astype("<i8").tobytes())
        digest.update(bars.ohlcv[first:end].astype("<f8").tobytes())
    return digest.hexdigest()
