"""Importance by shuffling, where what decides is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Dataset, Samples, build
from quantum_ai_engine.training.report.importance import (
    LEAST_WINDOWS,
    MOST_WINDOWS,
    REPEATS,
    THEMES,
    importance,
    parts_of,
)

DECIDES, NOISE, UNREAD = "rsi_14", "volume_ratio_20", "open_close"


def silent(_done: int, _steps: int) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def planted(walk: Callable[..., BarTable]) -> Dataset:
    """A dataset whose held-out outcomes one column decides, but for one in ten."""
    dataset = build(walk(bars=3000), feature_set("gru9"), 5)
    values = newest(dataset.windows(dataset.test), DECIDES)
    flipped = np.random.default_rng(1).random(len(values)) < 0.1
    rose = ((values > np.median(values)) != flipped).astype(np.float64)
    return replace(dataset, test=Samples(dataset.test.row, dataset.test.close_time, rose))


def newest(windows: np.ndarray, column: str) -> np.ndarray:
    return windows[:, -1, feature_set("gru9").columns.index(column)]


def agent_of(dataset: Dataset) -> Callable[[np.ndarray], np.ndarray]:
    """Reads what decides, and believes in a little noise."""
    windows = dataset.windows(dataset.test)
    middle, usual = (np.median(newest(windows, name)) for name in (DECIDES, NOISE))

    def predict(windows: np.ndarray) -> np.ndarray:
        assert len(windows) <= 256
        sign = np.where(newest(windows, DECIDES) > middle, 0.4, -0.4)
        return 0.5 + sign + np.where(newest(windows, NOISE) > usual, 0.02, -0.02)

    return predict


def test_what_decides_comes_first_and_noise_is_nothing(planted: Dataset) -> None:
    """The deciding column carries nearly all, noise nothing beyond its error, the unread 0."""
    predict = agent_of(planted)
    found = importance(predict, planted, parts_of(planted.feature_set.columns), silent)
    by_name = {part.name: part for part in found.parts}
    assert found.parts[0].name == DECIDES
    assert by_name[DECIDES].rise > 0.2
    assert by_name[DECIDES].rise > 10 * by_name[DECIDES].stderr
    assert abs(by_name[NOISE].rise) < max(2 * by_name[NOISE].stderr, 0.003)
    assert by_name[UNREAD].rise == by_name[UNREAD].stderr == 0.0


def test_the_work_is_bounded_and_told(planted: Dataset) -> None:
    """At most so many windows are drawn, from all symbols, whatever the length of the span."""
    assert len(planted.test) > MOST_WINDOWS
    asked, steps = [], []
    predict = agent_of(planted)

    def counted(windows: np.ndarray) -> np.ndarray:
        asked.append(len(windows))
        return predict(windows)

    found = importance(
        counted, planted, {DECIDES: (DECIDES,)}, lambda done, of: steps.append((done, of))
    )
    assert found.windows == MOST_WINDOWS
    assert sum(asked) == (1 + REPEATS) * MOST_WINDOWS + REPEATS * LEAST_WINDOWS
    assert steps == [(0, 1), (1, 1)]


@pytest.mark.parametrize(
    ("window_ms", "windows"), [(0.0, 512), (0.9, 512), (1.9, 256), (3.0, 128), (1e3, 64)]
)
def test_a_slow_agent_is_asked_less(planted: Dataset, window_ms: float, windows: int) -> None:
    """With thirteen themes it takes about 20 s at most, and never fewer than 64 windows."""
    now = [0.0]

    def slow(given: np.ndarray) -> np.ndarray:
        now[0] += window_ms / 1e3 * len(given)
        return np.full(len(given), 0.5)

    parts = {str(i): (DECIDES,) for i in range(13)}
    found = importance(slow, planted, parts, silent, lambda: now[0])
    assert found.windows == windows
    assert now[0] <= 21.0 or windows == LEAST_WINDOWS


def test_the_same_windows_give_the_same_importances(planted: Dataset) -> None:
    """Draw and shuffles are seeded, and no part sees what another has shuffled."""
    predict, columns = agent_of(planted), planted.feature_set.columns
    first = importance(predict, planted, parts_of(columns), silent)
    assert importance(predict, planted, parts_of(columns), silent) == first
    backwards = importance(predict, planted, parts_of(columns[::-1]), silent)
    assert {part.name: part for part in backwards.parts} == {p.name: p for p in first.parts}


def test_a_part_is_shuffled_as_one(planted: Dataset) -> None:
    """The rows and columns of a part stay together: each window keeps another's course in time."""
    part = (DECIDES, NOISE)
    places = [planted.feature_set.columns.index(name) for name in part]
    seen = []

    def remembered(windows: np.ndarray) -> np.ndarray:
        seen.extend(window[:, places].tobytes() for window in windows)
        return np.full(len(windows), 0.5)

    importance(remembered, planted, {"both": part}, silent)
    del seen[: REPEATS * LEAST_WINDOWS]  # they were timed
    before = set(seen[:MOST_WINDOWS])
    assert set(seen[MOST_WINDOWS:]) == before


def test_many_columns_go_by_theme() -> None:
    """Each column of the large set is of one theme, and no theme is empty."""
    columns = feature_set("transformer173").columns
    themes = parts_of(columns)
    assert sorted(name for part in themes.values() for name in part) == sorted(columns)
    assert themes.keys() == THEMES.keys()
    assert "vol_cluster_20" in themes["volatility"]
    assert "ret_ac1_20" in themes["persistence"]
    assert parts_of((*columns, "quorum"))["quorum"] == ("quorum",)
