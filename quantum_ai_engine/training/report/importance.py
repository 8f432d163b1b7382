"""Which columns an agent lives on: how much worse it forecasts when one of them is shuffled."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import in_batches
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.training.dataset import Dataset, Samples
from quantum_ai_engine.training.scores import newey_west

MOST_WINDOWS, LEAST_WINDOWS = 512, 64
MOST_S = 20.0  # about, for all parts: a slow agent is asked of fewer windows
MOST_SINGLE = 40  # columns; more are shuffled theme by theme
REPEATS = 3
SEED = 0
# Columns of one theme tell nearly the same: shuffled one at a time, each would look useless. The
# longest beginning of a name decides.
THEMES = {
    "returns": "ret_1 ret_lag log_return gap high_chg low_chg log_high log_low typical",
    "bar shape": "oc hl upper lower clv body true_range high_low open_close",
    "momentum": "mom",
    "moving averages": "sma ema x_sma x_ema macd",
    "volatility": "rv park gk rs_ vr semi atr absret vol_cluster volatility",
    "bands": "bbw keltner squeeze bollinger",
    "oscillators": "rsi stoch mfi",
    "highs and lows": "hh ll age",
    "trend": "tp adx pdi mdi er lr",
    "persistence": "ret_ac up_frac run_len",
    "volume": "vol vwap svr cmf pv amihud force log_volume",
    "bar patterns": "doji hammer shooting engulf inside",
    "time and session": "sess dow or_ overnight",
}

Windows = NDArray[np.float64]
Predict = Callable[[Windows], NDArray[np.float64]]


class Importance(NamedTuple):
    """How far the Brier score rises without these columns, and the standard error of that."""

    name: str
    columns: tuple[str, ...]
    rise: float
    stderr: float


@dataclass(frozen=True, slots=True)
class Permuted:
    """Importances, highest first, and on how much they rest."""

    parts: tuple[Importance, ...]
    windows: int
    repeats: int


def parts_of(columns: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Name → columns that are shuffled together: each alone, or by theme when there are many.

    >>> parts_of(("ret_1", "clv"))
    {'ret_1': ('ret_1',), 'clv': ('clv',)}
    """
    if len(columns) <= MOST_SINGLE:
        return {name: (name,) for name in columns}
    themes: dict[str, tuple[str, ...]] = {}
    for name in columns:
        theme = _theme(name)
        themes[theme] = (*themes.get(theme, ()), name)
    return themes


def importance(
    predict: Predict,
    dataset: Dataset,
    parts: Mapping[str, tuple[str, ...]],
    progress: Callable[[int, int], None],
    clock: Callable[[], float] = time.perf_counter,
) -> Permuted:
    """The importance of each part on held-out windows, drawn by a seed when there are many.

    The slower the agent, in seconds by `clock`, the fewer: about `MOST_S` are spent.

    A column is shuffled between windows with all its rows, so that its own course in time stays.
    The standard error is that of the paired loss (see `scores.newey_west`): it holds the draw of
    the windows as well as that of the shuffles. `progress` is told steps done and steps in all.
    Source: Breiman 2001, on held-out bars.
    """
    samples = _drawn(dataset.test, _affordable(predict, dataset, len(parts), clock))
    windows = dataset.windows(samples)
    before = (in_batches(predict, windows) - samples.rose) ** 2
    found = []
    for done, (name, columns) in enumerate(parts.items()):
        progress(done, len(parts))
        places = [dataset.feature_set.columns.index(column) for column in columns]
        rises = _rises(predict, windows, places, samples.rose, before)
        error = newey_west(
            rises, samples.close_time, dataset.horizon_bars, INTERVAL_MS[dataset.interval]
        )
        found.append(Importance(name, columns, float(rises.mean()), error))
    progress(len(parts), len(parts))
    return Permuted(tuple(sorted(found, key=lambda p: -p.rise)), len(samples), REPEATS)


def _theme(name: str) -> str:
    """The theme of a column; one that no theme knows stands for itself."""
    matching = [
        (len(start), theme)
        for theme, starts in THEMES.items()
        for start in starts.split()
        if name.startswith(start)
    ]
    return max(matching)[1] if matching else name


def _affordable(predict: Predict, dataset: Dataset, parts: int, clock: Callable[[], float]) -> int:
    """For how many windows there is time, by the fastest answers to a few; a power of two."""
    windows = dataset.windows(_drawn(dataset.test, LEAST_WINDOWS))
    times = []
    for _ in range(REPEATS):  # the first are slower
        start = clock()
        predict(windows)
        times.append(clock() - start)
    each = min(times) / len(windows) * (1 + REPEATS * parts)
    count = MOST_WINDOWS
    while count > LEAST_WINDOWS and count * each > MOST_S:
        count //= 2
    return count


def _drawn(samples: Samples, most: int) -> Samples:
    """At most so many of them, in order of time. Every k-th could be one symbol's alone."""
    if len(samples) <= most:
        return samples
    at = np.random.default_rng(SEED).choice(len(samples), most, replace=False)
    at.sort()
    return Samples(samples.row[at], samples.close_time[at], samples.rose[at])


def _rises(
    predict: Predict,
    windows: Windows,
    places: list[int],
    rose: NDArray[np.float64],
    before: NDArray[np.float64],
) -> NDArray[np.float64]:
    """How far the squared errors [n] rise, mean of the repeats; the windows stay as they were."""
    rng = np.random.default_rng(SEED)
    kept = windows[:, :, places]  # [n, window, places]
    total = np.zeros(len(windows))
    for _ in range(REPEATS):
        windows[:, :, places] = kept[rng.permutation(len(windows))]
        total += (in_batches(predict, windows) - rose) ** 2 - before
    windows[:, :, places] = kept
    return total / REPEATS
