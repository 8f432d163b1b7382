"""References: bins of known distributions, of the train span alone, and alarms as stated."""

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.features.histograms import MOST_BINS, Bins, Reference
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.supervisor.shift import psi
from quantum_ai_engine.training.dataset import Dataset, build
from quantum_ai_engine.training.reference import LEVEL, interior_edges, reference

Walk = Callable[..., BarTable]
Floats = NDArray[np.float64]
ROWS = 30_000  # of a train span; 300 are then compared
MEMORY = np.array([0.0, 0.5, 0.8, 0.9, 0.9, 0.95, 0.95, 0.98, 0.98])  # of the columns of gru9


@pytest.fixture(scope="module")
def dataset(walk: Walk) -> Dataset:
    return build(walk(bars=2_600), feature_set("gru9"), 5)


def of_rows(dataset: Dataset, rows: Floats) -> Dataset:
    """A dataset of one symbol whose train span is all these rows."""
    whole = slice(0, len(rows))
    return dataclasses.replace(
        dataset, rows=rows, open_time=np.arange(len(rows)), train_rows=(whole,)
    )


def waves(count: int, seed: int) -> Floats:
    """Columns of variance 1 that forget their past slower and slower [count, 9]."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((count, len(MEMORY)))
    rows[1:] *= np.sqrt(1.0 - MEMORY**2)
    for i in range(1, count):
        rows[i] += MEMORY * rows[i - 1]
    return rows


def ratios(found: Reference, rows: Floats) -> Floats:
    """PSI / threshold of whole comparisons one after the other [comparisons, columns]."""
    edges = [one.edges for one in found.columns.values()]
    bins, thresholds = (
        Bins(range(len(edges)), edges),
        [one.threshold for one in found.columns.values()],
    )
    every = []
    for end in range(found.rows, len(rows) + 1, found.rows):
        counts = np.zeros((len(edges), MOST_BINS), dtype=np.int64)
        bins.count(rows, np.arange(end - found.rows, end), counts)
        every.append(psi(found.counts(), counts) / thresholds)
    return np.array(every)


def test_deciles_of_what_is_spread_evenly(dataset: Dataset) -> None:
    """Ten bins of a continuous column hold a tenth each; a discrete one has a bin for a value."""
    rng = np.random.default_rng(0)
    rows = rng.random((3_000, 9))
    rows[:, 1] = rng.integers(0, 3, 3_000)
    rows[:, 2] = rows[:, 0] > 0.98
    rows[:, 3] = rows[:, 0] < 0.98
    rows[:, 4] = 7.0
    found = reference(of_rows(dataset, rows))
    assert found is not None
    first, second, rare, frequent = (found.columns[n] for n in dataset.feature_set.columns[:4])
    assert first.edges == pytest.approx(np.arange(0.1, 1.0, 0.1), abs=0.03)
    assert first.counts == (300,) * 10
    assert (second.edges, sum(second.counts)) == ((0.0, 1.0), 3_000)
    assert second.counts == tuple(np.bincount(rows[:, 1].astype(int)))
    assert rare.edges == frequent.edges == (0.0,)
    assert rare.counts == (3_000 - int(rows[:, 2].sum()), int(rows[:, 2].sum()))
    assert dataset.feature_set.columns[4] not in found.columns
    assert len(found.columns) == 8
    assert (found.rows, found.span_ms, found.level) == (30, 29, LEVEL)


def test_a_column_of_one_value_has_no_edge() -> None:
    """L19: what is constant in training cannot be compared: it is left out, not divided by 0."""
    assert interior_edges(np.full(50, 3.0)).size == 0


def test_nothing_to_compare_is_no_reference(dataset: Dataset) -> None:
    """L08: rows that never change, or too few for a hundred blocks of 20, have no reference."""
    assert reference(of_rows(dataset, np.ones((3_000, 9)))) is None
    assert reference(of_rows(dataset, waves(1_999, 0))) is None
    assert reference(of_rows(dataset, waves(2_000, 0))) is not None


def test_it_is_of_the_train_span_alone(dataset: Dataset) -> None:
    """L16: each row of the train span is counted once, and no row after it moves anything."""
    found = reference(dataset)
    assert found is not None
    train = sum(some.stop - some.start for some in dataset.train_rows)
    assert (train // 100, found.rows, found.span_ms) == (36, 36, 17 * 60_000)  # two a minute
    assert {sum(one.counts) for one in found.columns.values()} == {train}
    changed = dataset.rows.copy()
    for some, end in zip(dataset.train_rows, (2_600, 5_200), strict=True):
        changed[some.stop : end] = 9.0
    assert reference(dataclasses.replace(dataset, rows=changed)) == found


def test_healthy_streams_alarm_as_seldom_as_stated(dataset: Dataset) -> None:
    """L29: of comparisons of fresh rows that remember up to 100 rows, about 1 in 100 is a shift.

    At most 3 in 100, over five trainings; rows that were shuffled, as if they were independent,
    give thresholds that more than half of the same comparisons exceed.
    """
    alarms, shuffled = [], []
    for seed in range(5):
        rows = waves(3 * ROWS, seed)
        train, fresh = rows[:ROWS], rows[ROWS:]
        found = reference(of_rows(dataset, train))
        assert found is not None
        assert found.rows == 300
        alarms.append(ratios(found, fresh).max(axis=1) > 1.0)
        mixed = np.random.default_rng(seed).permutation(train)
        naive = reference(of_rows(dataset, mixed))
        assert naive is not None
        shuffled.append(ratios(naive, fresh).max(axis=1) > 1.0)
    assert np.concatenate(alarms).shape == (1_000,)
    assert 0.0 < np.mean(alarms) <= 0.03
    assert np.mean(shuffled) > 0.5


def test_a_shift_is_named_by_its_column(dataset: Dataset) -> None:
    """L29: a column that moves by one deviation, and one that triples, exceed their thresholds."""
    rows = waves(2 * ROWS, 7)
    found = reference(of_rows(dataset, rows[:ROWS]))
    assert found is not None
    fresh = rows[ROWS:].copy()
    fresh[:, 2] += 1.0
    fresh[:, 4] *= 3.0
    beyond = (ratios(found, fresh) > 1.0).mean(axis=0)
    assert beyond[[2, 4]].min() > 0.9
    assert np.delete(beyond, [2, 4]).max() <= 0.03
