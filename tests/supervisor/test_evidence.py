"""E-detectors and windows: what they promise under the null, and that they find what is there."""

import math
from statistics import NormalDist

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quantum_ai_engine.supervisor.evidence import (
    Detectors,
    SavedDetectors,
    Window,
    window_threshold,
)

BARS = 4
worst_cases = st.lists(st.floats(0.0, 2.0), min_size=BARS, max_size=BARS)
positions = st.lists(st.floats(0.0, 1.0), min_size=BARS, max_size=BARS)  # from worst to best
one_block = st.tuples(worst_cases, positions)


def block(worst: list[float], at: list[float]) -> tuple[np.ndarray, np.ndarray]:
    """Excesses anywhere from the worst case to 2, and the worst cases, [1, bars]."""
    low = -np.array([worst])
    return low + np.array([at]) * (2.0 - low), -low


def alarm_times(draw: str, runs: int, blocks: int, threshold: float) -> np.ndarray:
    """The first block at which each of `runs` detectors is at the threshold, on one null."""
    rng = np.random.default_rng(5)
    detectors = Detectors(runs, 1)
    times = np.full(runs, blocks)
    for t in range(blocks):
        luck = rng.random((runs, 1))
        if draw == "coin":
            excess, worst = np.where(luck < 0.5, 1.0, -1.0), np.ones((runs, 1))
        elif draw == "rare loss":
            excess, worst = np.where(luck < 0.9, 0.1, -0.9), np.full((runs, 1), 0.9)
        else:  # stakes that change from block to block, known before
            worst = 0.1 + 2.0 * rng.random((runs, 1)) ** 4
            excess = np.where(luck < 0.5, worst, -worst)
        detectors.update(excess, worst)
        is_first = (detectors.evidence >= threshold) & (times == blocks)
        times[is_first] = t
    return times


@pytest.mark.parametrize("draw", ["coin", "rare loss", "changing stakes"])
def test_false_alarms_come_no_sooner_than_stated(draw: str) -> None:
    """L29: on the very edge of the null a threshold of 100 is reached after 100 blocks or more."""
    times = alarm_times(draw, runs=4000, blocks=1000, threshold=100.0)
    assert float(times.mean()) >= 100.0


@given(st.lists(one_block, min_size=1, max_size=30))
def test_capital_never_goes_negative(blocks: list[tuple[list[float], list[float]]]) -> None:
    """Whatever the outcomes, evidence is finite and at least 0."""
    detectors = Detectors(1, BARS)
    for worst, at in blocks:
        detectors.update(*block(worst, at))
        assert np.isfinite(detectors.evidence).all()
        assert (detectors.evidence >= 0.0).all()


@given(st.lists(one_block, min_size=2, max_size=5), st.integers(0, BARS - 1))
def test_a_stake_is_known_before_its_outcome(
    blocks: list[tuple[list[float], list[float]]], bar: int
) -> None:
    """Evidence is linear in the excess of one bar: the stake cannot have looked at it."""
    ends = []
    for place in (0.0, 0.5, 1.0):
        detectors = Detectors(1, BARS)
        for i, (worst, at) in enumerate(blocks):
            is_last = i == len(blocks) - 1
            moved = [place if is_last and b == bar else x for b, x in enumerate(at)]
            detectors.update(*block(worst, moved))
        ends.append(float(detectors.evidence[0]))
    assert ends[1] == pytest.approx((ends[0] + ends[2]) / 2.0, rel=1e-9, abs=1e-12)


def test_the_first_block_only_sets_the_scale() -> None:
    """Stakes come from the blocks before: of the first block nothing is known."""
    detectors = Detectors(1, 1)
    detectors.update(np.array([[2.0]]), np.array([[1.0]]))
    assert detectors.evidence.tolist() == [0.0]


def test_a_lasting_excess_is_found_and_a_lasting_loss_is_not() -> None:
    """Evidence grows by a factor in each block, up to a bound, or stays near 1."""
    detectors = Detectors(2, 1)
    for _ in range(5000):
        detectors.update(np.array([[0.3], [-0.3]]), np.ones((2, 1)))
    assert detectors.evidence[0] > 1e29
    assert detectors.evidence[1] < 50.0
    assert np.isfinite(detectors.evidence).all()


@given(st.lists(one_block, min_size=1, max_size=12), st.integers(0, 12))
def test_detectors_continue_where_they_were_saved(
    blocks: list[tuple[list[float], list[float]]], cut: int
) -> None:
    """L43: saved and restored through bytes anywhere, no later bit changes."""
    whole, restored = Detectors(1, BARS), Detectors(1, BARS)
    for i, (worst, at) in enumerate(blocks):
        if i == cut:
            sent = msgspec.msgpack.encode(restored.saved())
            restored = Detectors(1, BARS)
            restored.restore(msgspec.msgpack.decode(sent, type=SavedDetectors))
        whole.update(*block(worst, at))
        restored.update(*block(worst, at))
    assert whole.saved() == restored.saved()


def test_cleared_tests_begin_again_alone() -> None:
    """Clearing one test leaves the others; evidence of other tests is not restored."""
    detectors = Detectors(2, 1)
    for _ in range(9):
        detectors.update(np.full((2, 1), 0.3), np.ones((2, 1)))
    detectors.clear(np.array([True, False]))
    assert detectors.evidence[0] == 0.0
    assert detectors.evidence[1] > 9.0
    with pytest.raises(ValueError, match="not of 3 tests"):
        Detectors(3, 1).restore(detectors.saved())


def test_a_window_is_silent_until_full_and_forgets() -> None:
    """The mean is over bars, of the last blocks only; it is restored with all it holds."""
    window = Window(2)
    window.update(np.array([9.0, 9.0]))
    assert window.get() is None
    window.update(np.array([1.0]))
    window.update(np.array([2.0, 3.0]))
    assert window.get() == 2.0
    other = Window(2)
    other.restore(window.saved())
    assert other.get() == 2.0


@pytest.mark.parametrize(("draws", "looks"), [(1, 100.0), (5, 1000.0), (40, 1000.0)])
def test_the_bootstrap_agrees_with_the_normal_law(draws: int, looks: float) -> None:
    """Of normal blocks the threshold is the normal quantile over √draws, tails included."""
    law = NormalDist(0.3, 2.0)
    levels = (0.05, 0.5, 0.95)
    quantiles = tuple(law.inv_cdf(x) for x in levels)
    found = window_threshold(levels, quantiles, draws, looks)
    wanted = 2.0 * NormalDist().inv_cdf(1.0 - 1.0 / looks) / math.sqrt(draws)
    assert found == pytest.approx(wanted, rel=0.05)
    assert found == window_threshold.__wrapped__(levels, quantiles, draws, looks)
