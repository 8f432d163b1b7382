"""Bars for the training tests: a seeded walk whose drift keeps its sign for a while."""

from collections.abc import Callable

import numpy as np
import pytest

from quantum_ai_engine.market.table import BarTable

MINUTE_MS = 60_000
START_MS = 1_700_000_000_000 // MINUTE_MS * MINUTE_MS


def make_walk(
    symbols: int = 2, bars: int = 1000, seed: int = 0, drift: float = 1.0, missing: float = 0.0
) -> BarTable:
    """A table of walks; `drift` is that of a regime in volatilities per bar, 0 for pure noise."""
    rng = np.random.default_rng(seed)
    shape = (bars, symbols)
    switched = rng.random(shape) < 1 / 40
    signs = rng.choice([-1.0, 1.0], shape)
    last = np.maximum.accumulate(np.where(switched, np.arange(bars)[:, None], 0))
    moves = rng.standard_normal(shape) + drift * np.take_along_axis(signs, last, axis=0)
    close = 100.0 * np.exp(np.cumsum(0.001 * moves, axis=0))
    opened = np.vstack([np.full((1, symbols), 100.0), close[:-1]])
    stray = 1.0 + np.abs(0.0005 * rng.standard_normal((2, *shape)))
    high, low = np.maximum(opened, close) * stray[0], np.minimum(opened, close) / stray[1]
    volume = np.exp(rng.standard_normal(shape))
    step, symbol = np.nonzero(rng.random(shape) >= missing)
    return BarTable(
        tuple(f"WALK{i}" for i in range(symbols)),
        symbol.astype(np.int32),
        "1m",
        START_MS + step * MINUTE_MS,
        np.stack([opened, high, low, close, volume], axis=-1)[step, symbol],
    )


@pytest.fixture(scope="session")
def walk() -> Callable[..., BarTable]:
    """The maker of tables: `walk(symbols=2, bars=1000, seed=0, drift=1.0, missing=0.0)`."""
    return make_walk
