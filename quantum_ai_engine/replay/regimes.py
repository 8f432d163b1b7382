"""Which regime of volatility a bar was in, by what was known then."""

import math

from quantum_ai_engine.events import Bar

NAMES = ("calm", "usual", "wild")
_HALFLIFE_BARS = 60
_STEP = 0.01  # how far an edge moves in ln of the variance; it settles in some hundred bars
_NEW = 1.0 - 0.5 ** (1.0 / _HALFLIFE_BARS)


class _State:
    __slots__ = ("close", "count", "high", "low", "variance")

    def __init__(self, close: float) -> None:
        self.close = close
        self.count = 0
        self.variance = 0.0
        self.low = self.high = math.nan


class Regimes:
    """The tercile of a series' own volatility so far: 0 calm, 1 usual, 2 wild.

    Volatility is the root mean square of log returns, of which one 60 bars ago counts half. The
    edges of the terciles follow it (stochastic approximation of quantiles, Robbins and Monro 1951),
    so that no later bar decides about an earlier one. Of the first 60 bars all are usual.

    >>> regimes = Regimes()
    >>> bars = (Bar("A", "1m", 60_000 * k, 1.0, 2.0, 1.0, 1.0 + k % 2, 1.0) for k in range(3))
    >>> [regimes.update(0, bar) for bar in bars]
    [1, 1, 1]
    """

    def __init__(self) -> None:
        self._states: dict[int, _State] = {}

    def update(self, series: int, bar: Bar) -> int:
        """Take the next bar of a series; the regime at its close."""
        state = self._states.get(series)
        if state is None:
            self._states[series] = _State(bar.close)
            return 1
        move = math.log(bar.close / state.close)
        state.close = bar.close
        state.count += 1
        is_young = state.count < _HALFLIFE_BARS
        new = max(1.0 / state.count, _NEW) if is_young else _NEW
        state.variance += new * (move * move - state.variance)
        if is_young or state.variance <= 0.0:
            return 1
        level = math.log(state.variance)
        if math.isnan(state.low):
            state.low = state.high = level
            return 1
        state.low += _STEP * (1.0 / 3.0 - (level < state.low))
        state.high += _STEP * (2.0 / 3.0 - (level < state.high))
        return (level > state.low) + (level > max(state.low, state.high))
