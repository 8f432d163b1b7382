"""Feature shift: PSI, comparisons of so many rows, and which of them are told."""

import itertools
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.features.histograms import Histogram, Reference
from quantum_ai_engine.features.kernel import COLUMN_COUNT
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.supervisor.shift import Come, Comparison, FeatureShift, Shifts, Watched, psi

Floats = NDArray[np.float64]
SET = SETS["momentum2"]
FIRST, SECOND = SET.columns
ROWS = 10
EVEN = Reference(
    ROWS,
    0,
    0.99,
    {FIRST: Histogram((0.0,), (500, 500), 0.5), SECOND: Histogram((-1.0, 1.0), (1, 998, 1), 0.5)},
)


def rows_of(first: Floats) -> Floats:
    """Kernel rows whose first column of the set is given; the second is 0."""
    rows = np.full((len(first), COLUMN_COUNT), np.nan)
    rows[:, SET.indices] = np.stack([first, np.zeros(len(first))], axis=1)
    return rows


def healthy(rows: int) -> Floats:
    """As many values below 0 as above."""
    return np.resize([-1.0, 1.0], rows)


def compared(shift: FeatureShift, first: Floats, at: int = 0) -> list[Comparison]:
    return shift.update(rows_of(first), np.arange(len(first)), at + np.arange(len(first)))


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(any), st.integers(1, 50))
def test_psi_is_nothing_for_the_same_and_never_negative(counts: list[int], times: int) -> None:
    """L29: the same histogram has PSI 0; any other, empty bins too, a finite one above."""
    reference = np.array(counts)
    assert psi(reference, reference) == 0.0
    other = float(psi(reference, reference[::-1] * times))
    assert other >= 0.0
    assert np.isfinite(other)


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=9), st.integers(1, 5), st.data())
def test_bins_that_are_not_there_change_nothing(
    counts: list[int], more: int, data: st.DataObject
) -> None:
    """L53: histograms of fewer bins may stand beside wider ones, and keep their own PSI."""
    size = len(counts)
    live = data.draw(st.lists(st.integers(0, 1000), min_size=size, max_size=size).filter(any))
    wide = [np.array([one + [0] * more, [7] * (size + more)]) for one in (counts, live)]
    alone = float(psi(np.array(counts), np.array(live)))
    assert psi(*wide).tolist() == pytest.approx([alone, 0.0], rel=1e-12, abs=1e-15)


@pytest.mark.parametrize(
    "counts", [np.array([1]), np.array([1.0, 2.0]), np.array([0, 0]), np.array([-1, 2])]
)
def test_what_is_no_histogram_is_refused(counts: Any) -> None:
    """L36: whole counts, none below 0 and not all 0."""
    with pytest.raises(ValueError, match="histogram"):
        psi(counts, np.array([1, 2]))
    with pytest.raises(ValueError, match="3 bins are compared with 2"):
        psi(np.array([1, 2, 3]), np.array([1, 2]))


def test_no_comparison_before_its_last_row() -> None:
    """L08: before the first comparison is whole there is none; how far it is can be seen."""
    shift = FeatureShift(SET, EVEN)
    assert compared(shift, healthy(ROWS - 1)) == []
    assert (shift.get(), shift.pending) == (None, ROWS - 1)
    compared(shift, healthy(1), at=60)
    last = shift.get()
    assert last is not None
    assert (last.at_ms, last.rows, last.is_shift, shift.pending) == (60, ROWS, False, 0)


def test_the_columns_that_moved_come_first() -> None:
    """What moved is named first, with its PSI, its threshold, and the larger ratio of all."""
    shift = FeatureShift(SET, EVEN)
    (turned,) = compared(shift, np.ones(ROWS))
    assert turned == shift.get()
    assert [one.column for one in turned.worst] == [FIRST, SECOND]
    worst = turned.worst[0]
    assert worst.psi == float(psi(np.array([500, 500]), np.array([0, 10])))
    assert turned.ratio == worst.psi / worst.threshold > 1.0 > turned.worst[1].psi / 0.5


@given(
    st.lists(st.booleans(), min_size=1, max_size=8),
    st.integers(0, ROWS - 1),
    st.lists(st.integers(0, 90), max_size=6),
)
def test_batches_change_nothing(moved: list[bool], rest: int, cuts: list[int]) -> None:
    """However rows are cut into batches: the same comparisons, and each turn is told once."""
    parts = [np.ones(ROWS) if one else healthy(ROWS) for one in moved]
    values = np.concatenate([*parts, healthy(rest)])
    shift, told = FeatureShift(SET, EVEN), []
    edges = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    for start, stop in itertools.pairwise(edges):
        told += compared(shift, values[start:stop], start)
    last = shift.get()
    assert last is not None
    assert (last.is_shift, last.at_ms) == (moved[-1], len(moved) * ROWS - 1)
    assert shift.pending == rest
    turns = [i for i, one in enumerate(moved) if one != (moved[i - 1] if i else False)]
    assert [one.at_ms for one in told] == [(i + 1) * ROWS - 1 for i in turns]
    assert [one.is_shift for one in told] == [moved[i] for i in turns]


@given(st.integers(1, 40), st.integers(0, 12), st.integers(0, 300))
def test_a_comparison_lasts_as_long_as_in_training(symbols: int, span: int, cut: int) -> None:
    """L29: however many symbols: no fewer rows, and no shorter a time, and not one row more."""
    lasting = msgspec.structs.replace(EVEN, span_ms=span)
    times = np.repeat(np.arange(20), symbols)  # a bar of each symbol at each time
    rows, places = rows_of(np.ones(len(times))), np.arange(len(times))
    shift = FeatureShift(SET, lasting)
    told = [*shift.update(rows, places[:cut], times), *shift.update(rows, places[cut:], times)]
    wanted = max(ROWS, span * symbols + 1)
    assert [one.rows for one in told] == [wanted] * (wanted <= len(times))


def test_each_agent_counts_what_it_reads() -> None:
    """L13: bars of another interval, rows that are not ready and repeats are left out."""
    ready = SET.ready_at
    watched = [Watched("mine", "1m", SET, EVEN), Watched("other", "5m", SET, EVEN)]
    shifts = Shifts(watched)
    come = [
        Come("1m", ready, 1, is_first=True),
        Come("1m", ready - 1, 2, is_first=True),
        Come("5m", ready + 7, 3, is_first=True),
        Come("1m", ready, 4, is_first=False),
        Come("1m", ready + 1, 5, is_first=True),
    ]
    assert shifts.update(rows_of(np.ones(5)), come) == []
    assert {name: one.pending for name, one in shifts.of.items()} == {"mine": 2, "other": 1}
    told = shifts.update(rows_of(np.ones(8)), [Come("1m", 99, 9, is_first=True)] * 8)
    assert [(name, one.is_shift) for name, one in told] == [("mine", True)]


def test_nobody_to_watch_and_nothing_to_count() -> None:
    """Agents without a reference have no shift, and a batch without bars changes none."""
    assert Shifts([]).update(rows_of(np.ones(1)), [Come("1m", 99, 1, is_first=True)]) == []
    shifts = Shifts([Watched("mine", "1m", SET, EVEN)])
    assert shifts.update(np.array([]), []) == []
    assert shifts.of["mine"].pending == 0
