"""Data quality: what trips, what does not, and how it clears."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import QualitySettings
from quantum_ai_engine.supervisor.quality import (
    DataAlarm,
    Fault,
    Quality,
    SavedQuality,
)

Array = NDArray[np.float64]
SHORT = QualitySettings(constant_bars=10, clear_bars=5, settle_bars=8, clamped_bars=2, stay_bars=3)
seeds = st.integers(0, 2**32 - 1)


def fresh(series: int = 1, given_: QualitySettings = SHORT) -> Quality:
    quality = Quality(given_)
    quality.reserve(series)
    return quality


def bars_of(close: Array) -> Array:
    """Bars [n, 5] whose columns all move."""
    volume = 1.0 + np.arange(len(close)) % 7
    return np.stack((close * 0.999, close * 1.002, close * 0.998, close, volume), axis=1)


def walk(seed: int, bars: int, step: float = 0.001, fat: float = 0.0) -> Array:
    rng = np.random.default_rng(seed)
    moves = rng.standard_t(fat, bars) if fat else rng.normal(size=bars)
    return np.asarray(100.0 * np.exp(np.cumsum(step * moves)))


def faults(quality: Quality, bars: Array, clamped: Any = 0.0) -> list[set[Fault]]:
    """The faults of one series after each bar."""
    shares = np.broadcast_to(np.asarray(clamped, dtype=float), len(bars))
    found = []
    for bar, share in zip(bars, shares, strict=True):
        quality.update(np.array([0]), bar[np.newaxis], np.array([share]))
        found.append({alarm.fault for alarm in quality.alarms(0)})
        assert quality.quarantined.tolist() == [bool(found[-1])]
    return found


@pytest.mark.parametrize("fat", [0.0, 4.0])
def test_a_healthy_feed_is_never_in_quarantine(fat: float) -> None:
    """L29: 1,000 bars of 20 series, also heavy-tailed ones, raise no alarm."""
    quality = fresh(20, QualitySettings())
    feeds = np.stack([bars_of(walk(seed, 1000, fat=fat)) for seed in range(20)])
    for at in range(1000):
        quality.update(np.arange(20), feeds[:, at], np.zeros(20))
        assert not quality.quarantined.any()


@pytest.mark.parametrize("factor", [0.33, 3.0])
def test_another_volatility_is_no_fault(factor: float) -> None:
    """L29: a market that is three times as calm or as wild is a market."""
    close = walk(1, 1000)
    after = close[-1] * walk(2, 1000, step=0.001 * factor) / 100.0
    found = faults(fresh(1, QualitySettings()), bars_of(np.concatenate((close, after))))
    assert not any(found)


@pytest.mark.parametrize("factor", [10.0, 0.1, 100.0, 1e-3, 1e6])
def test_another_unit_trips_at_once_and_clears_when_windows_have_passed_it(factor: float) -> None:
    """L51: a price in another unit is not believed from its first bar; no model is blamed."""
    close = walk(1, 60)
    close[40:] *= factor
    found = faults(fresh(), bars_of(close))
    tripped = [Fault.JUMP in one for one in found]
    assert not any(tripped[:40])
    # It trips again when it has stayed: the last of these bars is the one to count from.
    assert all(tripped[40 : 42 + SHORT.settle_bars])
    assert not any(tripped[42 + SHORT.settle_bars :])


def test_the_reason_names_the_factor() -> None:
    """L01: an alarm says what it saw."""
    quality = fresh()
    close = walk(1, 50)
    close[-1] = close[-2] * 100.0
    faults(quality, bars_of(close))
    reason = "the close jumped by a factor of 100: a unit may have changed"
    assert quality.alarms(0) == (DataAlarm(Fault.JUMP, reason),)


def test_a_jump_that_stays_trips_and_a_spike_does_not() -> None:
    """L51: one wrong tick is over when the next bar comes; a level that stays is another feed."""
    stays, spike, small = walk(1, 60), walk(1, 60), walk(1, 60)
    stays[40:] *= 1.5
    spike[40] *= 1.5
    small[40:] *= 1.05
    tripped = [Fault.JUMP in one for one in faults(fresh(), bars_of(stays))]
    assert tripped.index(True) == 40 + SHORT.stay_bars - 1
    assert not tripped[-1]
    assert not any(faults(fresh(), bars_of(spike)))
    assert not any(faults(fresh(), bars_of(small)))


def test_a_jump_that_the_market_makes_often_is_its_own() -> None:
    """L37: beyond the absolute size a jump must be far beyond the recent moves, too."""
    close = np.where(np.arange(200) // 4 % 2, 100.0, 112.0) + np.arange(200) % 2
    assert not any(Fault.JUMP in one for one in faults(fresh(), bars_of(close)))


@pytest.mark.parametrize(("column", "name"), [(0, "open"), (2, "low"), (3, "close"), (4, "volume")])
def test_a_column_that_stands_still_trips_by_name(column: int, name: str) -> None:
    """L05: a feed that repeats itself is not a feed, whatever its time stamps say."""
    bars = bars_of(walk(1, 60))
    bars[20:40, column] = bars[20, column]
    quality = fresh()
    before = faults(quality, bars[:40])
    assert [Fault.CONSTANT in one for one in before].index(True) == 20 + SHORT.constant_bars - 1
    assert quality.alarms(0)[0].reason == f"the {name} was the same for 10 or more bars"
    after = [Fault.CONSTANT in one for one in faults(quality, bars[40:])]
    assert after == [True] * (SHORT.clear_bars - 1) + [False] * (20 - SHORT.clear_bars + 1)


def test_a_frozen_bar_names_the_close() -> None:
    """L01: where all stands still the close is named."""
    quality = fresh()
    faults(quality, np.tile([100.0, 101.0, 99.0, 100.5, 3.0], (12, 1)))
    assert "the close was the same" in quality.alarms(0)[0].reason


def test_no_volume_is_no_fault() -> None:
    """L05: some venues report no volume: 0 is what they say, not a frozen feed."""
    bars = bars_of(walk(1, 60))
    bars[:, 4] = 0.0
    assert not any(faults(fresh(), bars))


def test_rows_outside_of_training_trip_and_clear() -> None:
    """L19: rows that are clamped by a quarter, twice in a row, are not what the models know."""
    clamped = [0.0] * 5 + [0.3] + [0.0] * 4 + [0.3, 0.4] + [0.2] * 6 + [0.0] * 8
    quality = fresh()
    found = faults(quality, bars_of(walk(1, len(clamped))), clamped)
    tripped = [Fault.OUTSIDE_TRAINING in one for one in found]
    assert not any(tripped[:11]), "once is not enough"
    assert all(tripped[11:22]), "between trip and clear it stays, and then for clear_bars − 1"
    assert not any(tripped[22:])


def test_rows_that_nobody_has_read_change_nothing() -> None:
    """L34: what is not known neither trips nor clears: runs go on where they were."""
    nan = float("nan")
    clamped = [0.3, nan, nan, 0.3, 0.0, 0.0, nan, nan, 0.0, 0.0, nan, 0.0]
    found = faults(fresh(), bars_of(walk(1, len(clamped))), clamped)
    assert [bool(one) for one in found] == [False] * 3 + [True] * 8 + [False]


@settings(max_examples=30)
@given(seeds, st.integers(0, 60))
def test_a_restart_anywhere_changes_no_bit(seed: int, cut: int) -> None:
    """L43: saved, sent and restored, the same bars give the same alarms and the same state."""
    bars, clamped = troubled(seed)
    whole, first, second = fresh(), fresh(), Quality(SHORT)
    expected = faults(whole, bars, clamped)
    found = faults(first, bars[:cut], clamped[:cut])
    sent = msgspec.msgpack.encode(first.saved())
    second.restore(msgspec.msgpack.decode(sent, type=SavedQuality))
    assert found + faults(second, bars[cut:], clamped[cut:]) == expected
    assert second.saved() == whole.saved()


def troubled(seed: int) -> tuple[Array, Array]:
    """A feed of 60 bars with faults of all kinds."""
    rng = np.random.default_rng(seed)
    close = walk(seed, 60)
    close[int(rng.integers(10, 60)) :] *= float(rng.choice([10.0, 1.4, 0.01, 1.0]))
    bars = bars_of(close)
    start = int(rng.integers(0, 50))
    bars[start : start + 12] = bars[start]
    return bars, rng.choice([0.0, 0.2, 0.4, np.nan], 60)


@settings(max_examples=20)
@given(seeds)
def test_series_are_judged_alike_alone_and_among_others(seed: int) -> None:
    """L53: the state of a series is that of its own bars, bit for bit, in any company."""
    feeds = [troubled(seed + i) for i in range(9)]
    together = fresh(9)
    for at in range(60):
        bars = np.stack([feed[0][at] for feed in feeds])
        clamped = np.array([feed[1][at] for feed in feeds])
        together.update(np.arange(9), bars, clamped)
    for i, (bars, clamped) in enumerate(feeds):
        alone = fresh()
        faults(alone, bars, clamped)
        assert alone.saved() == together.saved([i])


@given(st.lists(st.floats(1e-15, 1e15), min_size=1, max_size=60), st.floats(0.0, 1e21))
def test_any_prices_give_a_finite_state(prices: list[float], volume: float) -> None:
    """L36: from the smallest price to the largest nothing overflows, and every alarm has words."""
    quality = fresh()
    for price in prices:
        bar = np.array([[price, price, price, price, volume]])
        quality.update(np.array([0]), bar, np.array([np.nan]))
        assert all(alarm.reason for alarm in quality.alarms(0))
    row = np.frombuffer(quality.saved().state, dtype="<f8")
    assert np.isfinite(row).all()


def test_saved_series_can_be_restored_at_other_places() -> None:
    """L53: a series takes its state with it."""
    before = fresh(3)
    before.update(np.array([2]), bars_of(np.array([7.0])), np.array([0.0]))
    after = Quality(SHORT)
    after.restore(before.saved([2, 0]), [4, 1])
    assert after.saved([4, 1]) == before.saved([2, 0])
    with pytest.raises(ValueError, match="1 places"):
        after.restore(before.saved(), [0])


@pytest.mark.parametrize(
    ("series", "bars", "clamped", "why"),
    [
        ([0], [[1.0, 1.0, 1.0, 1.0]], [0.0], r"\[1, 5\]"),
        ([0, 0], [[1.0] * 5] * 2, [0.0, 0.0], "two bars"),
        ([1], [[1.0] * 5], [0.0], "outside the 1"),
        ([-1], [[1.0] * 5], [0.0], "outside the 1"),
        ([0], [[1.0, 1.0, 1.0, np.nan, 1.0]], [0.0], "finite"),
        ([0], [[1.0, 1.0, 0.0, 1.0, 1.0]], [0.0], "not positive"),
        ([0], [[1.0] * 5], [1.1], "share of clamped"),
        ([0], [[1.0] * 5], [np.inf], "share of clamped"),
    ],
)
def test_what_cannot_be_judged_is_refused(series: Any, bars: Any, clamped: Any, why: str) -> None:
    """L36: what is not finite is refused at the door, and the state is as before."""
    quality = fresh()
    before = quality.saved()
    with pytest.raises(ValueError, match=why):
        quality.update(np.array(series), np.array(bars), np.array(clamped))
    assert quality.saved() == before


def test_reserving_less_takes_nothing_away() -> None:
    """L53: room is only ever added; those that are there stay as they are."""
    quality = fresh(3)
    quality.update(np.array([2]), bars_of(np.array([7.0])), np.array([0.0]))
    before = quality.saved()
    quality.reserve(1)
    assert quality.saved() == before
