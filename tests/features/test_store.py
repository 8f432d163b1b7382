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
from quantum_ai_engine.features.store import DEPTH, FILLED, KEPT, LOOKBACK, VERSION, FeatureStore

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


def arrays_of(store: FeatureStore) -> list[NDArray[np.generic]]:
    """Everything that grows with the number of series."""
    return [store._states, store._checkpoints, store._base, store._recent, *store._rings.values()]


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
    assert len(store._rings) == 1
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
    arrays = arrays_of(store)
    sizes = [array.nbytes for array in arrays]
    store.step(np.zeros(HISTORY, dtype=np.int64), HISTORIES[1])
    store.rewrite(0, np.insert(store.recent(0), 9, store.recent(0)[9], axis=0))
    after = arrays_of(store)
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


@pytest.mark.parametrize("count", [1, 191, 192, 255, 256, 257, 319, 320])
def test_recent_bars_are_kept_since_a_checkpoint(count: int) -> None:
    """L43: all, or as many as any window needs; where they begin depends on their number alone."""
    store = fed(count)
    held = len(store.recent(0))
    assert held == (count if count < KEPT + DEPTH else KEPT + count % DEPTH)
    assert same(store.recent(0)[:, :VERSION], HISTORIES[0][count - held : count])
    single = FeatureStore(ALL_SETS, capacity=1)
    for bar in HISTORIES[0][:count]:
        single.step(one(0), bar[np.newaxis])
    assert single.digest([0]) == store.digest([0])


def test_what_is_filled_in_is_marked() -> None:
    """L16: the mark goes with the bar, also when the checkpoint moves, and changes no feature."""
    marks = np.where(np.random.default_rng(5).random(HISTORY) < 0.3, FILLED, 0.0)
    store, plain = FeatureStore(ALL_SETS), FeatureStore(ALL_SETS)
    rows = store.step(np.zeros(HISTORY, dtype=np.int64), HISTORIES[0], marks)
    assert same(rows.values, plain.step(np.zeros(HISTORY, dtype=np.int64), HISTORIES[0]).values)
    recent = store.recent(0)
    assert recent[:, VERSION].tolist() == marks[-len(recent) :].tolist()
    assert store.digest([0]) != plain.digest([0])
    assert same(recent[:, :VERSION], plain.recent(0)[:, :VERSION])


@settings(deadline=None, max_examples=40)
@given(st.integers(2, HISTORY - 1), st.integers(1, 200), st.integers(1, 3))
def test_a_bar_that_comes_late_leaves_what_it_leaves_in_time(
    count: int, back: int, series: int
) -> None:
    """L43: rows, windows, checkpoint and state have the bits of bars in order."""
    store, straight = FeatureStore(ALL_SETS), FeatureStore(ALL_SETS)
    at = max(0, count - back)
    bars = HISTORIES[0][:count]
    for one_of_them in range(series):
        straight.step(np.full(count, one_of_them), bars)
        store.step(np.full(count - 1, one_of_them), np.delete(bars, at, axis=0))
    recent = store.recent(0)
    place = int(np.searchsorted(recent[:, 5], bars[at, 5]))
    if place == 0 and len(recent) < count - 1:
        return  # before the checkpoint: nobody may ask for it
    rows = store.rewrite(0, np.insert(recent, place, np.append(bars[at], 0.0), axis=0))
    for other in range(1, series):
        store.rewrite(other, store.recent(other).copy())
    assert store.digest([0]) == straight.digest([0])
    assert store.snapshot([0]) == straight.snapshot([0])
    assert rows.counts.tolist() == list(range(count - len(rows.counts) + 1, count + 1))
    assert same(rows.values, ROWS[0][count - len(rows.counts) : count])
    for s in ALL_SETS:
        for seen in range(max(1, count - DEPTH), count + 1, 7):
            windows = store.windows(s.name, one(0), np.array([seen]))
            assert same(windows[0], expected_window(0, seen, s))


def test_a_bar_with_other_values_is_as_if_it_had_come_with_them() -> None:
    """L43: what depended on the first values is gone, whatever they were."""
    store, straight = fed(300), fed(300)
    recent = straight.recent(0).copy()
    wild = recent.copy()
    wild[-3, :5] *= 1e6
    store.rewrite(0, wild)
    assert store.digest([0]) != straight.digest([0])
    store.rewrite(0, recent)
    assert store.digest([0]) == straight.digest([0])


def test_many_more_bars_may_have_come_in_between() -> None:
    """L16: what is filled in around a late bar may be more than one step holds."""
    store, straight = fed(KEPT + DEPTH - 1), FeatureStore(ALL_SETS)
    more = kernel_bars(walk(KEPT + DEPTH - 1 + 2 * DEPTH + 1, 9), HOUR)
    marks = np.where(np.arange(len(more)) % 3 == 1, FILLED, 0.0)
    rows = store.rewrite(0, np.column_stack([more, marks]))
    straight.step(np.zeros(len(more), dtype=np.int64), more, marks)
    assert store.digest([0]) == straight.digest([0])
    assert same(rows.values, kernel.matrix(more))
