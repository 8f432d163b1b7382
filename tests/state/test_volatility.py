"""Volatility of each series: of late, for long, by the square root of time, and who is late."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.events import INTERVAL_MS, Bar
from quantum_ai_engine.risk.sizing import annualised
from quantum_ai_engine.state.volatility import (
    KNOWN_BARS,
    LONG_BARS,
    RATIO_BARS,
    SHORT_BARS,
    Volatilities,
)


def bar(number: int, close: float, symbol: str = "AAA", interval: str = "1m") -> Bar:
    return Bar(symbol, interval, number * INTERVAL_MS[interval], close, close, close, close, 1.0)


def path(moves: list[float], symbol: str = "AAA", interval: str = "1m") -> list[Bar]:
    """Bars whose closes make these moves in ln."""
    closes = 100.0 * np.exp(np.cumsum([0.0, *moves]))
    return [bar(i, float(close), symbol, interval) for i, close in enumerate(closes)]


def seeing(bars: list[Bar]) -> Volatilities:
    volatilities = Volatilities()
    volatilities.reserve(1)
    for one in bars:
        volatilities.update(np.array([0]), [(0, one)])
    return volatilities


def test_it_is_not_known_at_first() -> None:
    """L36: a few moves say nothing; the first bar is none."""
    assert math.isnan(seeing(path([0.01] * (KNOWN_BARS - 1))).annualised()[0])
    assert seeing(path([0.01] * KNOWN_BARS)).annualised()[0] > 0.0
    assert not seeing([]).known[0]
    assert seeing(path([])).known[0]


@pytest.mark.parametrize("interval", ["1m", "5m", "1h", "1d"])
def test_equal_moves_have_the_volatility_of_one(interval: str) -> None:
    """L51: of a year, whatever the interval."""
    moves = [0.01, -0.01] * 200
    got = seeing(path(moves, interval=interval)).annualised()[0]
    assert got == pytest.approx(annualised(0.01, INTERVAL_MS[interval]))


@settings(max_examples=50)
@given(st.lists(st.floats(-0.1, 0.1), min_size=KNOWN_BARS, max_size=400))
def test_it_is_the_larger_of_two_weighted_means(moves: list[float]) -> None:
    """L18: against a plain recomputation of both, each square never below 0."""
    means = []
    for memory in (SHORT_BARS, LONG_BARS):
        mean = 0.0
        for i, move in enumerate(moves, start=1):
            mean += (move**2 - mean) / min(i, memory)
        means.append(mean)
    expected = annualised(math.sqrt(max(means)), 60_000)
    assert seeing(path(moves)).annualised()[0] == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_the_ratio_tells_a_storm_from_a_calm() -> None:
    """L51: 1 where nothing changed, and nothing while too little is known."""
    assert seeing(path([0.01] * (RATIO_BARS - 1))).ratio() is None
    assert seeing(path([0.01] * 400)).ratio() == pytest.approx(1.0)
    assert seeing(path([0.01] * 400 + [0.1] * 12)).ratio() > 2.0  # type: ignore[operator]
    assert seeing(path([0.0] * 400)).ratio() is None


def test_who_is_late_is_told() -> None:
    """L07: by the newest final bar of each series, and its own interval."""
    volatilities = Volatilities()
    volatilities.reserve(3)
    volatilities.update(np.array([0]), [(0, bar(9, 100.0))])
    volatilities.update(np.array([1]), [(1, bar(1, 100.0, "BBB", "5m"))])
    assert not volatilities.is_late(600_000 + 150_000, 2.5).any()
    assert volatilities.is_late(600_000 + 150_001, 2.5).tolist() == [True, False, False]
    assert list(volatilities.newest([1, 0])) == [bar(1, 100.0, "BBB", "5m"), bar(9, 100.0)]
    late = volatilities.is_late(600_000 + 750_001, 2.5).tolist()
    assert late == [True, True, False]  # the third was never there


@given(st.lists(st.floats(-0.1, 0.1), min_size=2, max_size=60), st.integers(0, 60))
def test_restored_anywhere_it_goes_on(moves: list[float], cut: int) -> None:
    """L43: the same bits, at another place."""
    bars = path(moves)
    cut %= len(bars)
    straight, before, after = seeing(bars), seeing(bars[:cut]), Volatilities()
    after.reserve(3)
    after.restore([2], [("AAA", "1m")], before.saved([0]))
    for one in bars[cut:]:
        after.update(np.array([2]), [(2, one)])
    assert after.saved([2]) == straight.saved([0])
    with pytest.raises(ValueError, match="2 places for the volatility of 1 series"):
        after.restore([0, 1], [("A", "1m"), ("B", "1m")], before.saved([0]))
