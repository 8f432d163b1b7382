"""Feature shift: whether live rows are spread over their bins as those of training.

Informative only: nobody's state, trust or signal moves by it.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.histograms import MOST_BINS, Bins, Counts, Places, Reference, Vector
from quantum_ai_engine.features.schema import FeatureSet

WORST_COLUMNS = 5

Times = NDArray[np.int64]


class ColumnShift(msgspec.Struct, frozen=True):
    """How far a column has moved: it is a shift above its threshold."""

    column: str
    psi: float
    threshold: float


class Comparison(msgspec.Struct, frozen=True):
    """What some live rows, the newest of a bar that closed at `at_ms`, came to.

    `ratio` is the largest PSI / threshold of all columns; `worst` has the columns with the largest
    ones, those first.
    """

    at_ms: int
    rows: int
    ratio: float
    worst: tuple[ColumnShift, ...]

    @property
    def is_shift(self) -> bool:
        """Whether a column is above its threshold."""
        return self.ratio > 1.0


class FeatureShift:
    """Compares live rows with the train span, `reference.rows` at a time, one after the other.

    Where there are more symbols than in training, a comparison has more rows: it lasts as long.

    >>> from quantum_ai_engine.features.histograms import Histogram
    >>> two = FeatureSet("two", ("ret_1", "mean"), window=1, aliases={"mean": "sma_dist_10"})
    >>> shift = FeatureShift(two, Reference(2, 0, 0.99, {"mean": Histogram((0.0,), (50, 50), 0.1)}))
    >>> rows = np.full((3, two.indices.max() + 1), 7.0)
    >>> turned = shift.update(rows, np.arange(3), np.array([60, 120, 180]))
    >>> [comparison.worst[0].column for comparison in turned]
    ['mean']
    >>> shift.get().at_ms, shift.pending
    (120, 1)
    """

    def __init__(self, chosen: FeatureSet, reference: Reference) -> None:
        at = dict(zip(chosen.columns, chosen.indices.tolist(), strict=True))
        self.columns = tuple(reference.columns)
        self.rows = reference.rows
        self.pending = 0  # rows of the comparison to come
        edges = [histogram.edges for histogram in reference.columns.values()]
        self._bins = Bins([at[name] for name in self.columns], edges)
        self._reference = reference.counts()
        self._thresholds = np.array([one.threshold for one in reference.columns.values()])
        self._span_ms = reference.span_ms
        self._since_ms = 0  # the close time of the first row of the comparison to come
        self._counts = np.zeros((len(self.columns), MOST_BINS), dtype=np.int64)
        self._last: Comparison | None = None

    def get(self) -> Comparison | None:
        """The last whole comparison; None before there is one."""
        return self._last

    def update(self, rows: Vector, chosen: Places, close_times: Times) -> list[Comparison]:
        """Count the `chosen` [m] of some kernel rows [n, columns], which closed at these times [n].

        Gives the comparisons that turned: the first that is a shift, and the first that is none
        after it.
        """
        turned = []
        while len(chosen):
            taken, is_whole = self._taken(close_times[chosen])
            part, chosen = chosen[:taken], chosen[taken:]
            self._bins.count(rows, part, self._counts)
            self.pending += taken
            if is_whole:
                before, now = self._last, self._compared(int(close_times[part[-1]]))
                if now.is_shift != (before is not None and before.is_shift):
                    turned.append(now)
        return turned

    def _taken(self, close_times: Times) -> tuple[int, bool]:
        """How many rows of these times the comparison takes, and whether it is whole then."""
        if not self.pending:
            self._since_ms = int(close_times[0])
        pending = self.pending + 1 + np.arange(len(close_times))
        is_enough = (pending >= self.rows) & (close_times - self._since_ms >= self._span_ms)
        last = int(is_enough.argmax())
        return (last + 1, True) if is_enough[last] else (len(close_times), False)

    def _compared(self, at_ms: int) -> Comparison:
        """Compare what was counted, and begin to count anew."""
        moved = psi(self._reference, self._counts)
        ratios = moved / self._thresholds
        worst = np.argsort(-ratios, kind="stable")[:WORST_COLUMNS].tolist()
        self._last = Comparison(
            at_ms,
            self.pending,
            float(ratios.max()),
            tuple(
                ColumnShift(self.columns[i], float(moved[i]), float(self._thresholds[i]))
                for i in worst
            ),
        )
        self._counts[:] = 0
        self.pending = 0
        return self._last


class Watched(NamedTuple):
    """An agent whose features are compared: the interval and the columns that it reads."""

    agent: str
    interval: str
    feature_set: FeatureSet
    reference: Reference


class Come(msgspec.Struct, frozen=True, gc=False):
    """A bar: its interval, how many its series has with it, when it closed, and if it is new."""

    interval: str
    seen: int
    close_time: int
    is_first: bool


class Shifts:
    """The shifts of all agents by name, as `of`; who has no reference is not among them."""

    def __init__(self, watched: Iterable[Watched]) -> None:
        self._watched = tuple(watched)
        self.of = {one.agent: FeatureShift(one.feature_set, one.reference) for one in self._watched}

    def update(self, rows: Vector, come: Iterable[Come]) -> list[tuple[str, Comparison]]:
        """Count the kernel rows [n, columns] of bars [n], each when it comes for the first time.

        An agent counts those of its interval that are ready for it. Gives what turned, by agent.
        """
        if not self._watched:
            return []
        bars, turned = list(come), []
        close_times = np.array([one.close_time for one in bars])
        seen = {name: _seen(bars, name) for name in {one.interval for one in self._watched}}
        for name, interval, chosen, _ in self._watched:
            ready = np.flatnonzero(seen[interval] >= chosen.ready_at)
            found = self.of[name].update(rows, ready, close_times)
            turned += [(name, comparison) for comparison in found]
        return turned


def _seen(come: Sequence[Come], interval: str) -> Times:
    """How many bars its series had with each bar [n]; 0 if it is no new one of an interval."""
    return np.array([one.seen if one.is_first and one.interval == interval else 0 for one in come])


def psi(reference: Counts, live: Counts) -> NDArray[np.float64]:
    """The population stability indices [...] of histograms [..., bins] with the same bins.

    Σ (a − b) · ln(a / b) over the shares of the bins, each count raised by ½ so that an empty bin
    is no infinity; a bin that both have empty is none. 0 for equal shapes. Raises ValueError.
    Source: Siddiqi 2006, Credit Risk Scorecards.

    >>> psi(np.array([10, 20, 0]), np.array([100, 200, 0])).round(3)
    np.float64(0.0)
    >>> psi(np.array([[100, 200], [5, 5]]), np.array([[200, 100], [7, 7]])).round(3)
    array([0.459, 0.   ])
    """
    for counts in (reference, live):
        _check_counts(counts)
    if reference.shape[-1] != live.shape[-1]:
        raise ValueError(f"{reference.shape[-1]} bins are compared with {live.shape[-1]}")
    there = (reference > 0) | (live > 0)
    a, b = (_shares(counts, there) for counts in (reference, live))
    return np.asarray(np.where(there, (a - b) * np.log(a / b), 0.0).sum(axis=-1))


def _shares(counts: Counts, there: NDArray[np.bool_]) -> Vector:
    """Of the bins that are there; 1 in the place of the others, whose logarithm is then 0."""
    raised = counts + 0.5
    shares = raised / np.where(there, raised, 0.0).sum(axis=-1, keepdims=True)
    return np.where(there, shares, 1.0)


def _check_counts(counts: Counts) -> None:
    if counts.ndim < 1 or counts.shape[-1] < 2 or counts.dtype.kind not in "iu":
        raise ValueError("a histogram is at least two whole counts")
    if (counts < 0).any() or (counts.sum(axis=-1) == 0).any():
        raise ValueError("a histogram has a count below 0, or none above")
