"""The same bits by every way to a row: bar by bar, whole histories, bursts of many series."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import EVERYTHING, NAMES

from ..features import bars as made
from ..features.bars import Floats

MARKETS = made.markets(400)
HISTORIES = {kind: market.bars() for kind, market in MARKETS.items()}
ROWS = {kind: kernel.matrix(bars) for kind, bars in HISTORIES.items()}
TOGETHER = ("Chicago overnight", "flat stretches", "minutes", "no volume and huge volume")


def stream(bars: Floats) -> Floats:
    """The rows as the live engine makes them: one bar, one call."""
    state, out = kernel.new_states(1)[0], np.empty((len(bars), kernel.COLUMN_COUNT))
    for bar, row in zip(bars, out, strict=True):
        kernel.step(state, bar, row, EVERYTHING)
    return out


@pytest.mark.parametrize("kind", HISTORIES)
def test_batch_equals_stream_bit_for_bit(kind: str) -> None:
    """L11: the history in one call and bar by bar give the same 64 bits, in every column."""
    live, offline = stream(HISTORIES[kind]), ROWS[kind]
    differs = (live.view(np.int64) != offline.view(np.int64)).any(axis=0)
    assert [name for name, wrong in zip(NAMES, differs, strict=True) if wrong] == []


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(0, 1_600), max_size=30))
def test_a_burst_equals_the_history_of_each_series(seed: int, cuts: list[int]) -> None:
    """L11: however series interleave and bursts are cut, each series gets its own rows.

    So no series touches another's state.
    """
    histories = [HISTORIES[kind] for kind in TOGETHER]
    series = np.repeat(np.arange(len(histories)), [len(bars) for bars in histories])
    np.random.default_rng(seed).shuffle(series)
    bars = np.empty((len(series), kernel.BAR_WIDTH))
    for s, history in enumerate(histories):
        bars[series == s] = history
    states, rows = kernel.new_states(len(histories)), np.empty((len(series), kernel.COLUMN_COUNT))
    counts = np.empty(len(series), dtype=np.int64)
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), len(series)], strict=True):
        cut = slice(start, end)
        kernel.burst(states, series[cut], bars[cut], rows[cut], counts[cut], EVERYTHING)
    for s, kind in enumerate(TOGETHER):
        assert rows[series == s].tobytes() == ROWS[kind].tobytes()
        assert counts[series == s].tolist() == list(range(1, len(histories[s]) + 1))


@settings(deadline=None, max_examples=30)
@given(st.sampled_from(TOGETHER), st.integers(0, 400), st.integers(0, 400))
def test_a_history_may_be_cut_anywhere(kind: str, first: int, second: int) -> None:
    """L11: history up to a bar, single steps from there, history again: the same rows."""
    bars, state = HISTORIES[kind], kernel.new_states(1)[0]
    rows = np.empty((len(bars), kernel.COLUMN_COUNT))
    a, b = sorted((first, second))
    kernel.history(state, bars[:a], rows[:a])
    for bar, row in zip(bars[a:b], rows[a:b], strict=True):
        kernel.step(state, bar, row, EVERYTHING)
    kernel.history(state, bars[b:], rows[b:])
    assert rows.tobytes() == ROWS[kind].tobytes()
