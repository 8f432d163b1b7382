"""Scores of held-out probabilities: how wrong, how biased, and whether that beats the base rate."""

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import Blocks, HeldOut, ReliabilityBin
from quantum_ai_engine.training.dataset import Samples

BINS = 10
BLOCK_BARS = 100
LEVELS = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

Vector = NDArray[np.float64]


def held_out(
    probabilities: Vector,
    samples: Samples,
    base_rate: float,
    horizon_bars: int,
    interval_ms: int,
) -> HeldOut:
    """All scores of `probabilities` [n] for the outcomes of `samples`.

    `base_rate` is that of the train span: what is known before the held-out bars are seen.
    """
    rose, close_time = samples.rose, samples.close_time
    losses = (probabilities - rose) ** 2
    base_losses = (base_rate - rose) ** 2
    differences, residuals = losses - base_losses, probabilities - rose
    bins = reliability(probabilities, rose)
    return HeldOut(
        len(rose),
        float(losses.mean()),
        float(base_losses.mean()),
        float(residuals.mean()),
        float(differences.mean()),
        newey_west(differences, close_time, horizon_bars, interval_ms),
        auc(probabilities, rose),
        sum(b.count * abs(b.mean_probability - b.rose) for b in bins) / len(rose),
        bins,
        blocks(close_time, (losses, residuals, differences), horizon_bars - 1),
    )


def auc(probabilities: Vector, rose: Vector) -> float:
    """The chance that a forecast before a rise is above one before a fall, ties counted half.

    The area under the ROC curve (Hanley and McNeil 1982), by ranks; there must be rises and falls.

    >>> auc(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.875
    """
    _, place, counts = np.unique(probabilities, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2.0)[place]  # the mean rank of equals
    ups = float(rose.sum())
    downs = len(rose) - ups
    return float((ranks @ rose - ups * (ups + 1.0) / 2.0) / (ups * downs))


def blocks(
    close_time: NDArray[np.int64], scores: tuple[Vector, Vector, Vector], embargo_bars: int
) -> Blocks:
    """Quantiles of the means of Brier score, bias and paired score over blocks of bars.

    Bars are counted as close times, so that blocks lie at least `embargo_bars` apart in time too.
    What follows the last whole block belongs to none; a span that is shorter than one block is one,
    of as many bars as it has.
    """
    times, place = np.unique(close_time, return_inverse=True)
    bars = min(BLOCK_BARS, len(times))
    period = bars + embargo_bars
    count = (len(times) + embargo_bars) // period
    block = place // period
    inside = (place % period < bars) & (block < count)
    sizes = np.bincount(block[inside], minlength=count)
    brier, bias, paired = (
        tuple(
            np.quantile(
                np.bincount(block[inside], weights=score[inside], minlength=count) / sizes, LEVELS
            ).tolist()
        )
        for score in scores
    )
    return Blocks(bars, embargo_bars, count, LEVELS, brier, bias, paired)


def newey_west(
    values: Vector, close_time: NDArray[np.int64], horizon_bars: int, interval_ms: int
) -> float:
    """The standard error of the mean of `values` [n] whose outcomes overlap.

    Source: Newey and West 1987 with horizon − 1 lags, over the sums per close time of Driscoll and
    Kraay 1998. With one value per time and a horizon of one bar it is the plain standard error:

    >>> newey_west(np.array([0.0, 2.0]), np.array([60_000, 120_000]), 1, 60_000)  # 1 / √2
    0.7071067811865476
    """
    # Symbols move together at one moment: n values of one close time are not n observations.
    # They are first brought to one number per time, and only times are taken as a series. Sums of
    # deviations rather than means: with equally many values per time both are the same, and
    # otherwise only sums give the error of the plain mean, which is the score that is published.
    times, inverse = np.unique(close_time, return_inverse=True)
    sums = np.bincount(inverse, weights=values - values.mean())
    variance = float(sums @ sums)
    for lag in range(1, horizon_bars):
        # Outcomes overlap by time, not by position: beyond a gap there is nothing to pair.
        later = np.searchsorted(times, times + lag * interval_ms)
        found = later < len(times)
        found[found] = times[later[found]] == times[found] + lag * interval_ms
        variance += 2.0 * (1.0 - lag / horizon_bars) * float(sums[found] @ sums[later[found]])
    return float(np.sqrt(max(variance, 0.0))) / len(values)


def reliability(probabilities: Vector, rose: Vector) -> tuple[ReliabilityBin, ...]:
    """Ten bins of equal width; one without forecasts has no mean and is left out.

    >>> [(b.low, b.count, b.rose) for b in reliability(np.array([0.5, 1.0]), np.array([0.0, 1.0]))]
    [(0.5, 1, 0.0), (0.9, 1, 1.0)]
    """
    place = np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)
    return tuple(
        ReliabilityBin(
            i / BINS,
            (i + 1) / BINS,
            int(np.count_nonzero(place == i)),
            float(probabilities[place == i].mean()),
            float(rose[place == i].mean()),
        )
        for i in np.unique(place).tolist()
    )
