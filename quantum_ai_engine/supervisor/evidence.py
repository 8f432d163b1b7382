"""Evidence: e-detectors that bet on blocks, and the window that watches."""

import math
from collections import deque
from collections.abc import Sequence
from functools import lru_cache
from statistics import NormalDist

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

FRACTIONS = (0.03, 0.12, 0.4, 0.95)  # of what may be staked on a block
LEAST_SCALE = 0.005  # a worst case below this is taken for this: stakes stay bounded
MOST_EVIDENCE = 1e30  # far above every threshold; lower is always valid
HEADROOM, MEMORY_BLOCKS = 1.1, 16.0
DRAWS = 200_000
LOOKS = 20.0  # looks that a sliding window is taken to have per length of its own


class SavedDetectors(msgspec.Struct, frozen=True, array_like=True):
    """The state of `Detectors`: evidence test by test and stake by stake, and the scales."""

    evidence: tuple[float, ...]
    scale: tuple[float, ...]


class Detectors:
    """Betting e-detectors of `tests` nulls, each of which says "the mean excess is at most 0".

    M ← (M + 1) · (1 + λ · X), where X is a block's stakes times its excesses; the mean over a grid
    of λ is the evidence. While the null holds, a threshold c is reached after c blocks in the mean
    or later, whatever the distribution. It has to hold bar by bar: given what was known when a
    prediction was made, its mean excess is at most 0.

    λ is a fraction of 1 / scale, with a scale from the blocks before. A bar stakes 1 until the
    worst cases of the bars of its block add up to the scale, and nothing after: so every stake is
    known before its outcome, and 1 + λ · X > 0 always. The first block only sets the scale.

    Source: Shin, Ramdas, Rinaldo, "E-detectors: a nonparametric framework for sequential change
    detection", New England Journal of Statistics in Data Science 2 (2024), section 2 (the
    Shiryaev-Roberts type).
    """

    def __init__(self, tests: int, block_bars: int) -> None:
        self._block_bars = block_bars
        self._fractions = np.array(FRACTIONS)
        self._evidence = np.zeros((tests, len(FRACTIONS)))
        self._scale = np.zeros(tests)  # 0: not known yet

    @property
    def evidence(self) -> Vector:
        """The evidence against each null, [tests]."""
        return np.add.accumulate(self._evidence, axis=1)[:, -1] / len(FRACTIONS)

    def update(self, excess: Vector, worst: Vector) -> None:
        """Take a block: excesses and worst losses (at least −excess and 0), [tests, bars]."""
        if self._scale[0] > 0.0:
            growth = 1.0 + self._fractions * self._returns(excess, worst)[:, None]  # [tests, λ]
            np.minimum((self._evidence + 1.0) * growth, MOST_EVIDENCE, out=self._evidence)
        mean = HEADROOM * np.add.accumulate(worst, axis=1)[:, -1] / worst.shape[1]
        is_first = self._scale == 0.0
        moved = np.where(is_first, mean, self._scale + (mean - self._scale) / MEMORY_BLOCKS)
        np.maximum(moved, LEAST_SCALE, out=self._scale)

    def _returns(self, excess: Vector, worst: Vector) -> Vector:
        """What a stake of 1 / scale brings, [tests], at least −1."""
        budget = (self._scale * self._block_bars)[:, None]
        before = np.add.accumulate(worst, axis=1) - worst
        room = np.maximum(budget - before, 0.0)
        stake = np.minimum(1.0, room / np.maximum(worst, 1e-12))
        won = np.add.accumulate(stake * excess, axis=1)[:, -1] / budget[:, 0]
        return np.maximum(won, -1.0)  # by rounding it may be a bit below

    def clear(self, is_cleared: NDArray[np.bool_]) -> None:
        """Begin again with the tests [tests] that are marked."""
        self._evidence[is_cleared] = 0.0

    def saved(self) -> SavedDetectors:
        """All that `restore` needs."""
        return SavedDetectors(tuple(self._evidence.ravel().tolist()), tuple(self._scale.tolist()))

    def restore(self, saved: SavedDetectors) -> None:
        """Continue where `saved` was taken. Raises ValueError if it is of other tests."""
        if len(saved.evidence) != self._evidence.size or len(saved.scale) != len(self._scale):
            raise ValueError(f"the saved evidence is not of {len(self._scale)} tests")
        self._evidence[:] = np.array(saved.evidence).reshape(self._evidence.shape)
        self._scale[:] = saved.scale


class Window:
    """The mean of the last `blocks` blocks, bar by bar; None until there are so many."""

    def __init__(self, blocks: int) -> None:
        self.blocks = blocks
        self._sums: deque[tuple[float, int]] = deque(maxlen=blocks)

    def update(self, values: Vector) -> None:
        """Take a block's values, [bars]."""
        self._sums.append((math.fsum(values.tolist()), len(values)))

    def get(self) -> float | None:
        """The mean over all bars in the window."""
        if len(self._sums) < self.blocks:
            return None
        return math.fsum(total for total, _ in self._sums) / sum(bars for _, bars in self._sums)

    def saved(self) -> tuple[tuple[float, int], ...]:
        """All that `restore` needs."""
        return tuple(self._sums)

    def restore(self, saved: Sequence[tuple[float, int]]) -> None:
        """Continue where `saved` was taken."""
        self._sums = deque(saved, maxlen=self.blocks)


@lru_cache(maxsize=256)
def window_threshold(
    levels: tuple[float, ...], quantiles: tuple[float, ...], draws: int, looks: float
) -> float:
    """How far a mean of `draws` held-out blocks rises above their own once in `looks` looks.

    By bootstrap (Efron 1979) from the `quantiles` of the blocks at `levels`, which are joined by
    straight lines on the normal scale and go on so beyond both ends. A pure function: its random
    numbers are always the same.

    >>> normal = tuple(NormalDist().inv_cdf(x) for x in (0.01, 0.5, 0.99))
    >>> round(window_threshold((0.01, 0.5, 0.99), normal, 4, 1000.0), 1)  # 3.09 / √4
    1.5
    """
    at = [NormalDist().inv_cdf(level) for level in levels]
    random = np.random.Generator(np.random.PCG64(1))
    total = np.zeros(DRAWS)
    for _ in range(draws):
        total += _beyond(random.standard_normal(DRAWS), at, quantiles)
    level = min(1.0 - 1.0 / looks, 1.0 - 10.0 / DRAWS)
    return (float(np.quantile(total, level)) - math.fsum(total.tolist()) / DRAWS) / draws


def _beyond(drawn: Vector, at: Sequence[float], quantiles: Sequence[float]) -> Vector:
    """The quantiles at normal values, by straight lines, also outside of both ends."""
    values: Vector = np.interp(drawn, at, quantiles)
    for end, beside in ((0, 1), (-1, -2)):
        slope = (quantiles[end] - quantiles[beside]) / (at[end] - at[beside])
        is_beyond = drawn < at[0] if end == 0 else drawn > at[-1]
        values[is_beyond] += slope * (drawn[is_beyond] - at[end])
    return values
