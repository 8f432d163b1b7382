"""Snapshots of feature state: continued from one, a series never stopped."""

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features import store as store_module
from quantum_ai_engine.features.schema import SETS, FeatureSet
from quantum_ai_engine.features.store import DEPTH, FeatureStore, RowsOf, SavedSeries, SnapshotError

from .bars import HOUR, Floats, Times, kernel_bars, ticks, walk

ALL_SETS = tuple(SETS.values())
BARS = 330  # the checkpoint moves at 256 and 320
HISTORIES = [
    kernel_bars(walk(BARS, 1), HOUR),
    kernel_bars(ticks(BARS, 2, 100.0, 0.5), 6 * HOUR),
    kernel_bars(walk(BARS, 3, price=1e-8, step=0.1)),
]


def fed(
    seen: list[int], capacity: int = 4, sets: tuple[FeatureSet, ...] = ALL_SETS
) -> FeatureStore:
    """A store whose series i has seen the first `seen[i]` bars of its history."""
    store = FeatureStore(sets, capacity)
    for series, n in enumerate(seen):
        store.step(np.full(n, series, dtype=np.int64), HISTORIES[series][:n])
    return store


def rest(store: FeatureStore, at: int, history: int, first: int) -> tuple[bytes, ...]:
    """All that a series at place `at` gives for the bars of a history from `first` on."""
    bars = HISTORIES[history][first:]
    series = np.full(len(bars), at, dtype=np.int64)
    rows = store.step(series, bars)
    windows = (
        store.windows(s.name, series[-DEPTH:], rows.counts[-DEPTH:]).array().tobytes()
        for s in ALL_SETS
    )
    recent = np.ascontiguousarray(store.recent_bars(at, 128)).tobytes()
    return rows.values.tobytes(), rows.counts.tobytes(), recent, *windows


def everything(store: FeatureStore) -> list[bytes]:
    arrays = [store._states, store._checkpoints, store._base, store._recent]
    return [array.tobytes() for array in [*arrays, *store._rings.values()]]


def rows_of(*histories: int) -> RowsOf:
    """Makes the kernel's bars of these histories again from when they opened."""

    def rows(i: int, open_time: Times, ohlcv: Floats) -> Floats:
        bars = HISTORIES[histories[i]]
        found = bars[np.searchsorted(bars[:, 5], open_time)]
        assert found[:, :5].tobytes() == np.ascontiguousarray(ohlcv).tobytes()
        return found

    return rows


counts = st.integers(0, BARS - 1) | st.sampled_from([0, 1, 191, 192, 255, 256, 257, 319, 320])


@settings(deadline=None, max_examples=40)
@given(counts, st.integers(0, 2), st.integers(0, 9), st.sampled_from([1, 3, 32]))
def test_a_series_continued_from_a_snapshot_never_stopped(
    bar: int, history: int, place: int, capacity: int
) -> None:
    """L43: at any bar, at another place, in a store of another size: the same rows and windows."""
    whole = FeatureStore(ALL_SETS, capacity=1)
    before = np.zeros(bar, dtype=np.int64)
    whole.step(before, HISTORIES[history][:bar])
    other = FeatureStore(ALL_SETS, capacity)
    other.restore([place], whole.snapshot([0]), rows_of(history))
    assert other.count(place) == whole.count(0) == bar
    assert rest(other, place, history, bar) == rest(whole, 0, history, bar)


@settings(deadline=None, max_examples=15)
@given(st.tuples(counts, counts, counts), st.permutations([0, 1, 2]), st.permutations([4, 0, 7]))
def test_all_series_at_once_in_any_order(
    seen: tuple[int, ...], taken: list[int], places: list[int]
) -> None:
    """L43: a snapshot of several series gives each place the state of the series in its order."""
    never_stopped, other = fed(list(seen)), fed([5])
    other.restore(places, never_stopped.snapshot(taken), rows_of(*taken))
    for series, place in zip(taken, places, strict=True):
        expected = rest(never_stopped, series, series, seen[series])
        assert rest(other, place, series, seen[series]) == expected


def test_other_series_are_left_alone() -> None:
    """Restoring one series changes no other, and taking a snapshot changes nothing."""
    store, same = fed([100, 50, 70]), fed([100, 50, 70])
    untouched = everything(store)
    snapshot = store.snapshot([0])
    assert everything(store) == untouched
    store.restore([1], snapshot, rows_of(0))
    assert rest(store, 0, 0, 100) == rest(same, 0, 0, 100)
    assert rest(store, 2, 2, 70) == rest(same, 2, 2, 70)


@pytest.mark.parametrize("bars", [0, 20, 250])
def test_nothing_is_left_of_what_was_there(bars: int) -> None:
    """L43: a younger series in the place of an older one has no row of that one."""
    store, young = fed([300]), fed([bars])
    store.restore([0], young.snapshot([0]), rows_of(0))
    assert store.digest([0]) == young.digest([0])


def test_the_same_state_has_the_same_bytes() -> None:
    """A snapshot is a function of the state: taken twice, or from a restored store, it is equal."""
    store = fed([150, 20])
    snapshot = store.snapshot([0, 1])
    other = FeatureStore(ALL_SETS, 1)
    other.restore([0, 1], snapshot, rows_of(0, 1))
    assert store.snapshot([0, 1]) == snapshot == other.snapshot([0, 1])


def test_no_series_at_all() -> None:
    """A snapshot of nothing restores nothing."""
    store = fed([9])
    before = everything(store)
    store.restore([], store.snapshot([]), rows_of())
    assert everything(store) == before


def refused(store: FeatureStore, series: list[int], snapshot: SavedSeries, match: str) -> None:
    before = everything(store)
    with pytest.raises(SnapshotError, match=match) as error:
        store.restore(series, snapshot, rows_of(0, 1, 2))
    assert "\n" not in str(error.value)
    assert everything(store) == before


def test_a_snapshot_of_another_length_is_refused() -> None:
    """L24: one that was not written to its end, or on beyond it."""
    store = fed([80])
    saved = store.snapshot([0])
    for body in (b"", saved.body[:-8], saved.body + bytes(8)):
        refused(store, [0], msgspec.structs.replace(saved, body=body), "shorter or longer")


def test_another_number_of_series_is_refused() -> None:
    """As many places as series, or nothing is restored."""
    store = fed([80, 30])
    refused(store, [0], store.snapshot([0, 1]), "of 2 series, not 1")


def test_another_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """L12: a snapshot of another kernel, of another layout or of another version is refused."""
    snapshot = fed([80]).snapshot([0])
    changes: list[tuple[str, object, str]] = [
        ("KERNEL_HASH", "0123456789abcdef", "0123456789abcdef"),
        ("_LAYOUT", "big 1 2 3", "big 1 2 3"),
        ("SNAPSHOT_VERSION", 5, "version 4 is not 5"),
    ]
    for name, value, match in changes:
        with monkeypatch.context() as patch:
            patch.setattr(store_module, name, value)
            refused(fed([80]), [0], snapshot, match)


@settings(deadline=None, max_examples=30)
@given(counts, st.sampled_from([ALL_SETS[:1], ALL_SETS[::-1], ALL_SETS[1:3], ()]))
def test_other_sets_take_it_and_have_their_windows(bar: int, sets: tuple[FeatureSet, ...]) -> None:
    """L43: agents may have changed: every window is there, as if its set had always been asked."""
    snapshot = fed([bar]).snapshot([0])
    other, never_stopped = FeatureStore(sets, 2), fed([bar], 2, sets)
    other.restore([0], snapshot, rows_of(0))
    assert other.digest([0]) == never_stopped.digest([0])
    assert other.snapshot([0]) == snapshot


def test_a_snapshot_holds_what_cannot_be_had_otherwise() -> None:
    """L42: a series takes a checkpoint without doubles and seven numbers of each recent bar."""
    for seen, held in ((10, 10), (255, 255), (256, 192), (319, 255)):
        size = len(fed([seen]).snapshot([0]).body)
        assert size == 8 * (kernel.PACKED_WIDTH + 7 * held)


def test_a_refused_snapshot_does_not_grow_the_store() -> None:
    """Nothing is changed by a refusal, not even the room for series."""
    store = fed([10], capacity=1)
    saved = store.snapshot([0])
    refused(store, [99], msgspec.structs.replace(saved, body=saved.body[:-1]), "shorter")
    assert len(store._states) == 1
