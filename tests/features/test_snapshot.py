"""Snapshots of feature state: continued from one, a series never stopped."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.features import store as store_module
from quantum_ai_engine.features.schema import SETS, FeatureSet
from quantum_ai_engine.features.store import DEPTH, FeatureStore, SnapshotError

from .bars import HOUR, Floats, kernel_bars, ticks, walk

ALL_SETS = tuple(SETS.values())
BARS = 220
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
    return [array.tobytes() for array in store._arrays()]


counts = st.integers(0, BARS - 1)


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
    other.restore([place], whole.snapshot([0]))
    assert other.count(place) == whole.count(0) == bar
    assert rest(other, place, history, bar) == rest(whole, 0, history, bar)


@settings(deadline=None, max_examples=15)
@given(st.tuples(counts, counts, counts), st.permutations([0, 1, 2]), st.permutations([4, 0, 7]))
def test_all_series_at_once_in_any_order(
    seen: tuple[int, ...], taken: list[int], places: list[int]
) -> None:
    """L43: a snapshot of several series gives each place the state of the series in its order."""
    never_stopped, other = fed(list(seen)), fed([5])
    other.restore(places, never_stopped.snapshot(taken))
    for series, place in zip(taken, places, strict=True):
        expected = rest(never_stopped, series, series, seen[series])
        assert rest(other, place, series, seen[series]) == expected


def test_other_series_are_left_alone() -> None:
    """Restoring one series changes no other, and taking a snapshot changes nothing."""
    store, same = fed([100, 50, 70]), fed([100, 50, 70])
    untouched = everything(store)
    snapshot = store.snapshot([0])
    assert everything(store) == untouched
    store.restore([1], snapshot)
    assert rest(store, 0, 0, 100) == rest(same, 0, 0, 100)
    assert rest(store, 2, 2, 70) == rest(same, 2, 2, 70)


def test_the_same_state_has_the_same_bytes() -> None:
    """A snapshot is a function of the state: taken twice, or from a restored store, it is equal."""
    store = fed([150, 20])
    snapshot = store.snapshot([0, 1])
    other = FeatureStore(ALL_SETS, 1)
    other.restore([0, 1], snapshot)
    assert store.snapshot([0, 1]) == snapshot == other.snapshot([0, 1])


def test_no_series_at_all() -> None:
    """A snapshot of nothing restores nothing."""
    store = fed([9])
    before = everything(store)
    store.restore([], store.snapshot([]))
    assert everything(store) == before


def refused(store: FeatureStore, series: list[int], snapshot: bytes, match: str) -> None:
    before = everything(store)
    with pytest.raises(SnapshotError, match=match) as error:
        store.restore(series, snapshot)
    assert "\n" not in str(error.value)
    assert everything(store) == before


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 2**31), st.integers(1, 255))
def test_a_damaged_byte_is_noticed(at: int, flip: int) -> None:
    """L24: one wrong byte anywhere, and nothing of the snapshot is taken."""
    store = fed([80, 30])
    snapshot = bytearray(store.snapshot([0, 1]))
    snapshot[at % len(snapshot)] ^= flip
    refused(store, [0, 1], bytes(snapshot), "damaged|no snapshot")


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 1.0, exclude_max=True))
def test_a_truncated_snapshot_is_noticed(share: float) -> None:
    """L24: a snapshot that was not written to its end is refused, an empty one too."""
    store = fed([80])
    snapshot = store.snapshot([0])
    refused(store, [0], snapshot[: int(share * len(snapshot))], "damaged|no snapshot")
    refused(store, [0], snapshot + b"\0", "damaged")


def test_another_number_of_series_is_refused() -> None:
    """As many places as series, or nothing is restored."""
    store = fed([80, 30])
    refused(store, [0], store.snapshot([0, 1]), "series=2.*series=1")


def test_another_store_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    """L12: a snapshot of another kernel, of other sets, or of another version is refused."""
    snapshot = fed([80]).snapshot([0])
    refused(fed([80], sets=ALL_SETS[:1]), [0], snapshot, "the snapshot is of")
    refused(fed([80], sets=ALL_SETS[::-1]), [0], snapshot, "the snapshot is of")
    changes: list[tuple[str, object, str]] = [
        ("KERNEL_HASH", "0123456789abcdef", "0123456789abcdef"),
        ("SNAPSHOT_VERSION", 3, "version 2 is not 3"),
    ]
    for name, value, match in changes:
        with monkeypatch.context() as patch:
            patch.setattr(store_module, name, value)
            refused(fed([80]), [0], snapshot, match)


def test_bytes_that_are_no_snapshot_are_refused() -> None:
    """L24: other bytes are told from a snapshot by their first ones."""
    store = fed([10])
    snapshot = store.snapshot([0])
    for other in (b"", snapshot[::-1], b"{}" + snapshot):
        refused(store, [0], other, "no snapshot of feature state")


def test_a_refused_snapshot_does_not_grow_the_store() -> None:
    """Nothing is changed by a refusal, not even the room for series."""
    store, wrong = fed([10], capacity=1), fed([10], sets=ALL_SETS[:1])
    refused(store, [99], wrong.snapshot([0]), "the snapshot is of")
    shapes: list[Floats] = store._arrays()
    assert len(shapes[0]) == 1
