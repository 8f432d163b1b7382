"""Every column of every set against the oracle, on markets of every kind."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import AT, COLUMNS
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.market.files import read_bars

from ..features import bars as made
from ..features.bars import CHICAGO, DAY, HOUR, MINUTE, NEW_YORK, TOKYO, UTC, Floats, Market
from ..features.oracle import READY

# How far a column may be from the oracle, as a share of the value itself …
OF_VALUE = {
    1e-15: """
        upper_wick lower_wick clv body_frac true_range_rel stoch_5 stoch_10 stoch_20 stoch_30
        stoch_60 stoch_k_14 stoch_d_14_3 age_hh_20 age_hh_60 age_ll_20 age_ll_60 up_frac_10
        up_frac_20 run_len doji hammer shooting_star engulf_bull engulf_bear inside_bar sess_frac
        er_10 er_20 er_60 ret_1 oc_log hl_log ret_lag_1 ret_lag_2 ret_lag_3 ret_lag_4 ret_lag_5
        ret_lag_6 ret_lag_8 ret_lag_10 park_10 park_20 park_60 gk_20 rs_20
        gru9.log_return gru9.volume_ratio_20 gru9.high_low gru9.open_close
        patchtst8.log_return patchtst8.log_high patchtst8.log_low
    """,
    1e-14: """
        rv_5 rv_10 rv_20 bbw_10 bbw_20 squeeze_ratio vol_cluster_20 adx_14 mfi_14 atr_14 atr_20
        pdi_14 mdi_14 semi_up_20 semi_dn_20
        macd_line macd_signal macd_hist keltner_pos patchtst8.macd patchtst8.volatility_20
        gru9.rsi_14 patchtst8.rsi_14
    """,
    1e-13: "rv_30 rv_60 bbw_50",
}
# … and of the value or 1, whichever is more: what is a logarithm of a quotient of prices near 1,
# or a sum that cancels, is exact to a share of the whole. Of vwap_z_sess the whole is what
# `session_vwap_unit` says: the price itself, when nearly all volume is one print.
OF_VALUE_OR_1 = {
    2e-15: """
        gap_1 high_chg low_chg typical_chg mom_3 mom_5 mom_10 mom_15 mom_20 mom_25 mom_30 mom_40
        mom_50 mom_60 ema_dist_5 ema_dist_10 ema_dist_12 ema_dist_15 ema_dist_20 ema_dist_26
        ema_dist_30 ema_dist_50 x_ema_5_15 x_ema_10_30 x_ema_20_50 hh_10 hh_20 hh_60 ll_10 ll_20
        ll_60 sess_drawdown sess_runup or_high_dist or_low_dist sess_ret overnight_gap
        rsi_5 rsi_7 rsi_9 rsi_14 rsi_21 rsi_30 semi_asym_20 amihud_20 vol_rel_5 vol_rel_10
        vol_rel_20 vol_rel_60 vol_chg_1 vol_tr_5_20 vol_tr_20_60 vol_tod_rel svr_10 svr_20 svr_60
        cmf_20 sess_sin sess_cos dow_sin dow_cos
        gru9.momentum_5 patchtst8.log_volume_ratio patchtst8.momentum_10
    """,
    1e-14: """
        sma_dist_3 sma_dist_5 sma_dist_10 sma_dist_15 sma_dist_20 sma_dist_25 sma_dist_30
        sma_dist_40 sma_dist_50 sma_dist_60 vwap_dist_10 vwap_dist_20 vwap_dist_60 vwap_dist_sess
        x_sma_5_20 x_sma_10_30 sma_z_3 sma_z_5 sma_z_10 sma_z_15 sma_z_20 absret_ac1_20 ret_ac1_20
        ret_ac1_60 lr_slope_20 lr_slope_60 pv_corr_20 force_ema_5 tp_z_20 vwap_z_sess
        gru9.sma_10 gru9.sma_30 gru9.bollinger_20
    """,
    1e-13: """
        x_sma_15_40 x_sma_20_50 x_sma_25_60 sma_z_25 sma_z_30 sma_z_40 sma_z_50 sma_z_60
        vr_5_20 vr_10_30 vr_20_60 lr_r2_20 lr_r2_60 vol_z_20 vol_z_60
    """,
}
TOLERANCE = {
    name: (tolerance, scale)
    for scale, table in ((0.0, OF_VALUE), (1.0, OF_VALUE_OR_1))
    for tolerance, names in table.items()
    for name in names.split()
}

DATA = Path(__file__).parents[3] / "shared" / "data"
RECORDED = {
    ("btcperp-1m.csv.gz", "BTCPERP"): (0, 9_000),
    ("crypto-5m.csv.gz", "ADABTC"): (0,),
    ("crypto-5m.csv.gz", "DASHBTC"): (3_000,),
}
MARKETS = made.markets(300)


def column_at(name: str) -> int:
    """Where the kernel has a column of the oracle, which qualifies those of the small sets."""
    of_set, _, column = name.rpartition(".")
    return AT[SETS[of_set].kernel_name(column)] if of_set else AT[column]


def session_vwap_unit(bars: Floats) -> Floats:
    """The session's highest price in deviations about its VWAP, or 1: one rounding of a price."""
    typical, volume = bars[:, 1:4].mean(axis=1), bars[:, 4]
    unit = np.ones(len(bars))
    for t, opened in enumerate(bars[:, 7]):
        seen = slice(int(np.argmax(bars[:, 7] == opened)), t + 1)
        if volume[seen].any():
            vwap = np.average(typical[seen], weights=volume[seen])
            variance = np.average((typical[seen] - vwap) ** 2, weights=volume[seen])
            unit[t] = bars[seen, 1].max() / max(np.sqrt(variance), 1e-10 * bars[t, 3])
    return np.maximum(unit, 1.0)


def assert_exact(market: Market, first: int = 0) -> None:
    """Every column from row `first` on is NaN where the oracle's is, and else near it."""
    bars = market.bars()
    rows = kernel.matrix(bars)[first:]
    for name, values in market.truth().items():
        tolerance, scale = TOLERANCE[name]
        unit = session_vwap_unit(bars)[first:] if name == "vwap_z_sess" else scale
        got, exact = rows[:, column_at(name)], np.array(values)[first:]
        error = np.abs(got - exact) / np.maximum(np.maximum(np.abs(exact), unit), 1e-300)
        assert (np.isnan(got) == np.isnan(exact)).all(), name
        worst = int(np.nanargmax(error)) if np.isfinite(error).any() else 0
        assert not (error > tolerance).any(), f"{name} at {worst}: {got[worst]}, {exact[worst]}"


def test_the_oracle_defines_every_column() -> None:
    """L12: sets, oracle and kernel have the same columns, ready at the same bar, with a tolerance.

    The names of the small sets are theirs; those of the large one are the kernel's own.
    """
    small = {f"{name}.{column}" for name in ("gru9", "patchtst8") for column in SETS[name].columns}
    assert set(READY) == set(TOLERANCE) == {*SETS["transformer173"].columns, *small}
    assert {column_at(name) for name in READY} == set(range(len(COLUMNS)))
    assert {name: COLUMNS[column_at(name)].ready_at for name in READY} == READY


@pytest.mark.parametrize("kind", MARKETS)
def test_every_column_equals_its_definition(kind: str) -> None:
    """L18: in markets of every kind each column is what its definition says, at every bar."""
    assert_exact(MARKETS[kind])


prices = st.sampled_from([1e-8, 0.37, 100.0, 1e8])
moves = st.floats(1e-6, 0.3) | st.floats(-0.3, -1e-6) | st.just(0.0)
volumes = st.just(0.0) | st.floats(1e-3, 1e12)
wicks = st.just(0.0) | st.floats(1e-7, 0.5)
shapes = st.lists(st.tuples(moves, moves, wicks, wicks, volumes), min_size=22, max_size=75)
places = st.sampled_from(
    [(UTC, HOUR), (UTC, MINUTE), (NEW_YORK, 30 * MINUTE), (CHICAGO, HOUR), (TOKYO, DAY)]
)


@settings(deadline=None, max_examples=60)
@given(shapes, prices, places, st.sets(st.integers(0, 80), max_size=20))
def test_any_bars_give_what_the_definitions_say(
    steps: list[tuple[float, ...]],
    price: float,
    place: tuple[made.Venue, int],
    holes: set[int],
) -> None:
    """L18: bars of any shape, with ties, gaps and jumps, at any venue, agree with the oracle."""
    values = np.empty((len(steps), 5))
    for i, (gap, move, up, down, volume) in enumerate(steps):
        opened = price * (1.0 + gap)
        close = opened * (1.0 + move)
        high, low = max(opened, close) * (1.0 + up), min(opened, close) * (1.0 - down)
        values[i] = opened, high, low, close, volume
        price = close
    whole = made.market(values, place[1], place[0])
    assert_exact(whole.only(np.array([i not in holes for i in range(len(steps))])))


@pytest.mark.parametrize(("file", "symbol"), RECORDED)
def test_recorded_markets_too(file: str, symbol: str) -> None:
    """L18: on real bars each column is what its definition says."""
    if not (DATA / file).exists():
        pytest.skip("the recordings are not beside the checkout")
    table = read_bars(DATA / file)
    times, values = table.of(symbol)
    for start in RECORDED[file, symbol]:
        part = slice(start, start + 400)
        assert_exact(Market(times[part], values[part], INTERVAL_MS[table.interval]))


def test_a_long_run_is_as_exact_as_a_short_one() -> None:
    """L18: after 200,000 bars at 60,000 ± 0.02 the newest rows agree as well as the first ones.

    The oracle begins 1,500 bars before the end: all that it never saw has been forgotten by then.
    """
    values = made.hardly_moving(200_000, 18)
    long = made.market(values, 10 * MINUTE)
    rows = kernel.matrix(long.bars())
    assert np.isfinite(rows[61:]).all()
    late = long.only(slice(-1_500, None))
    assert_exact(late, first=1_475)
    tail = kernel.matrix(late.bars())[1_475:]
    assert tail.tobytes() == rows[-25:].tobytes()


def test_no_variance_is_negative() -> None:
    """L18: a deviation is never negative and never NaN, whatever left the window."""
    deviations = [at for name, at in AT.items() if name.startswith(("rv_", "bbw_", "park_", "vr_"))]
    for market in MARKETS.values():
        rows: Floats = kernel.matrix(market.bars())[60:, deviations]
        assert (rows >= 0.0).all()
