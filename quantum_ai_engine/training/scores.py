"""Scores of held-out probabilities: how wrong, how biased, and whether that beats the base rate."""

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.bundle import HeldOut, ReliabilityBin

BINS = 10

Vector = NDArray[np.float64]


def held_out(
    probabilities: Vector,
    rose: Vector,
    base_rate: float,
    close_time: NDArray[np.int64],
    horizon_bars: int,
    interval_ms: int,
) -> HeldOut:
    """All scores of `probabilities` [n] whose outcomes `rose` [n] are 0 or 1.

    `base_rate` is that of the train span: what is known before the held-out bars are seen.
    """
    losses = (probabilities - rose) ** 2
    base_losses = (base_rate - rose) ** 2
    differences = losses - base_losses
    return HeldOut(
        len(rose),
        float(losses.mean()),
        float(base_losses.mean()),
        float((probabilities - rose).mean()),
        float(differences.mean()),
        newey_west(differences, close_time, horizon_bars, interval_ms),
        reliability(probabilities, rose),
    )


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
