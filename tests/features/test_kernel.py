"""The kernel's own rules: logarithm, readiness, neutral values, order of updates, no look-ahead.

The values of all columns are checked against an independent oracle in `tests/parity`.
"""

import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import AT, COLUMNS, EVERYTHING, NAMES, RUN_MOST, asked

from .bars import DAY, HOUR, Floats, dots, kernel_bars, market, markets, walk

EPSILON = 1e-10
ONE_OF_20 = math.sqrt(19.0) / 20.0  # deviation of 20 values of which one is 1 and the others 0
# The one column whose unit is not that of a ratio of prices: ln of returns per traded value.
NOT_SCALE_FREE = {"amihud_20"}
KINDS = markets(200)


def rows_of(ohlcv: Floats) -> Floats:
    return kernel.matrix(kernel_bars(ohlcv))


def last_value(column: str, ohlcv: Floats) -> float:
    return float(rows_of(ohlcv)[-1, AT[column]])


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


def test_sine_and_cosine_are_those_of_the_turn() -> None:
    """Within a rounding of the C library's, for every slot of a day and every day of a week."""
    for turn in [*np.arange(0, 1441) / 1440, *np.arange(7) / 7]:
        got = kernel.sin_cos(float(turn))
        exact = math.sin(2 * math.pi * turn), math.cos(2 * math.pi * turn)
        assert got == pytest.approx(exact, abs=1e-15)
        assert math.hypot(*got) == pytest.approx(1.0, abs=3e-16)


@pytest.mark.parametrize("kind", KINDS)
def test_every_column_is_ready_exactly_as_declared(kind: str) -> None:
    """L13: a column is NaN before its bar and finite from it on, in the place of its name.

    That the declared bars are the definitions' is checked against the oracle in `tests/parity`.
    """
    rows = kernel.matrix(KINDS[kind].bars())
    for at, column in enumerate(COLUMNS):
        assert np.isnan(rows[: column.ready_at - 1, at]).all(), column
        assert np.isfinite(rows[column.ready_at - 1 :, at]).all(), column


def test_a_fresh_state_knows_nothing_of_an_earlier_one() -> None:
    """L13: a new state's first row holds only the columns of one bar."""
    first = rows_of(walk(1, 2))[0]
    alive = {name for name, at in AT.items() if np.isfinite(first[at])}
    assert alive == {column.name for column in COLUMNS if column.ready_at == 1}
    assert {"high_low", "open_close", "log_high", "sess_frac", "vol_tod_rel"} < alive
    assert not {"ret_1", "gap_1", "run_len", "inside_bar"} & alive


def test_a_row_by_hand() -> None:
    """L15: returns and momenta look back at the close before, not at the close itself."""
    closes = [100.0, 101.0, 99.0, 102.0, 103.0, 104.0, 98.0, 97.0, 105.0, 106.0, 110.0]
    rows = rows_of(dots(closes))
    assert rows[1, AT["ret_1"]] == pytest.approx(math.log(101 / 100), rel=1e-14)
    assert rows[2, AT["ret_1"]] == pytest.approx(math.log(99 / 101), rel=1e-14)
    assert rows[5, AT["momentum_5"]] == pytest.approx(0.04, rel=1e-14)
    assert rows[10, AT["mom_10"]] == pytest.approx(math.log(1.1), rel=1e-14)
    assert rows[9, AT["sma_dist_10"]] == pytest.approx(math.log(106 / 101.5), rel=1e-14)


def test_geometry_by_hand() -> None:
    """The four columns of one bar alone: each with its own sign and divisor."""
    row = rows_of(np.array([[100.0, 110.0, 90.0, 105.0, 7.0]]))[0]
    assert row[AT["high_low"]] == pytest.approx(20 / 105, rel=1e-15)
    assert row[AT["open_close"]] == pytest.approx(0.05, rel=1e-15)
    assert row[AT["log_high"]] == pytest.approx(math.log(110 / 105), rel=1e-14)
    assert row[AT["log_low"]] == pytest.approx(math.log(90 / 105), rel=1e-14)


@pytest.mark.parametrize("bars_before", [0, 1, 14, 15, 40])
def test_a_row_depends_on_the_old_state_and_the_bar_alone(bars_before: int) -> None:
    """L15: the same state and bar give the same row and state; the bar is only read."""
    bars = kernel_bars(walk(bars_before + 1, 3), HOUR)
    state = kernel.new_states(1)[0]
    kernel.history(state, bars[:-1], np.empty((bars_before, kernel.COLUMN_COUNT)))
    results = []
    for junk in (0.0, np.nan, 1e300):
        copy, out, bar = state.copy(), np.full(kernel.COLUMN_COUNT, junk), bars[-1].copy()
        kernel.step(copy, bar, out, EVERYTHING)
        assert bar.tobytes() == bars[-1].tobytes()
        results.append((copy.tobytes(), out.tobytes()))
    assert results[0] == results[1] == results[2]


def test_series_do_not_touch_each_other() -> None:
    """A burst moves the states of its own series only."""
    states = kernel.new_states(3)
    bars = kernel_bars(walk(40, 4))
    rows, counts = np.empty((40, kernel.COLUMN_COUNT)), np.empty(40, dtype=np.int64)
    kernel.burst(states, np.ones(40, dtype=np.int64), bars, rows, counts, EVERYTHING)
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
    values = walk(100, 5)
    other = np.array([[c, c * (1 + up), c * (1 - down), c, v] for c, up, down, v in shapes])
    bars = kernel_bars(values, 2 * HOUR)
    changed = kernel_bars(np.concatenate([values[: t + 1], other]), 2 * HOUR)
    rows, again = kernel.matrix(bars), kernel.matrix(changed)
    assert again[: t + 1].tobytes() == rows[: t + 1].tobytes()
    assert kernel.matrix(bars[: t + 1]).tobytes() == rows[: t + 1].tobytes()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("power", [-20, 13])
def test_values_are_raw(kind: str, power: int) -> None:
    """L17: no running mean, variance or scale enters: prices times a power of 2 give equal bits.

    All columns are scale-free but one, which moves by the logarithm of the factor.
    """
    bars, factor = KINDS[kind].bars(), 2.0**power
    rows, scaled = kernel.matrix(bars), kernel.matrix(bars * [*[factor] * 4, *[1.0] * 6])
    differs = (rows.view(np.int64) != scaled.view(np.int64)).any(axis=0)
    assert {name for name, wrong in zip(NAMES, differs, strict=True) if wrong} <= NOT_SCALE_FREE
    illiquidity = (rows - scaled)[20:, AT["amihud_20"]]
    shown = rows[20:, AT["amihud_20"]] != 0.0
    assert illiquidity[shown] == pytest.approx(power * math.log(2.0), rel=1e-13)


def test_nothing_is_clipped() -> None:
    """L17: a jump leaves the band of Bollinger and shows whole in returns and volume."""
    row = rows_of(dots([*[1.0, 1.1] * 14, 100.0], [*[1.0] * 28, 1e9]))[-1]
    assert row[AT["bollinger_20"]] > 1.5
    assert row[AT["ret_1"]] == pytest.approx(math.log(100 / 1.1), rel=1e-14)
    assert row[AT["volume_ratio_20"]] == pytest.approx(20.0, rel=1e-6)
    assert row[AT["momentum_5"]] > 80.0


def test_a_market_at_rest_has_neutral_values() -> None:
    """Equal prices and no volume: every 0/0 gives its stated neutral value."""
    row = kernel.matrix(kernel_bars(dots([3.7] * 64, [0.0] * 64), DAY))[-1]
    neutral = dict.fromkeys(("gru9.rsi_14", "bollinger_20", "mfi_14", "stoch_k_14"), 0.5)
    neutral |= dict.fromkeys(("stoch_d_14_3", *(f"stoch_{p}" for p in (5, 10, 20, 30, 60))), 0.5)
    neutral |= dict.fromkeys(("volume_ratio_20", "vr_5_20", "vr_10_30", "vr_20_60"), 1.0)
    of_time = {"sess_sin", "sess_cos", "dow_sin", "dow_cos", "sess_frac"}
    for column in AT.keys() - of_time:
        assert row[AT[column]] == neutral.get(column, 0.0), column


def test_extremes_of_rsi_and_volume_are_not_neutral() -> None:
    """Only gains give 1, only losses 0, and a bar without volume among others 0."""
    rising = [100.0 + i for i in range(40)]
    assert last_value("gru9.rsi_14", dots(rising)) == 1.0
    assert last_value("gru9.rsi_14", dots(rising[::-1])) == 0.0
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
        value = last_value("gru9.rsi_14", dots([price, *[price * (1.0 + move)] * 14]))
        assert value == (0.5 if is_zero else float(up))


def test_a_spread_of_returns_is_zero_up_to_epsilon() -> None:
    """Zero rule: a deviation of returns up to 1e-10 is exactly 0, also as a numerator."""
    for share, is_zero in ((0.99, True), (1.01, False)):
        step = 1.0 + share * EPSILON / ONE_OF_20
        value = last_value("rv_20", dots([*[1.0] * 25, *[step] * 11]))
        assert value == (0.0 if is_zero else pytest.approx(share * EPSILON, rel=1e-5))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([0.999, 1.0, 1.0, 1.001]), min_size=70, max_size=120))
def test_any_ticks_give_finite_rows(steps: list[float]) -> None:
    """L18: ticks up, down and back give finite rows and deviations of at least 0."""
    rows = rows_of(dots((60_000.0 * np.cumprod(steps)).tolist()))[60:]
    assert np.isfinite(rows).all()
    assert (rows[:, AT["rv_20"]] >= 0.0).all()


def test_illiquidity_keeps_its_last_value() -> None:
    """Where no price moved or nothing traded, the last value is shown, and at first 0."""
    closes = [*[5.0] * 25, *walk(40, 8)[:, 3], *[7.0] * 40]
    values = rows_of(dots(closes))[:, AT["amihud_20"]]
    assert (values[20:25] == 0.0).all()
    assert len(set(values[25:66].tolist())) == 41
    assert (values[86:] == values[85]).all()
    assert values[85] != 0.0


def test_a_run_is_counted_to_its_last_bit() -> None:
    """tanh(n / 5) of a run of n bars, up or down, however long it is."""
    closes = np.cumprod([1.001] * (RUN_MOST + 50))
    for side, series in ((1.0, closes), (-1.0, 1.0 / closes)):
        runs = rows_of(dots(series.tolist()))[1:, AT["run_len"]]
        exact = [side * math.tanh(n / 5) for n in range(1, len(series))]
        assert runs == pytest.approx(exact, rel=3e-16)


def test_sessions_begin_anew() -> None:
    """At an opening the session's columns look at its first bar alone, and back at the close."""
    bars = market(walk(60, 9), HOUR).bars()
    rows, first = kernel.matrix(bars), 24
    assert bars[first, 7] == bars[first, 5] != bars[first - 1, 7]
    opened, high, low, close = bars[first, :4]
    row = rows[first]
    assert row[AT["sess_ret"]] == pytest.approx(math.log(close / opened), abs=1e-15)
    assert row[AT["sess_drawdown"]] == pytest.approx(math.log(close / high), abs=1e-15)
    assert row[AT["sess_runup"]] == pytest.approx(math.log(close / low), abs=1e-15)
    gap = math.log(opened / bars[first - 1, 3])
    assert row[AT["overnight_gap"]] == pytest.approx(gap, abs=1e-15)
    assert (rows[first:48, AT["overnight_gap"]] == row[AT["overnight_gap"]]).all()
    assert (rows[:first, AT["overnight_gap"]] == 0.0).all()
    assert (rows[:first, AT["vol_tod_rel"]] == 0.0).all()
    usual = math.log(bars[first, 4] / bars[0, 4])
    assert row[AT["vol_tod_rel"]] == pytest.approx(usual, abs=1e-15)
    assert rows[first - 1, AT["sess_frac"]] == 1.0


def test_matrix_takes_any_layout() -> None:
    """A view in another memory order and integers give the rows of the same numbers."""
    bars = np.round(kernel_bars(walk(50, 9)))
    expected = kernel.matrix(bars).tobytes()
    assert kernel.matrix(np.asfortranarray(bars)).tobytes() == expected
    assert kernel.matrix(bars.astype(np.int64)).tobytes() == expected


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from(sorted(KINDS)),
    st.sets(st.integers(0, len(COLUMNS) - 1), max_size=40),
    st.integers(1, 200),
)
def test_columns_asked_for_alone_have_the_bits_of_all(kind: str, some: set[int], n: int) -> None:
    """L11: whichever columns are asked for, they have the full row's bits, and so has the state.

    Every other column has its own bits too, or is left as it was.
    """
    bars, bits = KINDS[kind].bars()[:n], asked(some)
    states, rows = kernel.new_states(2), np.full((2, len(bars), len(COLUMNS)), np.nan)
    kernel.history(states[0], bars, rows[0])
    kernel.history(states[1], bars, rows[1], bits)
    assert states[0].tobytes() == states[1].tobytes()
    chosen, left = sorted(some), np.isnan(rows[1])
    assert rows[1][:, chosen].tobytes() == rows[0][:, chosen].tobytes()
    assert (left | (rows[0].view(np.int64) == rows[1].view(np.int64))).all()
