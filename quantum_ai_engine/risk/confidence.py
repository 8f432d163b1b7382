"""What is known of a mean, at every moment at once: a confidence sequence."""

import math

import msgspec

_MOST_BET = 0.5  # up to here a larger value never lowers a bound, and no logarithm is near its pole


class SavedConfidence(msgspec.Struct, frozen=True, array_like=True):
    """All that a confidence sequence has summed up."""

    count: int
    bets: float
    won: float
    paid: float
    total: float
    spread: float


class ConfidenceSequence:
    """Bounds of a mean that hold at all times together, however often they are looked at.

    With probability 1 − `error_rate` the mean lies inside `get()` after each of any number of
    values. Where the mean moves, "the mean" is the average of the values' conditional means,
    weighted by the bets. Values are taken at ±`bound` when they lie outside: the mean is that of
    values so limited. The predictable plug-in empirical Bernstein sequence of Waudby-Smith and
    Ramdas (2024, Theorem 2); constant memory.

    >>> sequence = ConfidenceSequence(bound=0.01, error_rate=0.05)
    >>> sequence.get()
    >>> for _ in range(200):
    ...     sequence.update(0.002)
    >>> low, high = sequence.get()
    >>> 0.0 < low < 0.002 < high
    True
    """

    def __init__(self, bound: float, error_rate: float) -> None:
        self._bound = bound
        self._error_rate = error_rate
        self._saved = SavedConfidence(0, 0.0, 0.0, 0.0, 0.0, 0.0)

    @property
    def count(self) -> int:
        """How many values there were."""
        return self._saved.count

    def update(self, value: float) -> None:
        if not math.isfinite(value):
            raise ValueError(f"a value of a mean must be finite, and {value} is not")
        limited = min(max(value, -self._bound), self._bound)
        share = (limited / self._bound + 1.0) / 2.0  # 0 to 1
        self._saved = _after(self._saved, share, self._bet())

    def get(self) -> tuple[float, float] | None:
        """Lower and upper bound of the mean, or None before the first value."""
        if not self.count:
            return None
        now, width = self._saved, self._width(self._error_rate)
        low, high = (now.won - width) / now.bets, (now.won + width) / now.bets
        return self._unscaled(low), self._unscaled(high)

    def low(self, error_rate: float) -> float:
        """The lower bound with another error rate; −`bound` before the first value.

        Error rates must be chosen before the values are seen.
        """
        if not self.count:
            return -self._bound
        return self._unscaled((self._saved.won - self._width(error_rate)) / self._saved.bets)

    def saved(self) -> SavedConfidence:
        """All of it, for `restore`."""
        return self._saved

    def restore(self, saved: SavedConfidence) -> None:
        """Go on from what was `saved`."""
        self._saved = saved

    def _bet(self) -> float:
        """How much the next value counts: as much as the spread so far makes best."""
        now = self._saved
        t = now.count + 1
        variance = (0.25 + now.spread) / t
        asked = 2.0 * math.log(2.0 / self._error_rate)
        return min(math.sqrt(asked / (variance * t * math.log(1.0 + t))), _MOST_BET)

    def _width(self, error_rate: float) -> float:
        return math.log(2.0 / error_rate) + self._saved.paid

    def _unscaled(self, share: float) -> float:
        return self._bound * (2.0 * min(max(share, 0.0), 1.0) - 1.0)


def _after(now: SavedConfidence, share: float, bet: float) -> SavedConfidence:
    """The sums after one more value; `mean` is kept off the ends by half a value at 0.5."""
    mean_before = (0.5 + now.total) / (now.count + 1)
    count, total = now.count + 1, now.total + share
    mean = (0.5 + total) / (count + 1)
    return SavedConfidence(
        count,
        bets=now.bets + bet,
        won=now.won + bet * share,
        paid=now.paid + (share - mean_before) ** 2 * (-math.log1p(-bet) - bet),
        total=total,
        spread=now.spread + (share - mean) ** 2,
    )
