"""How sure held-out scores are: bands and standard errors that know that outcomes overlap."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import HeldOut
from quantum_ai_engine.training.dataset import Samples
from quantum_ai_engine.training.scores import BINS, auc, newey_west

Z = 2.0  # standard errors: the width of every band and the bar for skill
GROUPS = 10
LEAST_OUTCOMES = 20  # independent ones, for a verdict: the error measured on fewer is too small

Vector = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Group:
    """Forecasts that are near each other: how many, their mean, and the share that rose.

    `effective` is how many independent outcomes carry as much evidence, `low` to `high` the band of
    the share at two standard errors (Wilson 1927).
    """

    count: int
    mean_probability: float
    rose: float
    effective: float
    low: float
    high: float


def verdict(scores: HeldOut, effective: float) -> tuple[str, str]:
    """What the paired score of `effective` independent outcomes says, in words and in a sentence.

    See `Dataset.effective_labels`.
    """
    edge, error = -scores.paired, scores.paired_stderr
    side = "below" if edge >= 0.0 else "above"
    told = f"The Brier score is {abs(edge):.5f} ± {error:.5f} {side} that of the base rate"
    if effective < LEAST_OUTCOMES:
        return f"Too few independent outcomes to tell: {effective:.0f}", (
            f"{told}, but its {scores.samples:,} held-out windows overlap, so that they tell no "
            f"more than about {effective:.0f} outcomes of the {LEAST_OUTCOMES} that a verdict "
            "needs. Give bars of a longer time or a shorter horizon."
        )
    if edge > Z * error:
        return "Skill shown", (
            f"{told}: more than two standard errors. On these bars the agent knew more than how "
            "often the close rises."
        )
    if edge < -Z * error:
        return "Worse than the base rate", (
            f"{told}: more than two standard errors. Whoever always forecasts the base rate does "
            "better than this agent."
        )
    return "No skill shown", (
        f"{told}: within two standard errors. On these bars the agent cannot be told from one that "
        "always forecasts the base rate."
    )


def wilson(share: float, effective: float) -> tuple[float, float]:
    """The band of a share that was seen in `effective` independent trials; never beyond 0 or 1.

    >>> [round(edge, 3) for edge in wilson(0.0, 4)]
    [0.0, 0.5]
    """
    narrow = 1.0 / (1.0 + Z * Z / effective)
    middle = (share + Z * Z / (2.0 * effective)) * narrow
    half = Z * narrow * np.sqrt(share * (1.0 - share) / effective + (Z / (2.0 * effective)) ** 2)
    # Rounding may put the edge of a certain share inside of it.
    return float(max(min(middle - half, share), 0.0)), float(min(max(middle + half, share), 1.0))


def by_width(probabilities: Vector) -> NDArray[np.int64]:
    """The bin [n] of each forecast among those of the manifest's reliability."""
    return np.minimum((probabilities * BINS).astype(np.int64), BINS - 1)


def by_count(probabilities: Vector) -> NDArray[np.int64]:
    """The group [n] of each forecast, of ten of about equal size; equal forecasts stay together."""
    edges = np.unique(np.quantile(probabilities, np.arange(1, GROUPS) / GROUPS))
    return np.searchsorted(edges, probabilities, side="left").astype(np.int64)


def groups(
    place: NDArray[np.int64],
    probabilities: Vector,
    samples: Samples,
    horizon_bars: int,
    interval_ms: int,
) -> tuple[Group, ...]:
    """The groups by their `place` [n]; none is empty."""
    found = []
    for i in np.unique(place).tolist():
        inside = place == i
        rose = samples.rose[inside]
        share = float(rose.mean())
        error = newey_west(rose, samples.close_time[inside], horizon_bars, interval_ms)
        independent = _effective(len(rose), share, error, horizon_bars)
        mean = float(probabilities[inside].mean())
        found.append(Group(len(rose), mean, share, independent, *wilson(share, independent)))
    return tuple(found)


def auc_stderr(
    probabilities: Vector, samples: Samples, horizon_bars: int, interval_ms: int
) -> float:
    """The standard error of the AUC: DeLong's parts (1988), paired over overlapping outcomes."""
    rose = samples.rose
    area, share = auc(probabilities, rose), float(rose.mean())
    ups, downs = (np.sort(probabilities[rose == side]) for side in (1.0, 0.0))
    above = np.where(rose == 1.0, _below(downs, probabilities), 1.0 - _below(ups, probabilities))
    parts = (above - area) / np.where(rose == 1.0, share, 1.0 - share)
    return newey_west(parts, samples.close_time, horizon_bars, interval_ms)


def calibration_error_by_chance(found: tuple[Group, ...]) -> float:
    """About the calibration error that perfect forecasts in these groups would show by chance."""
    total = sum(group.count for group in found)
    spread = (
        group.count * np.sqrt(group.rose * (1.0 - group.rose) / group.effective) for group in found
    )
    return float(np.sqrt(2.0 / np.pi) * sum(spread)) / total  # the mean of |N(0, 1)| is √(2/π)


def _effective(count: int, share: float, stderr: float, horizon_bars: int) -> float:
    """As many independent outcomes as would give the share this standard error."""
    if stderr == 0.0:  # all rose or all fell: that overlapping outcomes agree is no evidence
        return max(1.0, count / horizon_bars)
    return min(float(count), max(1.0, share * (1.0 - share) / stderr**2))


def _below(others: Vector, values: Vector) -> Vector:
    """The share of the sorted `others` below each value [n], equals counted half."""
    left = np.searchsorted(others, values, side="left")
    right = np.searchsorted(others, values, side="right")
    return (left + right) / (2.0 * len(others))
