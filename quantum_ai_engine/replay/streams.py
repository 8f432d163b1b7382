"""Statistics of series of any length in bounded memory: moments, stretches, overlapping errors."""

import math

import msgspec
import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]
Times = NDArray[np.int64]

AUC_BINS = 10_000


class Moments(msgspec.Struct):
    """Mean, standard deviation, skewness and kurtosis of numbers, some at a time.

    Source: Pébay 2008, the pairwise update of central sums.

    >>> moments = Moments()
    >>> for part in ([1.0, 2.0], [3.0, 4.0]):
    ...     moments.update(np.array(part))
    >>> moments.count, moments.mean, round(moments.deviation, 4), moments.kurtosis
    (4, 2.5, 1.291, 1.64)
    """

    count: int = 0
    mean: float = 0.0
    second: float = 0.0  # central sums: of squares, and so on
    third: float = 0.0
    fourth: float = 0.0

    def update(self, values: Vector) -> None:
        """Take some more."""
        n, m = self.count, len(values)
        if not m:
            return
        mean = float(values.mean())
        off = values - mean
        second, third, fourth = (float((off**k).sum()) for k in (2, 3, 4))
        total, delta = n + m, mean - self.mean
        d = delta / total
        self.fourth += (
            fourth
            + delta * d**3 * n * m * (n * n - n * m + m * m)
            + 6.0 * d * d * (n * n * second + m * m * self.second)
            + 4.0 * d * (n * third - m * self.third)
        )
        self.third += (
            third + delta * d * d * n * m * (n - m) + 3.0 * d * (n * second - m * self.second)
        )
        self.second += second + delta * d * n * m
        self.mean += d * m
        self.count = total

    @property
    def deviation(self) -> float:
        """The sample standard deviation; 0 of fewer than two."""
        return math.sqrt(self.second / (self.count - 1)) if self.count > 1 else 0.0

    @property
    def skewness(self) -> float:
        """0 where nothing varies."""
        if self.second <= 0.0:
            return 0.0
        return float(math.sqrt(self.count) * self.third / self.second**1.5)

    @property
    def kurtosis(self) -> float:
        """3 for the normal distribution, and where nothing varies."""
        return float(self.count * self.fourth / self.second**2) if self.second > 0.0 else 3.0


class Stretches:
    """A series in at most `most` stretches of equally many rows: sums, highest and last values.

    When there are more, neighbours are joined, so that a stretch becomes twice as long. Of the
    columns of a row the first `sums` are added up, the next `highs` give their highest, and the
    others their last value.

    >>> stretches = Stretches(most=2, sums=1, highs=0, lasts=1)
    >>> stretches.update(np.arange(5), np.array([[1.0, k] for k in range(5)]))
    >>> stretches.rows, stretches.first_ms.tolist(), stretches.values.tolist()
    (4, [0, 4], [[4.0, 3.0], [1.0, 4.0]])
    """

    def __init__(self, most: int, sums: int, highs: int = 0, lasts: int = 0) -> None:
        self.rows = 1  # in a whole stretch
        self.count = 0
        self._most = most
        self._kinds = sums, highs, lasts
        self.first_ms: Times = np.zeros(0, np.int64)
        self.values: Vector = np.zeros((0, sums + highs + lasts))

    @property
    def counts(self) -> Vector:
        """How many rows each stretch has."""
        counts = np.full(len(self.values), float(self.rows))
        if len(counts):
            counts[-1] = self.count - self.rows * (len(counts) - 1)
        return counts

    def update(self, at_ms: Times, rows: Vector) -> None:
        """Take rows [n, columns] in order of time [n]."""
        if not len(rows):
            return
        place = (self.count + np.arange(len(rows))) // self.rows
        starts = np.flatnonzero(np.append(True, place[1:] != place[:-1]))
        values, times = self._joined(rows, starts), at_ms[starts]
        if self.count % self.rows:  # the last stretch is not whole yet
            both = np.stack((self.values[-1], values[0]))
            values[0] = self._joined(both, np.zeros(1, np.int64))[0]
            times = np.append(self.first_ms[-1], times[1:])
            self.values, self.first_ms = self.values[:-1], self.first_ms[:-1]
        self.values = np.concatenate((self.values, values))
        self.first_ms = np.concatenate((self.first_ms, times))
        self.count += len(rows)
        while len(self.values) > self._most:
            starts = np.arange(0, len(self.values), 2)
            self.values, self.first_ms = self._joined(self.values, starts), self.first_ms[starts]
            self.rows *= 2

    def _joined(self, rows: Vector, starts: Times) -> Vector:
        sums, highs, _ = self._kinds
        ends = np.append(starts[1:], len(rows)) - 1
        return np.concatenate(
            (
                np.add.reduceat(rows[:, :sums], starts, axis=0),
                np.maximum.reduceat(rows[:, sums : sums + highs], starts, axis=0),
                rows[ends, sums + highs :],
            ),
            axis=1,
        )


class Overlapping:
    """Means and their standard errors where outcomes overlap, of several columns at once.

    The same as `newey_west` of the training (Newey and West 1987 over sums per close time, Driscoll
    and Kraay 1998), some times after the other: only the last `horizon_bars` times are kept. NaN is
    no value.

    >>> overlapping = Overlapping(1, horizon_bars=1)
    >>> overlapping.update(np.array([1, 2]), np.array([[0.0], [2.0]]))
    >>> [part.round(4).tolist() for part in overlapping.get()]
    [[2.0], [1.0], [0.7071]]
    """

    def __init__(self, columns: int, horizon_bars: int) -> None:
        self._horizon = horizon_bars
        self._count = np.zeros(columns)
        self._sum = np.zeros(columns)
        # By lag: sums of s·s', of s·n' + n·s' and of n·n', of a time and the one `lag` later.
        self._products = np.zeros((horizon_bars, 3, columns))
        self._times: Times = np.zeros(0, np.int64)
        self._kept = np.zeros((2, 0, columns))

    def update(self, slots: Times, values: Vector) -> None:
        """Take values [n, columns] at times [n], counted in bars, none before any earlier one.

        All values of one time are given together.
        """
        if not len(values):
            return
        there = ~np.isnan(values)
        times, starts = np.unique(slots, return_index=True)
        sums = np.add.reduceat(np.where(there, values, 0.0), starts, axis=0)
        counts = np.add.reduceat(there.astype(np.float64), starts, axis=0)
        self._sum += sums.sum(axis=0)
        self._count += counts.sum(axis=0)
        old = len(self._times)
        times = np.concatenate((self._times, times))
        s, n = np.concatenate((self._kept, np.stack((sums, counts))), axis=1)
        for lag in range(self._horizon):
            later = np.searchsorted(times, times + lag)
            found = (later >= old) & (later < len(times))
            found[found] = times[later[found]] == times[found] + lag
            at, to = np.flatnonzero(found), later[found]
            self._products[lag, 0] += (s[at] * s[to]).sum(axis=0)
            self._products[lag, 1] += (s[at] * n[to] + n[at] * s[to]).sum(axis=0)
            self._products[lag, 2] += (n[at] * n[to]).sum(axis=0)
        kept = times > times[-1] - self._horizon
        self._times, self._kept = times[kept], np.stack((s[kept], n[kept]))

    def get(self) -> tuple[Vector, Vector, Vector]:
        """Count, mean and standard error of each column; NaN where nothing came."""
        count = np.where(self._count > 0.0, self._count, np.nan)
        mean = self._sum / count
        ss, sn, nn = self._products.transpose(1, 0, 2)  # [horizon, columns] each
        covariance = ss - mean * sn + mean * mean * nn
        weight = 2.0 * (1.0 - np.arange(self._horizon) / self._horizon)
        weight[0] = 1.0
        variance = np.maximum(weight @ covariance, 0.0)
        return self._count, mean, np.sqrt(variance) / count


class Ranking:
    """How well probabilities rank rises above falls: the AUC, by counts in narrow bins.

    Forecasts in one of `AUC_BINS` bins count as equal; nothing else is lost against all ranks
    (Hanley and McNeil 1982).

    >>> ranking = Ranking()
    >>> ranking.update(np.array([0.1, 0.4, 0.4, 0.8]), np.array([0.0, 0.0, 1.0, 1.0]))
    >>> ranking.get()
    0.875
    """

    def __init__(self) -> None:
        self._counts = np.zeros((2, AUC_BINS))

    def update(self, probabilities: Vector, rose: Vector) -> None:
        """Take forecasts [n] and what happened [n], 0 or 1."""
        place = np.minimum((probabilities * AUC_BINS).astype(np.int64), AUC_BINS - 1)
        for side in (0, 1):
            self._counts[side] += np.bincount(place[rose == side], minlength=AUC_BINS)

    def get(self) -> float | None:
        """None until there were rises and falls."""
        falls, rises = self._counts
        pairs = float(falls.sum() * rises.sum())
        if not pairs:
            return None
        below = np.cumsum(falls) - falls
        return float(rises @ (below + falls / 2.0)) / pairs
