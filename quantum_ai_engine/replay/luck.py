"""How much of a result may be luck: bootstrap intervals, and Sharpe ratios deflated by trials."""

import math
from collections.abc import Sequence
from statistics import NormalDist, variance

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.replay.streams import Moments

EULER = 0.577_215_664_901_532_9
CONFIDENCE = 0.90
_AT_ONCE = 100  # histories drawn together
_NORMAL = NormalDist()

Vector = NDArray[np.float64]


class Interval(msgspec.Struct, frozen=True):
    """The middle 90 % of what was drawn, and how often that was above 0, a fraction."""

    low: float
    high: float
    above_zero: float


class Bootstrapped(msgspec.Struct, frozen=True):
    """Intervals of a history drawn anew; `block_periods` is the mean length of its pieces."""

    draws: int
    periods: int
    block_periods: float
    total_return: Interval
    sharpe: Interval
    max_drawdown: Interval


def bootstrap(
    returns: Vector, periods_per_year: float, draws: int, seed: int
) -> Bootstrapped | None:
    """What the history might have been: pieces of it, of random length, put together anew.

    Source: the stationary bootstrap of Politis and Romano 1994, with pieces of n^(1/3) periods in
    the mean. `returns` [n] are simple returns of equal periods; None of fewer than 10.
    """
    n = len(returns)
    if n < 10:
        return None
    mean_length = max(1.0, round(n ** (1.0 / 3.0)))
    random = np.random.default_rng(seed)
    found = []
    for start in range(0, draws, _AT_ONCE):
        at = resampled(n, min(_AT_ONCE, draws - start), mean_length, random)
        found.append(_figures(returns[at], periods_per_year))
    total, sharpe, drawdown = np.concatenate(found, axis=1)
    return Bootstrapped(
        draws, n, mean_length, _interval(total), _interval(sharpe), _interval(drawdown)
    )


def resampled(
    n: int, draws: int, mean_length: float, random: np.random.Generator
) -> NDArray[np.int64]:
    """Positions [draws, n]: each goes on from the one before, or begins anew anywhere.

    >>> at = resampled(5, 1, 1e9, np.random.default_rng(1))[0]
    >>> ((at - at[0]) % 5).tolist()
    [0, 1, 2, 3, 4]
    """
    starts = random.integers(0, n, size=(draws, n))
    begins = random.random((draws, n)) < 1.0 / mean_length
    begins[:, 0] = True
    steps = np.arange(n)
    newest = np.maximum.accumulate(np.where(begins, steps, 0), axis=1)  # where the piece began
    return (np.take_along_axis(starts, newest, axis=1) + steps - newest) % n


def _figures(returns: Vector, periods_per_year: float) -> Vector:
    """Total return, Sharpe ratio and largest drawdown [3, draws] of histories [draws, n]."""
    with np.errstate(divide="ignore"):
        logs = np.cumsum(np.log1p(np.maximum(returns, -1.0)), axis=1)
    deviation = returns.std(axis=1, ddof=1)
    safe = np.where(deviation > 0.0, deviation, 1.0)
    sharpe = np.where(deviation > 0.0, returns.mean(axis=1) / safe, 0.0)
    peaks = np.maximum(np.maximum.accumulate(logs, axis=1), 0.0)
    return np.stack(
        (
            np.expm1(logs[:, -1]),
            sharpe * math.sqrt(periods_per_year),
            1.0 - np.exp((logs - peaks).min(axis=1)),
        )
    )


def _interval(values: Vector) -> Interval:
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(values, (tail, 1.0 - tail))
    return Interval(float(low), float(high), float((values > 0.0).mean()))


def probabilistic_sharpe(moments: Moments, benchmark: float) -> float | None:
    """P(the true Sharpe ratio of a period is above a benchmark), given its estimate.

    Source: Bailey and López de Prado 2012, with the skewness and kurtosis of the returns. None
    where nothing varies.
    """
    if moments.count < 3 or moments.deviation == 0.0:
        return None
    sharpe = moments.mean / moments.deviation
    spread = 1.0 - moments.skewness * sharpe + (moments.kurtosis - 1.0) / 4.0 * sharpe**2
    if spread <= 0.0:
        return None
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt((moments.count - 1) / spread))


def best_of_luck(trials: int, spread: float) -> float:
    """The Sharpe ratio that the best of so many trials without skill is expected to show.

    `spread` is the standard deviation of the trials' Sharpe ratios. Source: Bailey and López de
    Prado 2014, "The Deflated Sharpe Ratio".

    >>> best_of_luck(1, 0.5), round(best_of_luck(10, 0.5), 3)
    (0.0, 0.787)
    """
    if trials < 2:
        return 0.0
    first = _NORMAL.inv_cdf(1.0 - 1.0 / trials)
    second = _NORMAL.inv_cdf(1.0 - 1.0 / (trials * math.e))
    return spread * ((1.0 - EULER) * first + EULER * second)


class Deflated(msgspec.Struct, frozen=True):
    """The chance that a Sharpe ratio is more than luck, when `trials` runs were tried.

    `benchmark` is what the best of them would show without any skill, of a bar; `probability` is
    that the true one is above it, and `alone` that it is above 0, as if this were the only run.
    """

    trials: int
    benchmark: float
    probability: float | None
    alone: float | None


def deflated_sharpe(moments: Moments, others: Sequence[float]) -> Deflated:
    """The deflated Sharpe ratio, given the Sharpe ratios of a bar of the `others` that were tried.

    Source: Bailey and López de Prado 2014.
    """
    own = moments.mean / moments.deviation if moments.deviation else 0.0
    tried = [own, *others]
    spread = math.sqrt(variance(tried)) if len(tried) > 1 else 0.0
    benchmark = best_of_luck(len(tried), spread)
    return Deflated(
        len(tried),
        benchmark,
        probabilistic_sharpe(moments, benchmark),
        probabilistic_sharpe(moments, 0.0),
    )
