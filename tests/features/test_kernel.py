"""The kernel's own rules: logarithm, readiness, neutral values, order of updates, no look-ahead.

The values of the columns are checked against an independent oracle in `tests/parity`.
"""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from quantum_ai_engine.features import kernel

Bars = NDArray[np.float64]

READY_AT = {  # as the contract's table has it
    "log_return": 2,
    "sma_10": 10,
    "sma_30": 30,
    "momentum_5": 6,
    "rsi_14": 15,
    "bollinger_20": 20,
    "volume_ratio_20": 20,
    "high_low": 1,
    "open_close": 1,
    "log_high": 1,
    "log_low": 1,
    "log_volume_ratio": 20,
    "volatility_20": 21,
    "macd": 26,
    "momentum_10": 11,
}
AT = {name: position for position, (name, _) in enumerate(kernel.COLUMNS)}
EPSILON = 1e-10
ONE_OF_20 = math.sqrt(19.0) / 20.0  # deviation of 20 values of which one is 1 and the others 0


def walk(n: int, seed: int) -> Bars:
    random = np.random.default_rng(seed)
    closes = 100.0 * np.exp(np.cumsum(random.normal(0.0, 1e-3, n)))
    opens = np.concatenate([closes[:1], closes[:-1]])
    highs, lows = np.maximum(opens, closes) * 1.0005, np.minimum(opens, closes) * 0.9995
    return np.column_stack([opens, highs, lows, closes, random.exponential(1e3, n)])


def dots(closes: list[float], volumes: list[float] | None = None) -> Bars:
    """Bars whose four prices are one."""
    prices = np.repeat(np.array(closes)[:, np.newaxis], 4, axis=1)
    return np.column_stack([prices, np.ones(len(closes)) if volumes is None else volumes])


def last_value(column: str, bars: Bars) -> float:
    return float(kernel.matrix(bars)[-1, AT[column]])


@settings(deadline=None, max_examples=2_000)
@given(
    st.floats(2.2250738585072014e-308, allow_infinity=False)
    | st.floats(0.5, 2.0)
    | st.floats(-1e-6, 1e-6).map(lambda x: 1.0 + x)
    | st.integers(-1022, 1023).map(lambda k: 2.0**k)
)
@example(1.0)
@example(math.sqrt(2.0))
@example(math.nextafter(1.0, 0.0))
@example(math.nextafter(1.0, 2.0))
@example(1.7976931348623157e308)
def test_the_logarithm_is_within_one_ulp(x: float) -> None:
    """The kernel's logarithm differs from the C library's by at most one unit in the last place."""
    assert abs(kernel.log(x) - math.log(x)) <= math.ulp(math.log(x))


def test_the_logarithm_of_one_is_zero() -> None:
    """An unchanged price is a return of exactly 0."""
    assert kernel.log(1.0) == 0.0


def test_every_column_is_ready_exactly_as_the_table_says() -> None:
    """L13: a column is NaN before its bar, finite from it on, in the place of its name."""
    rows = kernel.matrix(walk(100, 1))
    for column, ready_at in READY_AT.items():
        values = rows[:, AT[column]]
        assert np.isnan(values[: ready_at - 1]).all(), column
        assert np.isfinite(values[ready_at - 1 :]).all(), column
    assert dict(kernel.COLUMNS) == READY_AT


def test_a_fresh_state_knows_nothing_of_an_earlier_one() -> None:
    """L13: a new state's first row holds only the columns of one bar."""
    first = kernel.matrix(walk(1, 2))[0]
    alive = {name for name, at in AT.items() if np.isfinite(first[at])}
    assert alive == {"high_low", "open_close", "log_high", "log_low"}


def test_a_row_by_hand() -> None:
    """L15: returns and momenta look back at the close before, not at the close itself."""
    closes = [100.0, 101.0, 99.0, 102.0, 103.0, 104.0, 98.0, 97.0, 105.0, 106.0, 110.0]
    rows = kernel.matrix(dots(closes))
    assert rows[1, AT["log_return"]] == pytest.approx(math.log(101 / 100), rel=1e-14)
    assert rows[2, AT["log_return"]] == pytest.approx(math.log(99 / 101), rel=1e-14)
    assert rows[5, AT["momentum_5"]] == pytest.approx(0.04, rel=1e-14)
    assert rows[10, AT["momentum_10"]] == pytest.approx(math.log(1.1), rel=1e-14)
    assert rows[9, AT["sma_10"]] == pytest.approx(math.log(106 / 101.5), rel=1e-14)


def test_geometry_by_hand() -> None:
    """The four columns of one bar alone: each with its own sign and divisor."""
    row = kernel.matrix(np.array([[100.0, 110.0, 90.0, 105.0, 7.0]]))[0]
    assert row[AT["high_low"]] == pytest.approx(20 / 105, rel=1e-15)
    assert row[AT["open_close"]] == pytest.approx(0.05, rel=1e-15)
    assert row[AT["log_high"]] == pytest.approx(math.log(110 / 105), rel=1e-14)
    assert row[AT["log_low"]] == pytest.approx(math.log(90 / 105), rel=1e-14)


@pytest.mark.parametrize("bars_before", [0, 1, 14, 15, 40])
def test_a_row_depends_on_the_old_state_and_the_bar_alone(bars_before: int) -> None:
    """L15: the same state and bar give the same row and state; the bar is only read."""
    bars = walk(bars_before + 1, 3)
    state = kernel.new_states(1)[0]
    kernel.history(state, bars[:-1], np.empty((bars_before, kernel.COLUMN_COUNT)))
    results = []
    for junk in (0.0, np.nan, 1e300):
        copy, out, bar = state.copy(), np.full(kernel.COLUMN_COUNT, junk), bars[-1].copy()
        kernel.step(copy, bar, out)
        assert bar.tobytes() == bars[-1].tobytes()
        results.append((copy.tobytes(), out.tobytes()))
    assert results[0] == results[1] == results[2]


def test_series_do_not_touch_each_other() -> None:
    """A burst moves the states of its own series only."""
    states = kernel.new_states(3)
    bars = walk(40, 4)
    rows, counts = np.empty((40, kernel.COLUMN_COUNT)), np.empty(40, dtype=np.int64)
    kernel.burst(states, np.ones(40, dtype=np.int64), bars, rows, counts)
    assert not states[0].any()
    assert not states[2].any()
    assert counts[-1] == 40


any_bars = st.lists(
    st.tuples(st.floats(0.5, 1.5), st.floats(0.0, 0.2), st.floats(0.0, 0.2), st.floats(0.0, 1e12)),
    min_size=40,
    max_size=40,
)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 99), any_bars)
def test_later_bars_never_change_a_row(t: int, shapes: list[tuple[float, ...]]) -> None:
    """L16: whatever bars come after t, the rows up to t keep their bits."""
    bars = walk(100, 5)
    other = np.array([[c, c * (1 + up), c * (1 - down), c, v] for c, up, down, v in shapes])
    changed = np.concatenate([bars[: t + 1], other])
    rows, again = kernel.matrix(bars), kernel.matrix(changed)
    assert again[: t + 1].tobytes() == rows[: t + 1].tobytes()
    assert kernel.matrix(bars[: t + 1]).tobytes() == rows[: t + 1].tobytes()


@pytest.mark.parametrize("factor", [2.0**-30, 2.0**20])
def test_values_are_raw(factor: float) -> None:
    """L17: no running mean, variance or scale enters: prices times a power of 2 give equal bits."""
    bars = walk(300, 6)
    scaled = bars * [factor, factor, factor, factor, 1.0]
    assert kernel.matrix(scaled).tobytes() == kernel.matrix(bars).tobytes()


def test_nothing_is_clipped() -> None:
    """L17: a jump leaves the band of Bollinger and shows whole in returns and volume."""
    row = kernel.matrix(dots([*[1.0, 1.1] * 14, 100.0], [*[1.0] * 28, 1e9]))[-1]
    assert row[AT["bollinger_20"]] > 1.5
    assert row[AT["log_return"]] == pytest.approx(math.log(100 / 1.1), rel=1e-14)
    assert row[AT["volume_ratio_20"]] == pytest.approx(20.0, rel=1e-6)
    assert row[AT["momentum_5"]] > 80.0


def test_a_market_at_rest_has_neutral_values() -> None:
    """Equal prices and no volume: every 0/0 gives its stated neutral value."""
    row = kernel.matrix(dots([3.7] * 64, [0.0] * 64))[-1]
    neutral = {"rsi_14": 0.5, "bollinger_20": 0.5, "volume_ratio_20": 1.0}
    for column, at in AT.items():
        assert row[at] == neutral.get(column, 0.0), column


def test_extremes_of_rsi_and_volume_are_not_neutral() -> None:
    """Only gains give 1, only losses 0, and a bar without volume among others 0."""
    rising = [100.0 + i for i in range(40)]
    assert last_value("rsi_14", dots(rising)) == 1.0
    assert last_value("rsi_14", dots(rising[::-1])) == 0.0
    assert last_value("volume_ratio_20", dots([1.0] * 30, [5.0] * 29 + [0.0])) == 0.0


def test_a_sum_of_volumes_is_zero_only_if_each_is() -> None:
    """No threshold applies to volumes: the smallest print in the window counts."""
    tiny = 1e-290
    for age in range(20):
        volumes = [0.0] * 40
        volumes[39 - age] = tiny
        expected = 20.0 if age == 0 else 0.0
        assert last_value("volume_ratio_20", dots([1.0] * 40, volumes)) == expected
    volumes = [0.0] * 40
    volumes[19] = tiny
    assert last_value("volume_ratio_20", dots([1.0] * 40, volumes)) == 1.0


@pytest.mark.parametrize("price", [2.0**-27, 1.0, 2.0**20])
def test_a_spread_of_prices_is_zero_up_to_epsilon(price: float) -> None:
    """Zero rule: the deviation of closes counts as 0 up to 1e-10 of the close, and not above."""
    for share, is_zero in ((0.99, True), (1.01, False)):
        odd = price * (1.0 + share * EPSILON / ONE_OF_20)
        value = last_value("bollinger_20", dots([*[price] * 25, odd, *[price] * 10]))
        expected = 0.5 if is_zero else 0.5 - 1.0 / (4.0 * math.sqrt(19.0))
        assert value == pytest.approx(expected, abs=1e-5)
        assert (value == 0.5) == is_zero


@pytest.mark.parametrize("price", [2.0**-27, 1.0, 2.0**20])
@pytest.mark.parametrize("up", [True, False])
def test_gain_and_loss_are_zero_up_to_epsilon(price: float, up: bool) -> None:
    """Zero rule: RSI is neutral while gain + loss is at most 1e-10 of the close, and not above."""
    for share, is_zero in ((0.99, True), (1.01, False)):
        move = 14.0 * share * EPSILON * (1.0 if up else -1.0)
        value = last_value("rsi_14", dots([price, *[price * (1.0 + move)] * 14]))
        assert value == (0.5 if is_zero else float(up))


def test_a_spread_of_returns_is_zero_up_to_epsilon() -> None:
    """Zero rule: a deviation of returns up to 1e-10 is exactly 0, also as a numerator."""
    for share, is_zero in ((0.99, True), (1.01, False)):
        step = 1.0 + share * EPSILON / ONE_OF_20
        value = last_value("volatility_20", dots([*[1.0] * 25, *[step] * 11]))
        assert value == (0.0 if is_zero else pytest.approx(share * EPSILON, rel=1e-5))


def test_windows_forget_a_bad_print() -> None:
    """L18: once a print of 6e9 has left the windows, nothing of it is left in them."""
    clean = walk(200, 7)
    dirty = clean.copy()
    dirty[50] = 6e9, 6e9, 6e9, 6e9, 1e15
    recursive = [AT["rsi_14"], AT["macd"]]
    windowed = [at for at in AT.values() if at not in recursive]
    after = slice(50 + 31, None)
    rows, again = kernel.matrix(clean), kernel.matrix(dirty)
    assert rows[after][:, windowed].tobytes() == again[after][:, windowed].tobytes()
    settled = np.concatenate([clean, walk(700, 8)])
    polluted = np.concatenate([dirty, walk(700, 8)])
    assert kernel.matrix(settled)[-1].tobytes() == kernel.matrix(polluted)[-1].tobytes()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.999, 1.0, 1.0, 1.001]), min_size=40, max_size=120))
def test_no_variance_is_negative(steps: list[float]) -> None:
    """L18: ticks up, down and back give finite rows and deviations of at least 0."""
    rows = kernel.matrix(dots((60_000.0 * np.cumprod(steps)).tolist()))[29:]
    assert np.isfinite(rows).all()
    assert (rows[:, AT["volatility_20"]] >= 0.0).all()


def test_matrix_takes_any_layout() -> None:
    """A view in another memory order and integers give the rows of the same numbers."""
    bars = np.round(walk(50, 9))
    expected = kernel.matrix(bars).tobytes()
    assert kernel.matrix(np.asfortranarray(bars)).tobytes() == expected
    assert kernel.matrix(bars.astype(np.int64)).tobytes() == expected
