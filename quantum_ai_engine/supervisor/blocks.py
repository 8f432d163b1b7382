"""Blocks of settled predictions: no outcome belongs to two of them."""

import msgspec
import numpy as np
from numba import njit
from numpy.typing import NDArray

Vector = NDArray[np.float64]

# What is scored of a prediction; each has its value and the lowest and highest that it can take.
PAIRED, RESIDUAL, FORECAST, BASE = range(4)
SCORES = 4
FORECAST_REACH = 0.2  # a forecast further from its usual mean counts as this far
# Why predictions are refused; NaN is neither.
_REFUSALS = (
    "",
    "a probability is not a number from 0 to 1",
    "an outcome is neither 0 nor 1",
)


def scores(probability: Vector, rose: Vector, base_rate: float, usual: float) -> Vector:
    """Values, lowest and highest values of the four scores, [3 · SCORES, n].

    PAIRED is (p − y)² − (p₀ − y)², RESIDUAL p − y, FORECAST p − `usual` (the mean forecast held
    out), clipped, and BASE (p₀ − y)². The lowest and highest are over both outcomes, and so known
    when the prediction is made. Raises ValueError for what is no probability or no outcome.

    >>> scores(np.array([0.6]), np.array([1.0]), 0.5, 0.5)[:, 0].round(2).tolist()
    [-0.09, -0.4, 0.1, 0.25, -0.09, -0.4, -0.2, 0.25, 0.11, 0.6, 0.2, 0.25]
    """
    if probability.shape != rose.shape or probability.ndim != 1:
        raise ValueError(f"{probability.shape} probabilities for {rose.shape} outcomes")
    if not 0.0 <= base_rate <= 1.0:
        raise ValueError("a probability is not a number from 0 to 1")
    out = np.empty((3 * SCORES, len(probability)))
    refused = _score_all(probability, rose, ((1.0 - base_rate) ** 2, base_rate**2, usual), out)
    if refused:
        raise ValueError(_REFUSALS[refused])
    return out


def _one_pass(probability, rose, base, out):  # type: ignore[no-untyped-def]  # it is compiled
    """Fill `out` [3 · SCORES, n]; `base` is the loss of the base rate by outcome, and `usual`."""
    base_risen, base_fallen, usual = base
    for i in range(probability.shape[0]):
        p, y = probability[i], rose[i]
        if not 0.0 <= p <= 1.0:
            return 1
        if not (rose[i] == 0.0 or rose[i] == 1.0):
            return 2
        if_risen, if_fallen = (1.0 - p) * (1.0 - p) - base_risen, p * p - base_fallen
        out[PAIRED, i] = if_risen if y > 0.5 else if_fallen
        out[RESIDUAL, i] = p - y
        out[FORECAST, i] = min(max(p - usual, -FORECAST_REACH), FORECAST_REACH)
        out[BASE, i] = base_risen if y > 0.5 else base_fallen
        for at, paired, residual, forecast, base_loss in (
            (
                SCORES,
                min(if_risen, if_fallen),
                p - 1.0,
                -FORECAST_REACH,
                min(base_risen, base_fallen),
            ),
            (2 * SCORES, max(if_risen, if_fallen), p, FORECAST_REACH, max(base_risen, base_fallen)),
        ):
            out[at + PAIRED, i], out[at + RESIDUAL, i] = paired, residual
            out[at + FORECAST, i], out[at + BASE, i] = forecast, base_loss
    return 0


# Compiled when this module is loaded, from the cache if it is there: never at the first bar.
_score_all = njit(
    "int64(float64[:], float64[:], UniTuple(float64, 3), float64[:, ::1])",
    cache=True,
    error_model="numpy",
)(_one_pass)


class Block(msgspec.Struct, frozen=True):
    """Mean scores of the bars of a block that have predictions, [SCORES, bars], oldest first."""

    value: Vector
    low: Vector
    high: Vector


class SavedBlocks(msgspec.Struct, frozen=True, array_like=True):
    """The state of `Blocks`: the open block's sums and counts bar by bar, and what was counted."""

    number: int
    sums: tuple[float, ...]
    counts: tuple[int, ...]
    left_out: int
    embargoed: int


class Blocks:
    """The open block of one agent's settled predictions.

    Time is cut into periods of `block_bars` + `horizon_bars` − 1 bars. Predictions made at the
    first `block_bars` of a period are its block; those of the rest (the embargo) are in none, since
    their outcomes reach into the next. A bar counts once, as the mean of all its predictions:
    symbols that move together are no further evidence.

    A block ends when a prediction of a later period settles; what settles for it after that is
    left out and counted. Until then the order of its bars does not matter.
    """

    def __init__(self, block_bars: int, horizon_bars: int) -> None:
        self.block_bars = block_bars
        self.period_bars = block_bars + horizon_bars - 1
        self.left_out = 0
        self.embargoed = 0
        self._number = -1
        self._sums = np.zeros((3 * SCORES, block_bars))
        self._counts = np.zeros(block_bars, dtype=np.int64)

    def is_ended_by(self, slot: int) -> bool:
        """Whether a prediction made at the bar `slot` ends an open block that has predictions."""
        return slot // self.period_bars > self._number and bool(self._counts.any())

    def get(self) -> Block:
        """The open block as far as it is settled."""
        at = np.flatnonzero(self._counts)
        means = self._sums[:, at] / self._counts[at]
        return Block(*means.reshape(3, SCORES, -1))  # [score, bars] each

    def update(self, slot: int, values: Vector) -> None:
        """Take `scores` [3 · SCORES, n] of predictions made at the bar `slot`."""
        number, place = divmod(slot, self.period_bars)
        if number > self._number:
            self._number = number
            self._sums[:] = 0.0
            self._counts[:] = 0
        if place >= self.block_bars:
            self.embargoed += values.shape[1]
        elif number < self._number:
            self.left_out += values.shape[1]
        else:
            # One after the other, not pairwise: the same bits however calls are grouped.
            joined = np.concatenate((self._sums[:, place : place + 1], values), axis=1)
            self._sums[:, place] = np.add.accumulate(joined, axis=1)[:, -1]
            self._counts[place] += values.shape[1]

    def saved(self) -> SavedBlocks:
        """All that `restore` needs."""
        sums, counts = tuple(self._sums.ravel().tolist()), tuple(self._counts.tolist())
        return SavedBlocks(self._number, sums, counts, self.left_out, self.embargoed)

    def restore(self, saved: SavedBlocks) -> None:
        """Continue where `saved` was taken. Raises ValueError if it is of other blocks."""
        if len(saved.counts) != self.block_bars or len(saved.sums) != self._sums.size:
            raise ValueError(f"the saved block has {len(saved.counts)} bars, not {self.block_bars}")
        self._number, self.left_out, self.embargoed = saved.number, saved.left_out, saved.embargoed
        self._sums[:] = np.array(saved.sums).reshape(self._sums.shape)
        self._counts[:] = saved.counts
