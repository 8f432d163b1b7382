"""The store: state per series, rows written once into rings, windows that slide by one."""

from random import Random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import AT
from quantum_ai_engine.features.schema import SETS, FeatureSet
from quantum_ai_engine.features.store import DEPTH, LOOKBACK, FeatureStore

from .bars import HOUR, Floats, kernel_bars, walk

ALL_SETS = tuple(SETS.values())
SERIES = 3
HISTORY = 320  # bars per series: more than two turns of the rings

HISTORIES = [kernel_bars(walk(HISTORY, seed), HOUR) for seed in range(SERIES)]
ROWS = [kernel.matrix(bars) for bars in HISTORIES]


def one(series: int) -> NDArray[np.int64]:
    return np.array([series], dtype=np.int64)


def fed(bars: int, sets: tuple[FeatureSet, ...] = ALL_SETS) -> FeatureStore:
    """A store whose series 0 has seen the first bars of its history."""
    store = FeatureStore(sets, capacity=1)
    store.step(np.zeros(bars, dtype=np.int64), HISTORIES[0][:bars])
    return store


def newest(store: FeatureStore, s: FeatureSet, series: int = 0) -> Floats:
    """The window that ends with a series' newest bar."""
    return store.windows(s.name, one(series), np.array([store.count(series)]))[0]


def expected_window(series: int, count: int, s: FeatureSet) -> Floats:
    """The rows that end with bar `count`, NaN where there was none."""
    window = np.full((s.window, len(s.columns)), np.nan)
    rows = ROWS[series][max(0, count - s.window) : count, s.indices]
    window[s.window - len(rows) :] = rows
    return window


def same(left: Floats, right: Floats) -> bool:
    return left.shape == right.shape and left.tobytes() == np.ascontiguousarray(right).tobytes()


@settings(deadline=None, max_examples=25)
@given(st.randoms(use_true_random=False), st.integers(1, 300))
def test_windows_are_the_history_however_bars_come(random: Random, burst_size: int) -> None:
    """L14: each bar's window is its series' own last rows, for any interleaving and burst size.

    Bursts repeat series, so that several rows enter one ring within one call.
    """
    order = np.repeat(np.arange(SERIES), HISTORY)
    random.shuffle(order)
    store, seen = FeatureStore(ALL_SETS, capacity=SERIES), [0] * SERIES
    for start in range(0, len(order), burst_size):
        series = order[start : start + burst_size]
        counts = []
        for i in series:
            seen[i] += 1
            counts.append(seen[i])
        bars = np.array([HISTORIES[i][n - 1] for i, n in zip(series, counts, strict=True)])
        rows = store.step(series, bars)
        assert rows.counts.tolist() == counts
        for at, (i, n) in enumerate(zip(series, counts, strict=True)):
            assert same(rows.values[at], ROWS[i][n - 1])
        # Those of the last DEPTH bars of a series are there, wherever they stood in the burst.
        kept = [
            at for at, (i, n) in enumerate(zip(series, counts, strict=True)) if seen[i] - n <= DEPTH
        ]
        for s in ALL_SETS:
            windows = store.windows(s.name, series[kept], rows.counts[kept])
            side_by_side = windows.array()
            for place, at in enumerate(kept):
                assert same(windows[place], expected_window(series[at], counts[at], s))
                assert same(side_by_side[place], windows[place])


def test_row_k_is_row_k_plus_1_of_the_bar_before() -> None:
    """L14: from bar to bar a window moves by one row, and only the last row is new."""
    store = FeatureStore(ALL_SETS, capacity=1)
    before: dict[str, Floats] = {}
    for n, bar in enumerate(HISTORIES[0], start=1):
        store.step(one(0), bar[np.newaxis])
        for s in ALL_SETS:
            window = newest(store, s).copy()
            if n > 1:
                assert same(window[:-1], before[s.name][1:])
            if n >= s.window_ready_at:
                assert np.isfinite(window).all()
                assert len(np.unique(window, axis=0)) == s.window, "a row was copied"
            before[s.name] = window


@pytest.mark.parametrize("s", ALL_SETS, ids=lambda s: s.name)
def test_a_window_is_whole_at_its_bar_and_not_before(s: FeatureSet) -> None:
    """L13: until warm-up + W − 1 bars the oldest row holds NaN, so that no agent can use it."""
    store = fed(s.window_ready_at - 1)
    assert np.isnan(newest(store, s)[0]).any()
    store.step(one(0), HISTORIES[0][s.window_ready_at - 1 : s.window_ready_at])
    assert np.isfinite(newest(store, s)).all()


def test_a_window_stays_for_the_depth_and_is_refused_when_it_is_gone() -> None:
    """L14: a view shows its own rows for DEPTH more bars; none is given of overwritten ones."""
    store = fed(150)
    views = {s.name: store.windows(s.name, one(0), np.array([150])) for s in ALL_SETS}
    kept = {name: windows.array() for name, windows in views.items()}
    store.step(np.zeros(DEPTH, dtype=np.int64), HISTORIES[0][150 : 150 + DEPTH])
    assert all(same(views[name][0], kept[name][0]) for name in kept)
    store.step(np.zeros(65, dtype=np.int64), HISTORIES[0][150 + DEPTH : 215 + DEPTH])
    for s in ALL_SETS:
        with pytest.raises(ValueError, match="has been overwritten"):
            store.windows(s.name, one(0), np.array([150]))


def test_no_window_is_given_of_bars_to_come() -> None:
    """A count that a series has not reached has no window."""
    with pytest.raises(ValueError, match="has been overwritten"):
        fed(5).windows("gru9", one(0), np.array([6]))


def test_some_windows_are_taken_in_their_order() -> None:
    """`take` selects by position or slice, and copies nothing."""
    store = fed(100)
    windows = store.windows("gru9", np.zeros(3, dtype=np.int64), np.array([98, 99, 100]))
    assert [same(w, windows[i]) for w, i in zip(windows.take([2, 0]).array(), (2, 0), strict=True)]
    assert len(windows.take(slice(1, None))) == 2
    assert same(windows.take(slice(1, None))[0], windows[1])
    assert len(windows.take([])) == 0
    assert windows.take([]).array().shape == (0, 32, 9)
    assert windows.take([1]).rings is windows.rings


def test_sets_of_the_same_columns_share_a_ring() -> None:
    """L11: one ring per list of columns: two sets that differ in their window read one truth."""
    short = FeatureSet("short", SETS["gru9"].columns, window=4, aliases=SETS["gru9"].aliases)
    store = fed(90, (SETS["gru9"], short))
    assert len(store._arrays()) == 3
    assert same(newest(store, short), newest(store, SETS["gru9"])[-4:])


@pytest.mark.parametrize("count", [1, 31, 32, 127, 128, 129, 255, 256, 257, 300])
def test_the_newest_window_is_a_view_of_the_ring(count: int) -> None:
    """A window shows the last rows without a copy, wherever the ring stands."""
    store = fed(count)
    for s in ALL_SETS:
        view = newest(store, s)
        assert same(view, expected_window(0, count, s))
        assert not view.flags.owndata


def test_growth_keeps_what_is_there() -> None:
    """Room for more series changes nothing for those that are known, and new ones start cold."""
    store, still = fed(150), fed(150)
    store.reserve(40)
    assert store.count(0) == 150
    assert [store.count(i) for i in range(1, 40)] == [0] * 39
    for s in ALL_SETS:
        assert same(newest(store, s), newest(still, s))
        assert np.isnan(newest(store, s, 39)).all()
    both = [x.step(one(0), HISTORIES[0][150:151]) for x in (store, still)]
    assert same(both[0].values, both[1].values)
    assert same(store.step(one(39), HISTORIES[1][:1]).values, ROWS[1][:1])


def test_reserving_less_than_there_is_changes_nothing() -> None:
    """A smaller or repeated wish neither shrinks nor clears."""
    store = fed(10)
    for wish in (0, 1, 1):
        store.reserve(wish)
    assert store.count(0) == 10


def test_a_series_takes_the_same_memory_for_ever() -> None:
    """State and rings are fixed when a series is made: running on allocates nothing."""
    store = fed(300)
    arrays = store._arrays()
    sizes = [array.nbytes for array in arrays]
    store.step(np.zeros(HISTORY, dtype=np.int64), HISTORIES[1])
    after = store._arrays()
    assert all(old is new for old, new in zip(arrays, after, strict=True))
    assert [array.nbytes for array in after] == sizes


def test_an_empty_burst_is_nothing() -> None:
    """No bars give no rows and move no series."""
    store = fed(5)
    series = np.empty(0, dtype=np.int64)
    rows = store.step(series, np.empty((0, kernel.BAR_WIDTH)))
    assert rows.values.shape == (0, kernel.COLUMN_COUNT)
    assert store.windows("gru9", series, rows.counts).array().shape == (0, 32, 9)
    assert store.count(0) == 5


@pytest.mark.parametrize("count", [1, 5, 127, 128, 129, 300])
@pytest.mark.parametrize("length", [1, 7, 128])
def test_recent_bars_are_the_newest(count: int, length: int) -> None:
    """The newest bars as they came, oldest first; fewer when fewer were seen."""
    recent = fed(count).recent_bars(0, length)
    assert same(recent, HISTORIES[0][max(0, count - length) : count, :5])


@pytest.mark.parametrize("count", [1, 5, 129, 300])
@pytest.mark.parametrize(
    ("owner", "column"),
    [("gru9", "rsi_14"), ("transformer173", "rsi_14"), ("patchtst8", "macd"), ("gru9", "sma_30")],
)
def test_recent_values_of_a_column_are_found_by_name(count: int, owner: str, column: str) -> None:
    """L13: the newest values of a column of the set that is named, oldest first."""
    at = AT[SETS[owner].kernel_name(column)]
    recent = fed(count).recent_column(0, owner, column, 20)
    assert same(np.ascontiguousarray(recent), ROWS[0][max(0, count - 20) : count, at])


@pytest.mark.parametrize("count", [LOOKBACK, 200, 300])
def test_no_more_than_the_lookback_is_shown(count: int) -> None:
    """Asked for more than is kept, the store shows what is kept, and never a bar twice."""
    store = fed(count)
    newest = slice(count - LOOKBACK, count)
    assert same(store.recent_bars(0, 500), HISTORIES[0][newest, :5])
    shown = np.ascontiguousarray(store.recent_column(0, "gru9", "rsi_14", 500))
    assert same(shown, ROWS[0][newest, AT["gru9.rsi_14"]])


def test_small_sets_have_the_bits_of_the_whole_kernel() -> None:
    """L11: what a store leaves out for speed changes neither the rows of its sets nor its state."""
    small, whole = (fed(300, sets) for sets in ((SETS["gru9"],), ALL_SETS))
    assert same(newest(small, SETS["gru9"]), newest(whole, SETS["gru9"]))
    assert small._states.tobytes() == whole._states.tobytes()
