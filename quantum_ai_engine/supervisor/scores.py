"""Scores: how wrong, how biased, how calibrated, and whether that beats the base rate."""

import math
from collections.abc import Sequence

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

BINS = 10
RECENT_OUTCOMES = 1000
# Of one outcome: 1, (p − y)², p − y, d and d², with d = (p − y)² − (base rate − y)².
_PARTS = 5
_BIN_PARTS = 3  # 1, p, y
# Why outcomes are refused.
_REFUSALS = (
    "",
    "a probability is outside 0 to 1",
    "a base rate is outside 0 to 1",
    "an outcome is neither 0 nor 1",
)

Vector = NDArray[np.float64]
Places = NDArray[np.int64]


class Score(msgspec.Struct, frozen=True):
    """How good some predictions were.

    `brier` is the mean of (p − y)², `bias` that of p − y, `paired` that of (p − y)² minus the
    loss of the base rate on the same bars: below 0 is skill. `paired_spread` is the standard
    deviation of that difference, and no standard error: outcomes overlap, and symbols move
    together. `count` are outcomes; of a recent score, what their fading weights sum to.
    """

    count: float
    brier: float
    bias: float
    paired: float
    paired_spread: float


class CalibrationBin(msgspec.Struct, frozen=True):
    """Predictions between two probabilities: how many, their mean, and the share that rose."""

    low: float
    high: float
    count: int
    mean_probability: float
    rose: float


class SavedScores(msgspec.Struct, frozen=True, array_like=True):
    """Sums as little-endian float64, for `Scores.restore`: of agents by name and bundle."""

    agents: tuple[tuple[str, str], ...]
    series: int
    pooled: bytes
    recent: bytes
    bins: bytes
    by_series: bytes


class Scores:
    """Scores of all agents and, as the last source, of the forecast: pooled and per series.

    Agents are named by name and bundle. Series are places from 0 up; `reserve` makes room. The
    recent score is pooled and fades: an outcome counts 1/e when `RECENT_OUTCOMES` moments with
    outcomes have passed. A window of fixed length would have to keep its outcomes. Calibration is
    pooled too: ten bins of one series hold too little to be read, and would be most of the state.

    >>> scores = Scores([("gru", "0123")])
    >>> scores.reserve(1)
    >>> both = np.array([[0.75, 0.5], [0.75, np.nan]])  # the agent, then the forecast
    >>> scores.update(np.array([0, 0]), both, np.array([0.5, 0.5]), np.array([1.0, 0.0]))
    >>> scores.pooled(0).brier, scores.pooled(1).paired, scores.of(1, 0).count
    (0.15625, -0.1875, 1.0)
    """

    def __init__(self, agents: Sequence[tuple[str, str]]) -> None:
        if len(set(agents)) < len(agents):
            raise ValueError("two agents have the same name and bundle")
        self._agents = tuple(agents)
        sources = len(self._agents) + 1
        self._pooled = np.zeros((sources, _PARTS))
        self._recent = np.zeros((sources, _PARTS))
        self._bins = np.zeros((sources * BINS, _BIN_PARTS))
        self._series = 0
        self._by_series = np.zeros((0, sources, _PARTS))  # with room to grow

    def reserve(self, series: int) -> None:
        """Make room for `series` series; those that are there keep their scores."""
        missing = series - len(self._by_series)
        if missing > 0:
            room = np.zeros((max(missing, len(self._by_series)), *self._by_series.shape[1:]))
            self._by_series = np.concatenate((self._by_series, room))
        self._series = max(self._series, series)

    def update(self, series: Places, probabilities: Vector, base: Vector, rose: Vector) -> None:
        """Score the predictions of one moment that have settled.

        `probabilities` [A+1, n] are those of the agents and, last, of the forecast, NaN where there
        was none; `series` [n] their places, `base` [n] the base rate's forecast on the same bars
        and `rose` [n] what happened: 0 or 1. Raises ValueError.
        """
        self._check(series, probabilities, base, rose)
        sums = self._pooled, self._recent, self._bins, self._by_series
        refused = _score_all(sums, series, probabilities, base, rose)
        if refused:
            raise ValueError(_REFUSALS[refused])

    def pooled(self, source: int) -> Score | None:
        """The score of a source over all series; None until it has outcomes."""
        return _score(self._pooled[source])

    def recent(self, source: int) -> Score | None:
        """The same, of the recent past."""
        return _score(self._recent[source])

    def of(self, source: int, series: int) -> Score | None:
        """The score of a source on one series; None until it has outcomes."""
        return _score(self._by_series[series, source])

    def calibration(self, source: int) -> tuple[CalibrationBin, ...]:
        """The bins of a source that hold predictions: none until it has outcomes."""
        rows = self._bins[source * BINS : (source + 1) * BINS].tolist()
        return tuple(
            CalibrationBin(i / BINS, (i + 1) / BINS, int(count), p / count, rose / count)
            for i, (count, p, rose) in enumerate(rows)
            if count
        )

    def saved(self, series: Sequence[int] | None = None) -> SavedScores:
        """All sums, of these series in this order, or of all."""
        at = list(range(self._series) if series is None else series)
        return SavedScores(
            self._agents,
            len(at),
            _bytes(self._pooled),
            _bytes(self._recent),
            _bytes(self._bins),
            _bytes(self._by_series[at]),
        )

    def restore(self, saved: SavedScores, series: Sequence[int] | None = None) -> None:
        """Give each agent that is known, and the forecast, its sums, at these places of series.

        Agents that `saved` lacks begin anew; those that are gone are dropped.
        """
        at = list(range(saved.series) if series is None else series)
        if len(at) != saved.series:
            raise ValueError(f"{len(at)} places for the scores of {saved.series} series")
        self.reserve(max(at, default=-1) + 1)
        before = {agent: i for i, agent in enumerate(saved.agents)}
        here = [i for i, agent in enumerate(self._agents) if agent in before]
        there = [before[self._agents[i]] for i in here]
        here, there = [*here, len(self._agents)], [*there, len(saved.agents)]
        sources = len(saved.agents) + 1
        self._pooled[here] = _read(saved.pooled, (sources, _PARTS))[there]
        self._recent[here] = _read(saved.recent, (sources, _PARTS))[there]
        bins = self._bins.reshape(-1, BINS, _BIN_PARTS)  # [sources, bins, parts], a view
        bins[here] = _read(saved.bins, (sources, BINS, _BIN_PARTS))[there]
        rows = _read(saved.by_series, (len(at), sources, _PARTS))
        for source, was in zip(here, there, strict=True):
            self._by_series[at, source] = rows[:, was]

    def _check(self, series: Places, probabilities: Vector, base: Vector, rose: Vector) -> None:
        shape = (len(self._agents) + 1, len(series))
        if probabilities.shape != shape or base.shape != rose.shape or rose.shape != shape[1:]:
            raise ValueError(
                f"probabilities {probabilities.shape}, base {base.shape} and outcomes {rose.shape} "
                f"are not [{shape[0]}, {shape[1]}], [{shape[1]}] and [{shape[1]}]"
            )
        if ((series < 0) | (series >= self._series)).any():
            raise ValueError(f"a series is outside the {self._series} for which there is room")


_jit = njit(error_model="numpy", inline="always")


@_jit
def _refused(probabilities, base, rose):  # type: ignore[no-untyped-def]  # it is compiled
    """Why these are no predictions with their outcomes: its place in `_REFUSALS`, or 0."""
    for source in range(probabilities.shape[0]):
        for i in range(probabilities.shape[1]):
            if probabilities[source, i] < 0.0 or probabilities[source, i] > 1.0:
                return 1  # NaN is neither
    for i in range(base.shape[0]):
        if not 0.0 <= base[i] <= 1.0:
            return 2
        if not (rose[i] == 0.0 or rose[i] == 1.0):
            return 3
    return 0


@_jit
def _add(into, parts):  # type: ignore[no-untyped-def]
    for j in range(into.shape[0]):
        into[j] += parts[j]


def _one_pass(sums, series, probabilities, base, rose):  # type: ignore[no-untyped-def]
    """Add outcomes [n] to the sums of all sources; gives why not, if they are refused.

    Those of a moment are summed before they join the others: so the order of additions is one.
    """
    pooled, recent, bins, by_series = sums
    refused = _refused(probabilities, base, rose)
    if refused:
        return refused
    moment, bin_sums = np.empty(_PARTS), np.empty((BINS, _BIN_PARTS))
    for source in range(probabilities.shape[0]):
        moment.fill(0.0)
        bin_sums.fill(0.0)
        for i in range(base.shape[0]):
            p, y = probabilities[source, i], rose[i]
            if math.isnan(p):
                continue
            residual, other = p - y, base[i] - y
            brier = residual * residual
            paired = brier - other * other
            parts = 1.0, brier, residual, paired, paired * paired
            _add(moment, parts)
            _add(by_series[series[i], source], parts)
            _add(bin_sums[min(int(p * BINS), BINS - 1)], (1.0, p, y))
        if moment[0] > 0.0:
            for j in range(_PARTS):
                recent[source, j] *= 1.0 - 1.0 / RECENT_OUTCOMES
        _add(pooled[source], moment)
        _add(recent[source], moment)
        for place in range(BINS):
            _add(bins[source * BINS + place], bin_sums[place])
    return 0


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_score_all = njit(
    "int64(Tuple((float64[:, ::1], float64[:, ::1], float64[:, ::1], float64[:, :, ::1])), "
    "int64[::1], float64[:, :], float64[:], float64[:])",
    cache=True,
    error_model="numpy",
)(_one_pass)


def _score(sums: Vector) -> Score | None:
    count, brier, bias, paired, squares = sums.tolist()
    if count == 0.0:
        return None
    mean = paired / count
    # Equal differences: rounding alone may leave less than 0 of their variance.
    spread = math.sqrt(max(squares / count - mean * mean, 0.0))
    return Score(count, brier / count, bias / count, mean, spread)


def _bytes(array: Vector) -> bytes:
    return array.astype("<f8").tobytes()


def _read(data: bytes, shape: tuple[int, ...]) -> Vector:
    return np.frombuffer(data, dtype="<f8").reshape(shape).astype(np.float64)
