"""Datasets: labels, spans that do not touch, statistics of the train span only."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.config import Venue
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.kernel import matrix
from quantum_ai_engine.features.schema import FeatureSet, feature_set
from quantum_ai_engine.features.sessions import Calendar, Calendars
from quantum_ai_engine.features.store import FeatureStore
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import (
    SPAN_NAMES,
    Dataset,
    Samples,
    build,
)
from quantum_ai_engine.training.matrix import Admission
from quantum_ai_engine.training.options import TrainingError

from .conftest import MINUTE_MS, make_walk

GRU9 = feature_set("gru9")
SMALL = FeatureSet("small", ("ret_1", "momentum_5"), window=4)
Floats = NDArray[np.float64]
Times = NDArray[np.int64]
Walk = Callable[..., BarTable]


def kernel_bars(open_time: Times, ohlcv: Floats) -> Floats:
    """Minute bars as the kernel reads them, in sessions of 24 hours UTC."""
    return Calendar(Venue()).rows(open_time, ohlcv, MINUTE_MS)


def spans(dataset: Dataset) -> list[Samples]:
    return [dataset.train, dataset.validation, dataset.test]


def with_rows(table: BarTable, at: int | slice, values: object) -> BarTable:
    ohlcv = table.ohlcv.copy()
    ohlcv[at] = values
    return replace(table, ohlcv=ohlcv)


def test_windows_are_what_the_live_store_gives(walk: Walk) -> None:
    """L11: each training window equals, bit for bit, the one that live state has at its bar."""
    table = walk(missing=0.02)
    dataset = build(table, GRU9, horizon_bars=5)
    store = FeatureStore((GRU9,))
    bars = kernel_bars(table.open_time, table.ohlcv)
    live = np.empty((len(table), GRU9.window, len(GRU9.columns)))
    for i, series in enumerate(table.symbol_index.astype(np.int64)[:, np.newaxis]):
        rows = store.step(series, bars[i : i + 1])
        live[i] = store.windows("gru9", series, rows.counts)[0]
    order = np.argsort(table.symbol_index, kind="stable")
    for span in spans(dataset):
        np.testing.assert_array_equal(dataset.windows(span), live[order][span.row])


def test_labels_follow_the_close_at_the_horizon(walk: Walk) -> None:
    """A window is labelled by the bar whose open lies the horizon after it, and by no other."""
    table = walk(missing=0.05)
    dataset = build(table, SMALL, horizon_bars=3)
    closes = [
        dict(zip(*(part.tolist() for part in (t, bars[:, 3])), strict=True))
        for t, bars in map(table.of, table.symbols)
    ]
    counts = [len(symbol) for symbol in closes]
    bounds = list(itertools.accumulate(counts, initial=0))
    for span in spans(dataset):
        for row, close_time, rose in zip(
            span.row.tolist(), span.close_time.tolist(), span.rose.tolist(), strict=True
        ):
            symbol = closes[np.searchsorted(bounds, row, side="right") - 1]
            now, then = close_time - MINUTE_MS, close_time + 2 * MINUTE_MS
            assert rose == float(symbol[then] > symbol[now])


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    symbols=st.integers(1, 2),
    missing=st.sampled_from([0.0, 0.01, 0.03]),
    horizon_bars=st.integers(1, 8),
    window=st.integers(1, 10),
)
def test_no_window_or_outcome_crosses_a_gap(
    seed: int, symbols: int, missing: float, horizon_bars: int, window: int
) -> None:
    """L21: of a bar with a bar missing from its window to its outcome there is no label."""
    table = make_walk(symbols, 1000, seed, drift=0.0, missing=missing)
    chosen = FeatureSet("any", SMALL.columns, window)
    dataset = build(table, chosen, horizon_bars)
    count: Counter[str] = Counter()
    whole, unlabelled = [], []
    allowed = set()
    base = 0
    for opened, ohlcv in map(table.of, table.symbols):
        times = set(opened.tolist())
        for i, t in enumerate(opened.tolist()):
            if i < chosen.window_ready_at - 1:
                continue
            if any(t - k * MINUTE_MS not in times for k in range(window)):
                count["crossing"] += 1
                continue
            whole.append(t + MINUTE_MS)
            if all(t + k * MINUTE_MS in times for k in range(1, horizon_bars + 1)) and (
                ohlcv[i + horizon_bars, 3] != ohlcv[i, 3]
            ):
                allowed.add(base + i)
            else:
                unlabelled.append(t + MINUTE_MS)
        base += len(opened)
    assert dataset.crossing == count["crossing"]
    border = sorted(whole)[int(0.7 * len(whole))]  # unlabelled ones are those of the train span
    settled = [t for t in unlabelled if t + horizon_bars * MINUTE_MS <= border]
    assert dataset.unlabelled == len(settled)
    used = np.concatenate([span.row for span in spans(dataset)]).tolist()
    assert len(used) == len(set(used))
    assert allowed.issuperset(used)


DAYTIME = Venue("UTC", "00:00", "12:00")


def daytime(table: BarTable) -> BarTable:
    return table.where(table.open_time % 86_400_000 < 43_200_000)


def test_no_window_or_outcome_crosses_a_pause(walk: Walk) -> None:
    """L21: what a venue does overnight is neither inside a window nor an outcome."""
    table = daytime(walk(symbols=2, bars=6 * 1440))
    calendars = Calendars(dict.fromkeys(table.symbols, DAYTIME))
    dataset = build(table, SMALL, horizon_bars=5, calendars=calendars)
    pauses = np.count_nonzero(np.diff(table.of("WALK0")[0]) > MINUTE_MS)
    assert dataset.crossing == 2 * pauses * (SMALL.window - 1) > 0
    newest = np.concatenate([span.close_time for span in spans(dataset)]) // MINUTE_MS % 1440
    assert (newest.min(), newest.max()) == (SMALL.window, 720 - 5)


def test_an_outcome_of_the_next_session_is_none(walk: Walk) -> None:
    """L21: a bar that closes exactly at the horizon, but beyond a pause, is no outcome."""
    table = daytime(walk(symbols=1, bars=6 * 1440))
    with pytest.raises(TrainingError, match="the train span has 0 labelled windows of the 20"):
        build(table, SMALL, 1440, calendars=Calendars({"WALK0": DAYTIME}))


def test_says_that_every_window_crosses_a_gap(walk: Walk) -> None:
    """Sessions that are shorter than a window are refused in one sentence."""
    table = walk(symbols=1)
    short = table.where(table.open_time // MINUTE_MS % 40 < 20)
    with pytest.raises(TrainingError, match=r"\(\d+ windows cross one\); give more bars"):
        build(short, GRU9, 5)


@settings(max_examples=30, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    symbols=st.integers(1, 3),
    missing=st.sampled_from([0.0, 0.01, 0.03]),
    horizon_bars=st.integers(1, 12),
    window=st.integers(1, 16),
)
def test_spans_share_no_bar(
    seed: int, symbols: int, missing: float, horizon_bars: int, window: int
) -> None:
    """L27: what a span's windows read and what settles them ends before the next span begins.

    L16: so nothing of a later span is known while an earlier one is fitted.
    """
    table = make_walk(symbols, 1500, seed, drift=0.0, missing=missing)
    chosen = FeatureSet("any", SMALL.columns, window)
    dataset = build(table, chosen, horizon_bars)
    opened = np.concatenate([table.of(symbol)[0] for symbol in table.symbols])
    for before, after in itertools.pairwise(spans(dataset)):
        ends = before.close_time.max() + horizon_bars * MINUTE_MS
        begins = opened[after.row - window + 1].min()
        assert ends <= begins
        embargo = (after.close_time.min() - before.close_time.max()) / MINUTE_MS
        assert embargo >= dataset.embargo_bars == horizon_bars + window


def test_later_bars_change_nothing_before(walk: Walk) -> None:
    """L16: other bars after the train span leave its windows, labels and statistics untouched."""
    table, other = walk(seed=1), walk(seed=2)
    dataset = build(table, GRU9, horizon_bars=5)
    border = dataset.train.close_time[-1] + 5 * MINUTE_MS
    later = table.open_time >= border
    changed = build(with_rows(table, later, other.ohlcv[later]), GRU9, horizon_bars=5)
    assert changed.normaliser == dataset.normaliser
    assert changed.base_rate == dataset.base_rate
    np.testing.assert_array_equal(changed.train.row, dataset.train.row)
    np.testing.assert_array_equal(changed.train.rose, dataset.train.rose)
    np.testing.assert_array_equal(changed.windows(changed.train), dataset.windows(dataset.train))
    assert changed.data_sha256 != dataset.data_sha256


def test_statistics_are_those_of_the_train_rows(walk: Walk) -> None:
    """L17: mean and spread are taken once over raw train rows, each row counted once."""
    table = walk()
    dataset = build(table, GRU9, horizon_bars=5)
    until = dataset.train.close_time[-1]
    rows = np.concatenate(
        [
            matrix(kernel_bars(t, ohlcv))[:, GRU9.indices][
                (np.arange(len(t)) >= GRU9.ready_at - 1) & (t + MINUTE_MS <= until)
            ]
            for t, ohlcv in map(table.of, table.symbols)
        ]
    )
    np.testing.assert_allclose(dataset.normaliser.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(dataset.normaliser.scale, rows.std(axis=0), rtol=1e-12)


def test_moves_inside_the_dead_zone_are_left_out(walk: Walk) -> None:
    """L21: a window without a clear move is masked, never counted as a fall."""
    table = walk(drift=0.0)
    every, clear = (build(table, SMALL, 3, dead_zone=zone) for zone in (0.0, 0.001))
    assert clear.unlabelled > every.unlabelled + 100
    moves = {}
    for symbol, (t, ohlcv) in ((s, table.of(s)) for s in table.symbols):
        for i in range(len(t) - 3):
            moves[symbol, int(t[i]) + MINUTE_MS] = np.log(ohlcv[i + 3, 3] / ohlcv[i, 3])
    half = len(table.of("WALK0")[0])
    for span in spans(clear):
        for row, close_time, rose in zip(span.row, span.close_time, span.rose, strict=True):
            move = moves[f"WALK{row // half}", int(close_time)]
            assert abs(move) > 0.001
            assert rose == float(move > 0)


def test_an_unchanged_close_is_left_out(walk: Walk) -> None:
    """L21: a close that is the same at the horizon is neither a rise nor a fall."""
    table = walk(symbols=1)
    before = build(table, SMALL, 1)
    at = int(before.train.row[10])
    same = table.ohlcv[at].copy()
    after = build(with_rows(table, at + 1, same), SMALL, 1)
    assert at in before.train.row
    assert at not in after.train.row


def test_balance_is_known(walk: Walk) -> None:
    """L21: the base rate is the share of rises in the train span."""
    dataset = build(walk(), GRU9, horizon_bars=5)
    assert dataset.base_rate == dataset.train.rose.sum() / len(dataset.train)
    assert 0.0 < dataset.base_rate < 1.0


BAD_BARS = {
    "nan close": [1.0, 2.0, 0.5, np.nan, 1.0],
    "infinite high": [1.0, np.inf, 0.5, 1.0, 1.0],
    "zero low": [1.0, 2.0, 0.0, 1.0, 1.0],
    "high below low": [1.0, 0.5, 2.0, 1.0, 1.0],
    "close outside": [1.0, 2.0, 0.5, 3.0, 1.0],
    "negative volume": [1.0, 2.0, 0.5, 1.0, -1.0],
    "nan volume": [1.0, 2.0, 0.5, 1.0, np.nan],
}


@pytest.mark.parametrize("values", BAD_BARS.values(), ids=BAD_BARS.keys())
def test_bars_that_live_would_refuse_are_left_out(walk: Walk, values: list[float]) -> None:
    """L11: training leaves out the bars that the engine would refuse, and counts them."""
    table = walk()
    dataset = build(with_rows(table, 50, values), SMALL, 3)
    without = replace(
        table,
        symbol_index=np.delete(table.symbol_index, 50),
        open_time=np.delete(table.open_time, 50),
        ohlcv=np.delete(table.ohlcv, 50, axis=0),
    )
    assert dataset.refused == 1
    assert dataset.data_sha256 == build(without, SMALL, 3).data_sha256


def test_repeated_and_misaligned_bars_are_left_out(walk: Walk) -> None:
    """L11: of bars with one open time the first counts, and one off the grid never does."""
    table = walk(symbols=1, bars=50)
    twice = np.sort(np.append(np.arange(50), 20))
    open_time = table.open_time[twice].copy()
    open_time[30] += 1
    again = replace(
        table, symbol_index=table.symbol_index[twice], open_time=open_time, ohlcv=table.ohlcv[twice]
    )
    assert np.flatnonzero(~Admission().judge(again)).tolist() == [21, 30]


def test_same_bars_have_the_same_hash(walk: Walk) -> None:
    """L27: the data's hash is that of the bars, and any bar changes it."""
    first, second = build(walk(), SMALL, 3), build(walk(), SMALL, 3)
    assert first.data_sha256 == second.data_sha256
    table = walk()
    changed = with_rows(table, 10, table.ohlcv[10] * [1, 1, 1, 1, 2])
    assert build(changed, SMALL, 3).data_sha256 != first.data_sha256


def test_samples_are_in_order_of_time(walk: Walk) -> None:
    """L27: bars are never shuffled between spans."""
    dataset = build(walk(symbols=3, missing=0.1), SMALL, 3)
    for span in spans(dataset):
        assert (np.diff(span.close_time) >= 0).all()
    assert INTERVAL_MS[dataset.interval] == MINUTE_MS


def test_says_which_span_is_too_short(walk: Walk) -> None:
    """Too few bars are refused with the span's name and what to do."""
    with pytest.raises(TrainingError, match=r"the validation span has \d+ .* give more bars"):
        build(walk(symbols=1, bars=200), GRU9, 5)
    with pytest.raises(TrainingError, match="give more bars per symbol"):
        build(walk(symbols=1, bars=30), GRU9, 5)
    assert SPAN_NAMES == ("train", "validation", "test")


def test_refuses_bars_that_only_rise(walk: Walk) -> None:
    """L21: a span with one class only cannot be learned from or judged."""
    table = walk(symbols=1)
    rising = np.sort(table.ohlcv[:, :4].ravel()).reshape(-1, 4)[:, [0, 3, 0, 3]]
    with pytest.raises(TrainingError, match="every window of the train span is followed by rises"):
        build(replace(table, ohlcv=np.column_stack([rising, table.ohlcv[:, 4]])), SMALL, 3)


def test_refuses_an_unknown_interval_and_odd_fractions(walk: Walk) -> None:
    """What cannot be split is refused in one sentence."""
    with pytest.raises(TrainingError, match="interval '7m' is unknown"):
        build(replace(walk(), interval="7m"), SMALL, 3)
    with pytest.raises(TrainingError, match="must be positive and sum to 1"):
        build(walk(), SMALL, 3, fractions=(0.7, 0.3, 0.1))
