"""How the rows of the train span are spread, and how far healthy rows stray from that."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.histograms import MOST_BINS, Bins, Counts, Histogram, Reference
from quantum_ai_engine.supervisor.shift import psi
from quantum_ai_engine.training.dataset import Dataset
from quantum_ai_engine.training.rows import PART_BARS

LEVEL = 0.99  # of a comparison with all its columns, not of each
LEAST_BLOCKS = 100  # side by side: fewer do not show what one of a hundred does
MOST_ROWS, LEAST_ROWS = 2_000, 20  # of a block, and so of a comparison
DRAWN_BLOCKS = 1_000
SAMPLED_ROWS = 20_000  # from which the edges come: 28 MB of the widest set
UNIT_LEVEL = 0.95  # of one column: what its PSI is measured by
LEAST_UNIT = 0.01  # of PSI: less is nothing that a person would look at
DECILES = np.arange(1, MOST_BINS) / MOST_BINS

Vector = NDArray[np.float64]


def reference(dataset: Dataset) -> Reference | None:
    """The histograms of the train span's rows, and thresholds; None where it is too short.

    Thresholds are by blocks of consecutive rows of all symbols (moving blocks of Künsch 1989),
    each compared with all the other rows of the span. Blocks are evenly spaced instead of drawn:
    the same bars give the same thresholds. Rows that follow each other are alike, so that a block
    strays much further than as many independent rows would.
    """
    order = _in_time(dataset)
    rows = min(MOST_ROWS, len(order) // LEAST_BLOCKS)
    if rows < LEAST_ROWS:
        return None
    sample = order[:: -(-len(order) // SAMPLED_ROWS)]
    edges = [interior_edges(column) for column in dataset.rows[sample].T]
    places = [i for i, some in enumerate(edges) if len(some)]
    if not places:
        return None
    bins = Bins(places, [edges[i].tolist() for i in places])
    counts = _counted(dataset, bins, len(places))
    thresholds = _thresholds(counts, [*_blocks(dataset, bins, order, counts.shape, rows)])
    named = {
        dataset.feature_set.columns[i]: Histogram(
            tuple(edges[i].tolist()), tuple(held[: len(edges[i]) + 1].tolist()), threshold
        )
        for i, held, threshold in zip(places, counts, thresholds.tolist(), strict=True)
    }
    return Reference(rows, _span_ms(dataset.open_time[order], rows), LEVEL, named)


def interior_edges(column: Vector) -> Vector:
    """The deciles of some values, each once; none for values that are all the same.

    Every bin holds a value: where many are equal there are fewer bins than ten.

    >>> interior_edges(np.arange(100.0))
    array([ 9., 19., 29., 39., 49., 59., 69., 79., 89.])
    >>> interior_edges(np.array([0.0] * 99 + [1.0])), interior_edges(np.array([0.0] + [1.0] * 99))
    (array([0.]), array([0.]))
    >>> interior_edges(np.ones(3))
    array([], dtype=float64)
    """
    below = column[column < column.max()]
    edges = np.unique(np.quantile(column, DECILES, method="inverted_cdf"))
    edges = edges[edges < column.max()]
    return np.asarray(edges if len(edges) or not len(below) else below.max(keepdims=True))


def _in_time(dataset: Dataset) -> NDArray[np.int64]:
    """Where the rows of the train span stand, in order of time; of one moment by symbol."""
    rows = [np.arange(some.start, some.stop) for some in dataset.train_rows]
    order = np.concatenate(rows)
    return order[np.argsort(dataset.open_time[order], kind="stable")]


def _span_ms(open_time: NDArray[np.int64], rows: int) -> int:
    """How long so many rows in a row take, from the first to the last, in the median."""
    return int(np.median(open_time[rows - 1 :] - open_time[: len(open_time) - rows + 1]))


def _counted(dataset: Dataset, bins: Bins, columns: int) -> Counts:
    """All rows of the train span [columns, bins]."""
    counts = np.zeros((columns, MOST_BINS), dtype=np.int64)
    for some in dataset.train_rows:
        for start in range(some.start, some.stop, PART_BARS):
            part = dataset.rows[start : min(start + PART_BARS, some.stop)]
            bins.count(part, np.arange(len(part)), counts)
    return counts


def _blocks(
    dataset: Dataset,
    bins: Bins,
    order: NDArray[np.int64],
    shape: tuple[int, ...],
    rows: int,
) -> Iterator[Counts]:
    """The counts [columns, bins] of blocks of so many rows."""
    last = len(order) - rows
    starts = np.unique(np.linspace(0, last, DRAWN_BLOCKS).astype(np.int64))
    for start in starts.tolist():
        counts = np.zeros(shape, dtype=np.int64)
        block = dataset.rows[order[start : start + rows]]
        bins.count(block, np.arange(rows), counts)
        yield counts


def _thresholds(counts: Counts, blocks: list[Counts]) -> Vector:
    """The PSI [columns] that no column of a healthy block exceeds, with chance `LEVEL`.

    Each column has a unit of its own, what one of twenty blocks exceeds; all units are raised by
    the same factor, so that columns which stray far leave the others as sharp as they are.
    """
    strayed = np.array([psi(counts - block, block) for block in blocks])  # [blocks, columns]
    units = np.maximum(np.quantile(strayed, UNIT_LEVEL, axis=0), LEAST_UNIT)
    worst = (strayed / units).max(axis=1)  # [blocks]
    factor = max(1.0, float(np.quantile(worst, LEVEL, method="higher")))
    return np.asarray(units * factor)
