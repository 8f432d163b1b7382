"""Volatility of equity: how far it moves, per stated period."""

import math

import msgspec


class SavedVolatility(msgspec.Struct, frozen=True, array_like=True):
    """Variances per millisecond: of all movement, and as it is told."""

    variance: float
    told: float


class Volatility:
    """Root mean square growth per `period_ms`, older movement counting half per `halflife_ms`.

    It begins at `assumed_frac`, which weighs as a whole past. Samples may come at any distance: a
    growth r over t ms counts as the variance r²/t per ms for t ms. What was gained last is told
    from the next sample on, so that at no moment a better result is told as a wilder one.
    An exponentially weighted variance (RiskMetrics 1996) in continuous time.

    >>> day = 86_400_000
    >>> volatility = Volatility(period_ms=day, halflife_ms=day, assumed_frac=0.015)
    >>> for k in range(5_000):
    ...     volatility.update(day // 100, 0.001 * (-1) ** k)
    >>> round(volatility.get(), 3)
    0.01
    """

    def __init__(self, period_ms: int, halflife_ms: int, assumed_frac: float) -> None:
        self._period_ms = period_ms
        self._decay = math.log(2.0) / halflife_ms
        variance = assumed_frac * assumed_frac / period_ms
        self._saved = SavedVolatility(variance, variance)

    def update(self, elapsed_ms: int, growth_frac: float) -> None:
        """Take a growth, at least −1, over some milliseconds, at least 1."""
        if not math.isfinite(growth_frac):
            raise ValueError(f"growth must be finite, and {growth_frac} is not")
        if elapsed_ms < 1:
            raise ValueError(f"growth must take at least 1 ms, not {elapsed_ms}")
        weight = -math.expm1(-self._decay * elapsed_ms)
        kept = self._saved.variance * (1.0 - weight)
        moved = growth_frac * growth_frac * (weight / elapsed_ms)
        self._saved = SavedVolatility(kept + moved, kept + moved if growth_frac < 0.0 else kept)

    def get(self) -> float:
        """A fraction per period."""
        return math.sqrt(self._saved.told * self._period_ms)

    def saved(self) -> SavedVolatility:
        """All of it, for `restore`."""
        return self._saved

    def restore(self, saved: SavedVolatility) -> None:
        """Go on from what was `saved`."""
        self._saved = saved
