"""Rows in files, their statistics in parts, and what a dataset makes of both."""

import gc
import resource
import tempfile
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.features.schema import FeatureSet, feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training import dataset as dataset_module
from quantum_ai_engine.training.dataset import SPREAD_FLOOR, build
from quantum_ai_engine.training.options import TrainingError
from quantum_ai_engine.training.rows import Moments, mapped

GRU9, TRANSFORMER173 = feature_set("gru9"), feature_set("transformer173")
SMALL = FeatureSet("small", ("ret_1", "momentum_5"), window=4)
Walk = Callable[..., BarTable]


def test_parts_become_one_array() -> None:
    """The parts stand one after the other, bit for bit, and nobody can write to them."""
    rows = np.random.default_rng(0).standard_normal((10, 3))
    whole = mapped(iter([rows[:4], rows[4:4], rows[4:]]), rows.shape, np.float64)
    np.testing.assert_array_equal(whole, rows)
    assert not whole.flags.writeable
    narrow = mapped(iter([rows.astype(np.float32).T.copy().T]), rows.shape, np.float32)
    np.testing.assert_array_equal(narrow, rows.astype(np.float32))


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.lists(st.integers(1, 50), min_size=1, max_size=20),
    mean=st.sampled_from([0.0, 1.0, -1e6]),
    spread=st.sampled_from([1e-2, 1.0, 1e6]),
)
def test_moments_do_not_depend_on_the_parts(
    seed: int, sizes: list[int], mean: float, spread: float
) -> None:
    """L18: mean and spread are those of all rows at once, and no variance is negative."""
    rng = np.random.default_rng(seed)
    parts = [mean + spread * rng.standard_normal((n, 2)) for n in sizes]
    moments = Moments(2)
    for part in parts:
        moments.update(part)
    rows = np.concatenate(parts)
    scale = abs(mean) + spread
    np.testing.assert_allclose(moments.mean, rows.mean(axis=0), atol=1e-13 * scale)
    np.testing.assert_allclose(moments.spread, rows.std(axis=0), rtol=1e-9, atol=1e-12 * scale)


@pytest.mark.parametrize("value", [0.1, -1e9])
def test_a_constant_has_no_spread_worth_the_name(value: float) -> None:
    """L19: equal values give a spread that is 0 but for rounding."""
    moments = Moments(1)
    for n in (1, 7, 1000):
        moments.update(np.full((n, 1), value))
    assert moments.spread[0] <= 1e-15 * abs(value)


def flat_volume(table: BarTable) -> BarTable:
    return replace(table, ohlcv=np.column_stack([table.ohlcv[:, :4], np.full(len(table), 7.0)]))


def test_refuses_columns_without_spread(walk: Walk) -> None:
    """L19: columns that hardly vary in the train span are refused by name, all of them at once."""
    named = r"no spread in vol_rel_20 \(\S+\), vol_chg_1 \(0\), floor 1e-08; give bars of a longer"
    chosen = FeatureSet("some", ("ret_1", "vol_rel_20", "vol_chg_1"), window=4)
    dataset = build(flat_volume(walk()), chosen, horizon_bars=5)
    with pytest.raises(TrainingError, match=named):
        _ = dataset.normaliser


def test_only_a_family_that_standardises_needs_spread(walk: Walk) -> None:
    """L19: trees and rules read raw rows, so a flat column is no reason to refuse them."""
    dataset = build(flat_volume(walk()), GRU9, horizon_bars=5)
    assert dataset.windows(dataset.test).shape == (len(dataset.test), 32, 9)
    with pytest.raises(TrainingError, match=r"the train span has no spread in volume_ratio_20 \("):
        _ = dataset.normalised


def test_the_floor_of_a_spread_grows_with_the_mean(walk: Walk) -> None:
    """L19: what the rounding of a large column could have made is no spread."""
    dataset = build(walk(), SMALL, horizon_bars=5)
    noise = np.random.default_rng(0).standard_normal(dataset.rows.shape)
    for mean, spread, taken in [
        (0, 2, True),
        (0, 0.5, False),
        (1e6, 2e6, True),
        (-1e6, 5e5, False),
    ]:
        scaled = replace(dataset, rows=mean + SPREAD_FLOOR * spread * noise)
        if taken:
            assert scaled.normaliser.scale == pytest.approx([SPREAD_FLOOR * spread] * 2, rel=0.1)
            continue
        with pytest.raises(TrainingError, match=r"no spread in ret_1 .*, momentum_5"):
            _ = scaled.normaliser


def test_normalised_rows_are_the_normaliser_of_all_rows(walk: Walk) -> None:
    """L17: what window models read is the one normaliser, applied once to each row."""
    dataset = build(walk(), GRU9, horizon_bars=5)
    np.testing.assert_array_equal(dataset.normalised, dataset.normaliser.apply(dataset.rows)[0])


def test_parts_change_nothing(walk: Walk, monkeypatch: pytest.MonkeyPatch) -> None:
    """L11: rows made seven bars at a time are those made at once, bit for bit."""
    table = walk()
    whole = build(table, TRANSFORMER173, horizon_bars=5)
    monkeypatch.setattr(dataset_module, "PART_BARS", 7)
    parts = build(table, TRANSFORMER173, horizon_bars=5)
    np.testing.assert_array_equal(parts.rows, whole.rows)
    gru9 = build(table, GRU9, horizon_bars=5)
    monkeypatch.undo()
    again = build(table, GRU9, horizon_bars=5)
    assert gru9.normaliser.mean == pytest.approx(again.normaliser.mean, rel=1e-12)
    assert gru9.normaliser.scale == pytest.approx(again.normaliser.scale, rel=1e-12)


def test_memory_does_not_grow_with_the_rows(walk: Walk) -> None:
    """Four times the bars need some 120 bytes a bar more, not the 1,384 of their rows."""
    peaks = []
    for bars in (20_000, 80_000):
        table = walk(symbols=1, bars=bars)
        tracemalloc.start()
        dataset = build(table, TRANSFORMER173, horizon_bars=5)
        dataset.windows(dataset.test.part(slice(64)))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert dataset.rows.nbytes == bars * 173 * 8
    assert (peaks[1] - peaks[0]) / 60_000 < 200


def test_rows_leave_nothing_on_the_disk(
    walk: Walk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file has no name while it is used, and no room once the dataset is gone."""

    def held() -> int:
        maps = Path("/proc/self/maps").read_text()
        return sum(str(tmp_path) in line for line in maps.splitlines())

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", None)
    dataset = build(walk(), GRU9, horizon_bars=5)
    assert dataset.normalised.shape == dataset.rows.shape
    assert held() == 2
    assert not list(tmp_path.iterdir())
    del dataset
    gc.collect()
    assert held() == 0


def test_rows_lie_on_a_disk_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TMPDIR they are in /var/tmp: where /tmp is memory, a file there would be memory."""
    monkeypatch.delenv("TMPDIR", raising=False)
    rows = mapped(iter([np.ones((512, 1))]), (512, 1), np.float64)
    maps = Path("/proc/self/maps").read_text().splitlines()
    start = f"{rows.__array_interface__['data'][0]:x}-"
    assert any(line.startswith(start) and " /var/tmp/" in line for line in maps)


def test_rows_that_do_not_fit_are_refused(walk: Walk) -> None:
    """A disk without room is one sentence that names the directory, not a dead process."""
    table = walk(bars=5000)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot keep 1 MB of rows in /.*; set TMPDIR to"):
            build(table, GRU9, horizon_bars=5)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
