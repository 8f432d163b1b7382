"""The one feature kernel: live bars, bursts, history and training all run `_step`.

The state of a series is one flat float64 row. Windows are rings of the last 64 values, read newest
to oldest at each bar and shifted by the newest, so that no error accumulates and a row depends on
the last bars of its longest window only. Recursions (EMA, Wilder) contract, session sums begin
anew with each session: a state fed enough history equals one that never stopped, bit for bit.

The same bits come from the loop, the burst and the single step, from any target processor of the
compiler and from this source run by Python itself, because nothing here calls libm or a numpy
ufunc, `fastmath` is off, and sums are taken in a fixed order: in blocks of five as ((a+b)+(c+d))+e.

Everything compiled is in this one file: the compiler's cache notices changes by file.
"""

import math
from decimal import Decimal, localcontext
from typing import Any

import numpy as np
from numba import njit, types
from numba.core import cgutils, config
from numba.extending import intrinsic
from numba.np.arrayobj import make_array, populate_array
from numpy.typing import NDArray

from quantum_ai_engine.features.columns import (
    AMIHUD_SHOWN_AT,
    AT,
    AVERAGES,
    COLUMNS,
    EVERYTHING,
    EXTREMES,
    FIRST_LOGS,
    LINES,
    LOG_PART,
    LOG_PARTS,
    MEANS,
    MEMORY,
    RANGES,
    RETURNS,
    RSI,
    RUN_MOST,
    SESSIONS,
    SHAPES,
    SMA_PAIRS,
    VOLUMES,
    E,
    S,
)

KERNEL_VERSION = 2
COLUMN_COUNT = len(COLUMNS)
FIELDS = ("open", "high", "low", "close", "volume")
# A bar as the kernel reads it: FIELDS, then when it opened and how long it lasted, then when its
# session opened and closes (ms), then the weekday there (Monday 0).
BAR_WIDTH = 10
_OPEN_TIME, _INTERVAL, _SESSION_OPEN, _SESSION_CLOSE, _WEEKDAY = 5, 6, 7, 8, 9

# The state row: a header, then the rings.
_BARS, _EMA, _SIGNAL = 0, 1, 9
# Wilder's averages are one bank of _BANK lanes, of which the last seven stay 0.
_GAIN, _LOSS, _ATR, _PLUS_DM, _MINUS_DM, _BANK = 10, 16, 22, 25, 26, 24
_ADX, _FORCE, _RUN, _PREVIOUS_OPEN, _AMIHUD, _AMIHUD_SHOWN, _OPENINGS = range(34, 41)
_OPENED_AT, _FIRST_OPEN, _CLOSE_BEFORE, _HIGHEST, _LOWEST = range(41, 46)
_RANGE_HIGH, _RANGE_LOW, _WEIGHT, _LEAD, _M2, _ANCHOR = range(46, 52)
_SLOTS = 24
_SLOT_SUM, _SLOT_COUNT, _OLD_SUM, _OLD_COUNT = 56, 80, 104, 128
# Every ring holds each value twice, RING (or NEAR) apart: the newest are one run, oldest first.
RING, NEAR, LANES = 64, 32, 8
_R, _H, _L = 152, 152 + 2 * RING, 152 + 4 * RING
# Rows of LANES values a bar, so that one instruction adds a bar to LANES sums: 60 bars of these
_FAR_ROWS = 152 + 6 * RING
_CLOSE, _RETURN, _LOG_VOLUME, _PATH, _VOLUME, _SIGNED, _VALUE, _OLD_RANGE = range(LANES)
# and two such rows a bar for 20 bars, the first for plain sums, the second less the newest value.
_NEAR_ROWS = _FAR_ROWS + 2 * RING * LANES
_GK, _RS, _CV, _AM, _UP_SQUARE, _DOWN_SQUARE, _UPS, _TRADED = range(LANES)
_TP, _DV, _SIZE, _INFLOW, _OUTFLOW, _RANGE, _LATE_RANGE = range(LANES, 15)
STATE_WIDTH = _NEAR_ROWS + 4 * NEAR * LANES

_RING_LENGTHS = [*[RING] * 3, RING * LANES, 2 * NEAR * LANES]
_FIRST_HALVES = [
    np.arange(start, start + length)
    for start, length in zip([_R, _H, _L, _FAR_ROWS, _NEAR_ROWS], _RING_LENGTHS, strict=True)
]
_ONCE = np.concatenate([np.arange(_R), *_FIRST_HALVES])
_AGAIN = np.concatenate([half + len(half) for half in _FIRST_HALVES])
PACKED_WIDTH = len(_ONCE)

# The bar's own logarithms, first those of the six columns after `overnight_gap`, in their order.
_LOG_R, _LOG_DV, _LOG_HL, _LOG_CO, _LOG_HC, _LOG_LC, _LOG_V, _LOG_HO, _LOG_LO = range(9)
_LOG_OVERNIGHT = 9
# _BAR_LOGS is what the compiler's loop over vectors takes at a time: fewer go one by one.
_BAR_LOGS, _COPIED_LOGS = 32, 6
# Sums by windows of 0, 5, 10, … bars: LANES totals, then LANES totals of squares.
_WINDOW = 2 * LANES
# First those of the long rows; by these, plus their lane, those of the short ones are found.
_SHIFTED, _PLAIN, _SUMS = 13 * _WINDOW - LANES, 18 * _WINDOW, 23 * _WINDOW

# Lengths of scratch arrays: the compiler wants names, not expressions.
_BELOW, _SPREAD = LOG_PART * LOG_PARTS, 24  # where divisors stand, and deviations
_NOW, _QUOTIENTS, _ALL_MOMENTS, _LAGGED = 3 * LANES, 2 * _BELOW, 2 * _SPREAD, 72
_PLACES = (1 << 16) - 1  # all places of a state: a masked one is known not to be negative

_EPSILON = 1e-10  # a spread at or below this share of its scale counts as zero
_KELTNER_EPSILON = 1e-8
# Averages of nothing but zeros only shrink by a factor a bar; below this they are forgotten.
_FORGOTTEN = 1e-30
_SMALLEST = 1e-4  # the one floor: a bar without volume has no logarithm
_OPENING_RANGE = 30
_ALPHAS = np.array([2.0 / (p + 1.0) for p in E])
_ALPHA_9, _ALPHA_5 = 2.0 / 10.0, 2.0 / 6.0
_PERIODS = np.array([*RSI, *RSI, 10, 14, 20, 14, 14, *[2] * 7], dtype=np.float64)
_FORGET = np.array([*[_FORGOTTEN] * 12, *[-1.0] * 3, *[_FORGOTTEN] * 9])  # true ranges are kept
_S, _10_20_60 = np.array(S), np.array([10, 20, 60])
_SMA_CROSSES = np.array([[S.index(p), S.index(q)] for p, q in SMA_PAIRS])
# Windows with a mean and a deviation: closes, returns, ln(1+V), typical price, its change, |r|.
_BARS_OF = np.array([*S, 5, 10, 20, 30, 60, 20, 60, 20, 20, 20, *[20] * 4], dtype=np.float64)
_R_20, _R_60, _LV_20, _TP_20, _DV_20, _SIZE_20, _MOMENTS = 12, 14, 15, 17, 18, 19, _SPREAD
_RV_5, _RV_20, _RV_60 = _SPREAD + 10, _SPREAD + _R_20, _SPREAD + _R_60
_SUM_OF = np.array(
    [
        *(_WINDOW * (n // 5) + _CLOSE for n in S),
        *(_WINDOW * (n // 5) + _RETURN for n in (5, 10, 20, 30, 60)),
        *(_WINDOW * (n // 5) + _LOG_VOLUME for n in (20, 60)),
        *(_SHIFTED + _WINDOW * 4 + lane for lane in (_TP, _DV, _SIZE)),
        *[0] * 4,
    ]
)
_LN_2 = 0.6931471805599453
_READY_AT = np.array([column.ready_at for column in COLUMNS], dtype=np.float64)
_LAST_READY_AT = float(_READY_AT.max())
_SETTLED_AT = float(max(column.settled_at for column in COLUMNS))
_SETTLED_OPENINGS = float(max(column.sessions for column in COLUMNS))

_RET_1, _GAP, _HIGH_CHG, _LOW_CHG, _TP_CHG = (
    AT[n] for n in ("ret_1", "gap_1", "high_chg", "low_chg", "typical_chg")
)
_MOM, _SMA, _EMA_DIST, _X_SMA, _X_EMA = (
    AT[n] for n in ("mom_3", "sma_dist_3", "ema_dist_5", "x_sma_5_20", "x_ema_5_15")
)
_HH, _LL, _VOL_REL, _VOL_TR, _VWAP = (
    AT[n] for n in ("hh_10", "ll_10", "vol_rel_5", "vol_tr_5_20", "vwap_dist_10")
)
_AMIHUD_20, _LOG_VOLUME_RATIO, _TOD = (
    AT[n] for n in ("amihud_20", "log_volume_ratio", "vol_tod_rel")
)
_VWAP_SESS, _SESS_DRAWDOWN, _SESS_RUNUP, _OR_HIGH, _OR_LOW, _SESS_RET, _OVERNIGHT = (
    AT[n]
    for n in (
        "vwap_dist_sess",
        "sess_drawdown",
        "sess_runup",
        "or_high_dist",
        "or_low_dist",
        "sess_ret",
        "overnight_gap",
    )
)
_WICKS, _TR, _LAG, _SMA_Z, _MACD, _RV = (
    AT[n] for n in ("upper_wick", "true_range_rel", "ret_lag_1", "sma_z_3", "macd_line", "rv_5")
)
_PARK, _GK_20, _RS_20, _VR, _SEMI, _ATR_14 = (
    AT[n] for n in ("park_10", "gk_20", "rs_20", "vr_5_20", "semi_up_20", "atr_14")
)
_ABS_AC, _VOL_CLUSTER, _BBW, _KELTNER, _SQUEEZE, _RSI_5 = (
    AT[n]
    for n in ("absret_ac1_20", "vol_cluster_20", "bbw_10", "keltner_pos", "squeeze_ratio", "rsi_5")
)
_STOCH, _STOCH_K, _STOCH_D, _AGE_HH, _AGE_LL, _TP_Z = (
    AT[n] for n in ("stoch_5", "stoch_k_14", "stoch_d_14_3", "age_hh_20", "age_ll_20", "tp_z_20")
)
_ADX_14, _PDI, _MDI, _ER, _SLOPE, _R2, _AC, _UP, _RUN_LEN = (
    AT[n]
    for n in (
        "adx_14",
        "pdi_14",
        "mdi_14",
        "er_10",
        "lr_slope_20",
        "lr_r2_20",
        "ret_ac1_20",
        "up_frac_10",
        "run_len",
    )
)
_VOL_Z, _VWAP_Z, _SVR, _CMF, _MFI, _PV_CORR, _FORCE_5 = (
    AT[n]
    for n in ("vol_z_20", "vwap_z_sess", "svr_10", "cmf_20", "mfi_14", "pv_corr_20", "force_ema_5")
)
_DOJI, _ENGULF_BULL, _SESS_SIN, _DOW_SIN, _SESS_FRAC = (
    AT[n] for n in ("doji", "engulf_bull", "sess_sin", "dow_sin", "sess_frac")
)
_MOMENTUM_5, _RSI_UNIT, _BOLLINGER, _VOLUME_RATIO, _HIGH_LOW, _OPEN_CLOSE = (
    AT[n]
    for n in (
        "momentum_5",
        "gru9.rsi_14",
        "bollinger_20",
        "volume_ratio_20",
        "high_low",
        "open_close",
    )
)
_OF_WINDOWS = MEANS | RETURNS | MEMORY | LINES | VOLUMES | RANGES
_STAGE = np.array([column.stage for column in COLUMNS])
_FLOOR = np.array([_SMALLEST if c.name.startswith(("vol_rel", "vol_t")) else 0.0 for c in COLUMNS])
_LAGS = np.array([1, 2, 3, 4, 5, 6, 8, 10])

# fdlibm (Sun Microsystems 1993): the polynomials of log, sin and cos, without their branches.
_ROOT_HALF_BITS = 0x3FE6A09E667F3BCD  # of √½: what is taken off the exponent lands in [√½, √2)
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LG1, _LG2, _LG3, _LG4 = (
    0.6666666666666735130,
    0.3999999999940941908,
    0.2857142874366239149,
    0.2222219843214978396,
)
_LG5, _LG6, _LG7 = 0.1818357216161805012, 0.1531383769920937332, 0.1479819860511658591
_S1, _S2, _S3 = -1.66666666666666324348e-01, 8.33333333332248946124e-03, -1.98412698298579493134e-04
_S4, _S5, _S6 = 2.75573137070700676789e-06, -2.50507602534068634195e-08, 1.58969099521155010221e-10
_C1, _C2, _C3 = 4.16666666666666019037e-02, -1.38888888888741095749e-03, 2.48015872894767294178e-05
_C4, _C5, _C6 = -2.75573143513906633035e-07, 2.08757232129817482790e-09, -1.13596475577881948265e-11


def _tanh_of_fifths(most: int) -> NDArray[np.float64]:
    """tanh(n / 5) for n = 0 … most, correctly rounded: decimals are the same everywhere."""
    with localcontext() as context:
        context.prec = 40
        doubled = [(Decimal(2 * n) / 5).exp() for n in range(most + 1)]
        return np.array([float((e - 1) / (e + 1)) for e in doubled])


_TANH = _tanh_of_fifths(RUN_MOST)

_jit = njit(cache=True, error_model="numpy", fastmath=False, forceinline=True)
_whole = njit(cache=True, error_model="numpy", fastmath=False)


@intrinsic(prefer_literal=True)
def _on_stack(_, size):  # type: ignore[no-untyped-def]
    """An array [size] of float64 on the stack: no other array can overlap it."""
    array, length = types.Array(types.float64, 1, "C"), size.literal_value

    def build(context, builder, *_):  # type: ignore[no-untyped-def]
        kind = context.get_data_type(types.float64)
        data = cgutils.alloca_once(builder, kind, length)  # type: ignore[no-untyped-call]
        shape = [context.get_constant(types.intp, length)]
        item = context.get_constant(types.intp, 8)
        made = make_array(array)(context, builder)  # type: ignore[no-untyped-call]
        populate_array(made, data, shape, [item], item, None)  # type: ignore[no-untyped-call]
        return made._getvalue()

    return array(types.literal(length)), build  # type: ignore[no-untyped-call]


@intrinsic
def _unowned(_, array):  # type: ignore[no-untyped-def]
    """The same array without its owner, whose references nobody counts: its caller holds it."""

    def build(context, builder, _, arguments):  # type: ignore[no-untyped-def]
        view = make_array(array)(context, builder, arguments[0])  # type: ignore[no-untyped-call]
        view.meminfo = view.meminfo.type(None)
        view.parent = view.parent.type(None)
        return view._getvalue()

    return array(array), build


_compiled = not config.DISABLE_JIT  # type: ignore[attr-defined]
_scratch: Any = _on_stack if _compiled else np.empty
_borrowed: Any = _unowned if _compiled else lambda array: array


@_jit
def log_quotient(a, b):  # type: ignore[no-untyped-def]  # compiled for float64, as all of these are
    """ln(a / b) of positive numbers, without libm or a branch.

    Within 1 ulp of ln of the rounded quotient; where a and b are near, a − b is exact and the
    result has full relative precision, however small it is.
    """
    bits = np.float64(a / b).view(np.int64)
    k = (bits - _ROOT_HALF_BITS) >> 52
    f = np.int64(bits - (k << 52)).view(np.float64) - 1.0
    f = (a - b) / b if k == 0 else f
    dk = float(k)
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * (_LG1 + w * (_LG3 + w * (_LG5 + w * _LG7))) + w * (_LG2 + w * (_LG4 + w * _LG6))
    half_square = 0.5 * f * f
    return dk * _LN2_HIGH - ((half_square - (s * (half_square + r) + dk * _LN2_LOW)) - f)


@_jit
def log(x):  # type: ignore[no-untyped-def]
    """Natural logarithm of a positive number, within 1 ulp."""
    return log_quotient(x, 1.0)


@_jit
def sin_cos(turn):  # type: ignore[no-untyped-def]
    """Sine and cosine of 2π·turn, for a turn of 0 to 1, without libm."""
    quarter = int(4.0 * turn + 0.5)
    x = (turn - quarter * 0.25) * 6.283185307179586  # within ±π/4; the difference is exact
    z = x * x
    s = x + x * z * (_S1 + z * (_S2 + z * (_S3 + z * (_S4 + z * (_S5 + z * _S6)))))
    c = 1.0 - (0.5 * z - z * z * (_C1 + z * (_C2 + z * (_C3 + z * (_C4 + z * (_C5 + z * _C6))))))
    if quarter == 1:
        return c, -s
    if quarter == 2:
        return -s, -c
    if quarter == 3:
        return -c, s
    return s, c


@_jit
def _at(state, ring, slot, age):  # type: ignore[no-untyped-def]
    """The value of a ring `age` bars ago."""
    return state[ring + RING + slot - age]


@_jit
def _far(state, lane, slot, age):  # type: ignore[no-untyped-def]
    """The value of a lane of the long rows `age` bars ago."""
    return state[_far_row(slot) - LANES * age + lane]


@_jit
def _near(state, lane, slot, age):  # type: ignore[no-untyped-def]
    """The value of a lane of the short rows `age` bars ago."""
    return state[_near_row(slot) - 2 * LANES * age + lane]


@_jit
def _far_row(slot):  # type: ignore[no-untyped-def]
    """Where the newest of the long rows stands."""
    return _FAR_ROWS + LANES * (RING + slot)


@_jit
def _near_row(slot):  # type: ignore[no-untyped-def]
    """Where the newest of the short rows stands."""
    return _NEAR_ROWS + 2 * LANES * (NEAR + (slot & (NEAR - 1)))


@_jit
def _put(state, ring, slot, x):  # type: ignore[no-untyped-def]
    """Append to a ring: twice, so that the last RING values are one run, whatever the slot."""
    state[ring + slot] = x
    state[ring + RING + slot] = x


@_jit
def _put_far(state, lane, slot, x):  # type: ignore[no-untyped-def]
    """Append to a lane of the long rows, twice."""
    state[_far_row(slot) - LANES * RING + lane] = x
    state[_far_row(slot) + lane] = x


@_jit
def _put_near(state, lane, slot, x):  # type: ignore[no-untyped-def]
    """Append to a lane of the short rows, twice."""
    state[_near_row(slot) - 2 * LANES * NEAR + lane] = x
    state[_near_row(slot) + lane] = x


@_jit
def _sum_5(a, b, c, d, e):  # type: ignore[no-untyped-def]
    """The fixed order of every block of five."""
    return ((a + b) + (c + d)) + e


@_jit
def _nonzero(spread, limit):  # type: ignore[no-untyped-def]
    """A spread that is too small to be told from rounding is 0."""
    return spread if spread > limit else 0.0


@_jit
def _over(a, b, neutral):  # type: ignore[no-untyped-def]
    """a / b, and the neutral value where b is 0."""
    return a / b if b != 0.0 else neutral


@_jit
def _rise(x):  # type: ignore[no-untyped-def]
    """max(x, 0), exactly and without a branch that could be mispredicted."""
    return 0.5 * (x + abs(x))


@_jit
def _rose(x):  # type: ignore[no-untyped-def]
    """1 for what is above 0; a tie is not up."""
    return 1.0 if x > 0.0 else 0.0


@_jit
def _five(state, at, width, now):  # type: ignore[no-untyped-def]
    """Sum and sum of squares of a lane over five bars, each value less the newest."""
    a, b = state[at] - now, state[at - width] - now
    c, d = state[at - 2 * width] - now, state[at - 3 * width] - now
    e = state[at - 4 * width] - now
    return _sum_5(a, b, c, d, e), _sum_5(a * a, b * b, c * c, d * d, e * e)


@_jit
def _add_20(state, at, width, now, sums, row):  # type: ignore[no-untyped-def]
    """Sums of LANES lanes over 5, 10, 15 and 20 more bars than those of `row`, in the next rows.

    `at` is where the newest of these bars stands. All lanes are alike: they are vectors.
    """
    for lane in range(LANES):
        total, squares = _five(state, at + lane, width, now[lane])
        total, squares = sums[row + lane] + total, sums[row + LANES + lane] + squares
        sums[row + _WINDOW + lane], sums[row + _WINDOW + LANES + lane] = total, squares
        more, mores = _five(state, at - 5 * width + lane, width, now[lane])
        total, squares = total + more, squares + mores
        sums[row + 2 * _WINDOW + lane], sums[row + 2 * _WINDOW + LANES + lane] = total, squares
        more, mores = _five(state, at - 10 * width + lane, width, now[lane])
        total, squares = total + more, squares + mores
        sums[row + 3 * _WINDOW + lane], sums[row + 3 * _WINDOW + LANES + lane] = total, squares
        more, mores = _five(state, at - 15 * width + lane, width, now[lane])
        total, squares = total + more, squares + mores
        sums[row + 4 * _WINDOW + lane], sums[row + 4 * _WINDOW + LANES + lane] = total, squares


@_jit
def _of(sums, lane, bars):  # type: ignore[no-untyped-def]
    """The sum of a lane over the last `bars` bars, a multiple of 5."""
    return sums[_WINDOW * (bars // 5) + lane]


@_jit
def _bar_logs(state, bar, slot, first, logs):  # type: ignore[no-untyped-def]
    """The bar's own logarithms, in one pass."""
    opened, high, low, close, volume = bar[0], bar[1], bar[2], bar[3], bar[4]
    over, under = _scratch(_BAR_LOGS), _scratch(_BAR_LOGS)
    for i in range(_BAR_LOGS):
        over[i], under[i] = high, low
    more = 1.0 + volume
    over[_LOG_R] = close
    under[_LOG_R] = close if first else _far(state, _CLOSE, slot, 1)
    over[_LOG_DV] = more
    under[_LOG_DV] = more if first else 1.0 + _far(state, _VOLUME, slot, 1)
    over[_LOG_V], under[_LOG_V] = more, 1.0
    over[_LOG_CO], under[_LOG_CO] = close, opened
    over[_LOG_HC], under[_LOG_HC] = high, close
    over[_LOG_LC], under[_LOG_LC] = low, close
    over[_LOG_HO], under[_LOG_HO] = high, opened
    over[_LOG_LO], under[_LOG_LO] = low, opened
    over[_LOG_OVERNIGHT] = _over(state[_FIRST_OPEN], state[_CLOSE_BEFORE], 1.0)
    under[_LOG_OVERNIGHT] = 1.0
    _log_quotients(over, under, _BAR_LOGS, logs)


@_jit
def _log_quotients(over, under, n, logs):  # type: ignore[no-untyped-def]
    """All n at once."""
    for i in range(n):
        logs[i] = log_quotient(over[i], under[i])


@_jit
def _derive(state, bar, slot, logs, now):  # type: ignore[no-untyped-def]
    """Append the bar to the rings, and leave what the sums are taken less of in `now`."""
    high, low, close, volume, r = bar[1], bar[2], bar[3], bar[4], logs[_LOG_R]
    typical = ((high + low) + close) / 3.0
    value = typical * volume
    rise = typical - _near(state, _TP, slot, 1) if state[_BARS] > 0.0 else 0.0
    flow = 0.0 if abs(rise) <= _EPSILON * close else value
    flow = flow if rise > 0.0 else -flow
    range_square = logs[_LOG_HL] * logs[_LOG_HL]
    body_square = logs[_LOG_CO] * logs[_LOG_CO]
    span = _nonzero(high - low, _EPSILON * close)
    up, down = _rise(r), _rise(-r)
    _put(state, _R, slot, r)
    _put(state, _H, slot, high)
    _put(state, _L, slot, low)
    _put_far(state, _PATH, slot, abs(close - _far(state, _CLOSE, slot, 1)))
    _put_far(state, _CLOSE, slot, close)
    _put_far(state, _RETURN, slot, r)
    _put_far(state, _LOG_VOLUME, slot, logs[_LOG_V])
    _put_far(state, _OLD_RANGE, slot, _near(state, _RANGE, slot, 20))
    _put_far(state, _VOLUME, slot, volume)
    _put_far(state, _SIGNED, slot, volume if r > 0.0 else (-volume if r < 0.0 else 0.0))
    _put_far(state, _VALUE, slot, value)
    _put_near(state, _GK, slot, 0.5 * range_square - (2.0 * _LN_2 - 1.0) * body_square)
    _put_near(state, _RS, slot, logs[_LOG_HC] * logs[_LOG_HO] + logs[_LOG_LC] * logs[_LOG_LO])
    _put_near(state, _CV, slot, _over(2.0 * close - high - low, span, 0.0) * volume)
    _put_near(state, _AM, slot, abs(r) / (volume * close) if volume > 0.0 else 0.0)
    _put_near(state, _UP_SQUARE, slot, up * up)
    _put_near(state, _DOWN_SQUARE, slot, down * down)
    _put_near(state, _UPS, slot, _rose(r))
    _put_near(state, _TRADED, slot, _rose(volume))
    _put_near(state, _TP, slot, typical)
    _put_near(state, _DV, slot, logs[_LOG_DV])
    _put_near(state, _SIZE, slot, abs(r))
    _put_near(state, _INFLOW, slot, _rise(flow))
    _put_near(state, _OUTFLOW, slot, _rise(-flow))
    _put_near(state, _LATE_RANGE, slot, _near(state, _RANGE, slot, 10))
    _put_near(state, _RANGE, slot, range_square)
    for lane in range(3 * LANES):
        now[lane] = 0.0
    now[_CLOSE], now[_RETURN], now[_LOG_VOLUME] = close, r, logs[_LOG_V]
    now[LANES + _TP], now[LANES + _DV], now[LANES + _SIZE] = typical, logs[_LOG_DV], abs(r)


@_jit
def _geometry(state, bar, slot, quotients, out):  # type: ignore[no-untyped-def]
    """The bar itself, and against the one before it."""
    opened, high, low, close = bar[0], bar[1], bar[2], bar[3]
    previous, was = _far(state, _CLOSE, slot, 1), state[_PREVIOUS_OPEN]
    high_before, low_before = _at(state, _H, slot, 1), _at(state, _L, slot, 1)
    _quotient(quotients, _GAP, opened, previous)
    _quotient(quotients, _HIGH_CHG, high, high_before)
    _quotient(quotients, _LOW_CHG, low, low_before)
    _quotient(quotients, _TP_CHG, _near(state, _TP, slot, 0), _near(state, _TP, slot, 1))
    limit = _EPSILON * close
    span = _nonzero(high - low, limit)
    upper, lower = high - max(opened, close), min(opened, close) - low
    body = abs(close - opened)
    out[_WICKS] = _over(upper, span, 0.0)
    out[_WICKS + 1] = _over(lower, span, 0.0)
    out[_WICKS + 2] = _over(2.0 * close - high - low, span, 0.0)
    out[_WICKS + 3] = _over(body, span, 0.0)
    out[_TR] = (max(high, previous) - min(low, previous)) / previous
    out[_HIGH_LOW] = (high - low) / close
    out[_OPEN_CLOSE] = (close - opened) / opened
    out[_DOJI] = 1.0 if 0.1 * (high - low) - body > limit else 0.0
    out[_DOJI + 1] = 1.0 if (lower - 2.0 * body > limit) & (body - upper > limit) else 0.0
    out[_DOJI + 2] = 1.0 if (upper - 2.0 * body > limit) & (body - lower > limit) else 0.0
    other = (opened != previous) | (close != was)
    bull = (close > opened) & (previous < was) & (opened <= previous) & (close >= was)
    bear = (close < opened) & (previous > was) & (opened >= previous) & (close <= was)
    out[_ENGULF_BULL] = 1.0 if bull & other else 0.0
    out[_ENGULF_BULL + 1] = 1.0 if bear & other else 0.0
    out[_ENGULF_BULL + 2] = 1.0 if (high < high_before) & (low > low_before) else 0.0


@_jit
def _averages(state, bar, slot, bars):  # type: ignore[no-untyped-def]
    """Advance the EMAs, MACD's signal and Wilder's averages."""
    high, low, close = bar[1], bar[2], bar[3]
    first = bars == 1.0
    for i in range(8):
        alpha = 1.0 if first else _ALPHAS[i]
        state[_EMA + i] += alpha * (close - state[_EMA + i])
    line = (state[_EMA + 2] - state[_EMA + 5]) / close
    state[_SIGNAL] += _ALPHA_9 * (line - state[_SIGNAL])
    if first:
        return
    previous = _far(state, _CLOSE, slot, 1)
    up, down = high - _at(state, _H, slot, 1), _at(state, _L, slot, 1) - low
    limit = _EPSILON * close
    moves = _scratch(_BANK)
    for i in range(_BANK):
        moves[i] = 0.0
    for i in range(6):
        moves[i] = max(close - previous, 0.0)
        moves[6 + i] = max(previous - close, 0.0)
    for i in range(12, 15):
        moves[i] = max(high, previous) - min(low, previous)
    moves[15] = up if (up - down > limit) & (up > limit) else 0.0
    moves[16] = down if (down - up > limit) & (down > limit) else 0.0
    _smooth(state, moves, bars - 1.0, close, _BANK)


@_jit
def _smooth(state, moves, count, close, n):  # type: ignore[no-untyped-def]
    """Advance the whole bank of Wilder's averages at once."""
    for i in range(n):
        average = _wilder(state[_GAIN + i], moves[i], count, _PERIODS[i])
        state[_GAIN + i] = _nonzero(average, _FORGET[i] * close)


@_jit
def _wilder(average, x, count, period):  # type: ignore[no-untyped-def]
    """Wilder's average after its `count`-th input: the mean of the first `period`, then smoothed.

    Until the mean is complete the slot holds the running sum.
    """
    total = average + x if count <= period else average * (period - 1.0) + x
    return total if count < period else total / period


@_jit
def _directions(state, close, bars):  # type: ignore[no-untyped-def]
    """Both directional indices; their ADX is a recursion too."""
    atr_14 = _nonzero(state[_ATR + 1], _EPSILON * close)
    plus, minus = _over(state[_PLUS_DM], atr_14, 0.0), _over(state[_MINUS_DM], atr_14, 0.0)
    if bars >= 15.0:
        dx = _over(abs(plus - minus), _nonzero(plus + minus, _EPSILON), 0.0)
        state[_ADX] = _nonzero(_wilder(state[_ADX], dx, bars - 14.0, 14.0), _FORGOTTEN)
    return plus, minus


@_jit
def _average_columns(state, close, directions, quotients, out):  # type: ignore[no-untyped-def]
    """What is made of the recursions."""
    for i in range(8):
        _quotient(quotients, _EMA_DIST + i, close, state[_EMA + i])
    _quotient(quotients, _X_EMA, state[_EMA], state[_EMA + 3])
    _quotient(quotients, _X_EMA + 1, state[_EMA + 1], state[_EMA + 6])
    _quotient(quotients, _X_EMA + 2, state[_EMA + 4], state[_EMA + 7])
    line = (state[_EMA + 2] - state[_EMA + 5]) / close
    out[_MACD] = line
    out[_MACD + 1] = state[_SIGNAL]
    out[_MACD + 2] = line - state[_SIGNAL]
    limit = _EPSILON * close
    for i in range(6):
        moves = _nonzero(state[_GAIN + i] + state[_LOSS + i], limit)
        share = _over(state[_GAIN + i], moves, 0.5)
        out[_RSI_5 + i] = 2.0 * share - 1.0
        if i == 3:
            out[_RSI_UNIT] = share
    out[_ATR_14] = _nonzero(state[_ATR + 1], limit) / close
    out[_ATR_14 + 1] = _nonzero(state[_ATR + 2], limit) / close
    out[_PDI], out[_MDI] = directions
    out[_ADX_14] = state[_ADX]
    atr_10 = _nonzero(state[_ATR], _KELTNER_EPSILON * close)
    out[_KELTNER] = _over(close - state[_EMA + 4], 2.0 * atr_10, 0.0)


@_jit
def _moments(state, slot, now, sums, moments):  # type: ignore[no-untyped-def]
    """Mean, less the newest, and population deviation of every window that has a column of them.

    Sums are of values shifted by one of them: no variance is negative.
    """
    totals, squares = _scratch(_MOMENTS), _scratch(_MOMENTS)
    for i in range(1, _LV_20):
        totals[i], squares[i] = sums[_SUM_OF[i]], sums[_SUM_OF[i] + LANES]
    for i in range(_LV_20, _MOMENTS):
        totals[i], squares[i] = sums[_SUM_OF[i]], sums[_SUM_OF[i] + LANES]
    b = _far(state, _CLOSE, slot, 1) - now[_CLOSE]
    c = _far(state, _CLOSE, slot, 2) - now[_CLOSE]
    totals[0], squares[0] = b + c, b * b + c * c
    _deviations(totals, squares, _MOMENTS, moments)
    for i in range(_RV_5, _RV_60 + 1):
        moments[i] = _nonzero(moments[i], _EPSILON)


@_jit
def _deviations(totals, squares, n, moments):  # type: ignore[no-untyped-def]
    """Means and deviations from the sums of n windows, all at once."""
    for i in range(n):
        bars = _BARS_OF[i]
        moments[i] = totals[i] / bars
        moments[_SPREAD + i] = math.sqrt((squares[i] - totals[i] * totals[i] / bars) / bars)


@_jit
def _closes(state, slot, close, sums, quotients, out):  # type: ignore[no-untyped-def]
    """Momentum and efficiency of closes."""
    for i in range(10):
        _quotient(quotients, _MOM + i, close, _far(state, _CLOSE, slot, _S[i]))
    out[_MOMENTUM_5] = close / _far(state, _CLOSE, slot, 5) - 1.0
    for i in range(3):
        n = _10_20_60[i]
        path = _nonzero(_of(sums, _PATH, n), _EPSILON * close)
        out[_ER + i] = _over(abs(close - _far(state, _CLOSE, slot, n)), path, 0.0)


@_jit
def _means(state, close, moments, quotients, out):  # type: ignore[no-untyped-def]
    """Means and deviations of closes."""
    limit = _EPSILON * close
    for i in range(10):
        _quotient(quotients, _SMA + i, close, close + moments[i])
        out[_SMA_Z + i] = _over(-moments[i], _nonzero(moments[_SPREAD + i], limit), 0.0)
    for i in range(5):
        a, b = _SMA_CROSSES[i]
        _quotient(quotients, _X_SMA + i, close + moments[a], close + moments[b])
    out[_BBW] = 4.0 * _nonzero(moments[_SPREAD + 2], limit) / (close + moments[2])
    spread = _nonzero(moments[_SPREAD + 4], limit)
    out[_BBW + 1] = 4.0 * spread / (close + moments[4])
    out[_BBW + 2] = 4.0 * _nonzero(moments[_SPREAD + 8], limit) / (close + moments[8])
    out[_BOLLINGER] = _over(2.0 * spread - moments[4], 4.0 * spread, 0.5)
    out[_SQUEEZE] = _over(2.0 * spread, 1.5 * _nonzero(state[_ATR + 2], limit), 0.0)


@_jit
def _returns(state, slot, sums, moments, out):  # type: ignore[no-untyped-def]
    """Deviations of returns over five windows, their ratios, semideviations, lags."""
    for i in range(5):
        out[_RV + i] = moments[_RV_5 + i]
    out[_UP] = _of(sums, _PLAIN + _UPS, 10) / 10.0
    out[_UP + 1] = _of(sums, _PLAIN + _UPS, 20) / 20.0
    out[_VR] = _over(moments[_RV_5], moments[_RV_5 + 2], 1.0)
    out[_VR + 1] = _over(moments[_RV_5 + 1], moments[_RV_5 + 3], 1.0)
    out[_VR + 2] = _over(moments[_RV_5 + 2], moments[_RV_5 + 4], 1.0)
    up = math.sqrt(_of(sums, _PLAIN + _UP_SQUARE, 20) / 20.0)
    down = math.sqrt(_of(sums, _PLAIN + _DOWN_SQUARE, 20) / 20.0)
    out[_SEMI] = up
    out[_SEMI + 1] = down
    out[_SEMI + 2] = _over(down - up, _nonzero(down + up, _EPSILON), 0.0)
    for i in range(8):
        out[_LAG + i] = _at(state, _R, slot, _LAGS[i])


@_jit
def _correlation(state, slot, moments):  # type: ignore[no-untyped-def]
    """Pearson's correlation of r and the change of ln(1+V) over 20 bars."""
    spread, other = moments[_RV_20], moments[_SPREAD + _DV_20]
    if spread <= _EPSILON or other <= _EPSILON:
        return 0.0
    r_now, v_now = _at(state, _R, slot, 0), _near(state, _DV, slot, 0)
    products = 0.0
    for age in range(0, 20, 5):
        products += _sum_5(
            (_near(state, _DV, slot, age) - v_now) * (_at(state, _R, slot, age) - r_now),
            (_near(state, _DV, slot, age + 1) - v_now) * (_at(state, _R, slot, age + 1) - r_now),
            (_near(state, _DV, slot, age + 2) - v_now) * (_at(state, _R, slot, age + 2) - r_now),
            (_near(state, _DV, slot, age + 3) - v_now) * (_at(state, _R, slot, age + 3) - r_now),
            (_near(state, _DV, slot, age + 4) - v_now) * (_at(state, _R, slot, age + 4) - r_now),
        )
    return (products / 20.0 - moments[_R_20] * moments[_DV_20]) / (spread * other)


@_jit
def _memory(state, newest, n, mean, spread, magnitude):  # type: ignore[no-untyped-def]
    """Lag-1 autocorrelation of the last n returns, or of their magnitude, inside the window."""
    if spread <= _EPSILON:
        return 0.0
    leads, products, squares = _scratch(_LAGGED), _scratch(RING), _scratch(RING)
    oldest = (newest + 1 - RING) & _PLACES
    for i in range(RING):
        r = state[oldest + i]
        leads[i] = (abs(r) if magnitude else r) - mean
    leads[RING] = 0.0
    for i in range(RING):
        products[i], squares[i] = leads[i] * leads[i + 1], leads[i] * leads[i]
    return _total(products, n) / _total(squares, n)


@_jit
def _total(values, n):  # type: ignore[no-untyped-def]
    """The sum of the last n values, a multiple of 5, from the last back."""
    total = 0.0
    for i in range(RING - 1, RING - 1 - n, -5):
        total += _sum_5(values[i], values[i - 1], values[i - 2], values[i - 3], values[i - 4])
    return total


@_jit
def _memories(state, slot, moments, out):  # type: ignore[no-untyped-def]
    """Mean, deviation and memory of |r| over 20, and the memory of r over 20 and 60."""
    now = _at(state, _R, slot, 0)
    mean, spread = abs(now) + moments[_SIZE_20], _nonzero(moments[_SPREAD + _SIZE_20], _EPSILON)
    newest = _R + RING + slot
    out[_ABS_AC] = _memory(state, newest, 20, mean, spread, True)
    out[_VOL_CLUSTER] = _over(spread, _nonzero(mean, _EPSILON), 0.0)
    out[_AC] = _memory(state, newest, 20, now + moments[_R_20], moments[_RV_20], False)
    out[_AC + 1] = _memory(state, newest, 60, now + moments[_R_60], moments[_RV_60], False)


@_jit
def _lines(state, slot, moments, out):  # type: ignore[no-untyped-def]
    """The least-squares lines through ln C over 20 and 60 bars."""
    total, squares, tilt_20, tilt_60, d = 0.0, 0.0, 0.0, 0.0, 0.0
    for age in range(1, 20):
        d -= _at(state, _R, slot, age - 1)  # ln C then, less ln C now
        total += d
        squares += d * d
        tilt_20 += (9.5 - age) * d
        tilt_60 += (29.5 - age) * d
    _line(20.0, (total, squares, tilt_20), moments[_RV_20], 0, out)
    for age in range(20, 60):
        d -= _at(state, _R, slot, age - 1)
        total += d
        squares += d * d
        tilt_60 += (29.5 - age) * d
    _line(60.0, (total, squares, tilt_60), moments[_RV_60], 1, out)


@_jit
def _line(n, sums, rv, i, out):  # type: ignore[no-untyped-def]
    """Slope, in deviations of r, and R² of a line through n bars."""
    total, squares, tilt = sums
    sxx = n * (n * n - 1.0) / 12.0
    out[_SLOPE + i] = _over(tilt / sxx, rv, 0.0)
    syy = squares - total * total / n
    flat = math.sqrt(syy / n) <= _EPSILON
    out[_R2 + i] = 0.0 if flat else tilt * tilt / (sxx * syy)


@_jit
def _highest(state, slot, first, end):  # type: ignore[no-untyped-def]
    """The highest high from age `first` to before age `end`."""
    high = _at(state, _H, slot, first)
    for age in range(first + 1, end):
        high = max(high, _at(state, _H, slot, age))
    return high


@_jit
def _lowest(state, slot, first, end):  # type: ignore[no-untyped-def]
    """The lowest low from age `first` to before age `end`."""
    low = _at(state, _L, slot, first)
    for age in range(first + 1, end):
        low = min(low, _at(state, _L, slot, age))
    return low


@_jit
def _age(state, newest, extreme):  # type: ignore[no-untyped-def]
    """How long ago an extreme of a window of at most 60 bars was last seen."""
    last, first = 0, (newest - 59) & _PLACES
    for i in range(60):
        last = max(last, i if state[first + i] == extreme else 0)
    return 59.0 - last


@_jit
def _stochastic(close, high, low):  # type: ignore[no-untyped-def]
    """Where the close stands between high and low."""
    return _over(close - low, _nonzero(high - low, _EPSILON * close), 0.5)


@_jit
def _extremes(state, slot, close, quotients, out):  # type: ignore[no-untyped-def]
    """Highest high and lowest low over six windows, and their ages; of equals the most recent."""
    high, low = _highest(state, slot, 0, 5), _lowest(state, slot, 0, 5)
    out[_STOCH] = _stochastic(close, high, low)
    high, low = max(high, _highest(state, slot, 5, 10)), min(low, _lowest(state, slot, 5, 10))
    out[_STOCH + 1] = _stochastic(close, high, low)
    _quotient(quotients, _HH, close, high)
    _quotient(quotients, _LL, close, low)
    high, low = max(high, _highest(state, slot, 10, 14)), min(low, _lowest(state, slot, 10, 14))
    k = _stochastic(close, high, low)
    out[_STOCH_K] = k
    k_1, k_2 = _k_before(state, slot)
    out[_STOCH_D] = ((k + k_1) + k_2) / 3.0
    high, low = max(high, _highest(state, slot, 14, 20)), min(low, _lowest(state, slot, 14, 20))
    out[_STOCH + 2] = _stochastic(close, high, low)
    _quotient(quotients, _HH + 1, close, high)
    _quotient(quotients, _LL + 1, close, low)
    out[_AGE_HH] = _age(state, _H + RING + slot, high) / 20.0
    out[_AGE_LL] = _age(state, _L + RING + slot, low) / 20.0
    high, low = max(high, _highest(state, slot, 20, 30)), min(low, _lowest(state, slot, 20, 30))
    out[_STOCH + 3] = _stochastic(close, high, low)
    high, low = max(high, _highest(state, slot, 30, 60)), min(low, _lowest(state, slot, 30, 60))
    out[_STOCH + 4] = _stochastic(close, high, low)
    _quotient(quotients, _HH + 2, close, high)
    _quotient(quotients, _LL + 2, close, low)
    out[_AGE_HH + 1] = _age(state, _H + RING + slot, high) / 60.0
    out[_AGE_LL + 1] = _age(state, _L + RING + slot, low) / 60.0


@_jit
def _k_before(state, slot):  # type: ignore[no-untyped-def]
    """The stochastic %K of the last bar and of the one before."""
    high = max(_highest(state, slot, 2, 14), _at(state, _H, slot, 14))
    low = min(_lowest(state, slot, 2, 14), _at(state, _L, slot, 14))
    last = _stochastic(
        _far(state, _CLOSE, slot, 1),
        max(high, _at(state, _H, slot, 1)),
        min(low, _at(state, _L, slot, 1)),
    )
    high, low = max(high, _at(state, _H, slot, 15)), min(low, _at(state, _L, slot, 15))
    return last, _stochastic(_far(state, _CLOSE, slot, 2), high, low)


@_jit
def _quotient(quotients, column, a, b):  # type: ignore[no-untyped-def]
    """Leave a / b, of which the column is the logarithm."""
    quotients[column], quotients[_BELOW + column] = a, b


@_jit
def _volume_ratio(quotients, column, a, b):  # type: ignore[no-untyped-def]
    """A volume ratio to take the logarithm of: 1 without a denominator."""
    _quotient(quotients, column, a if b != 0.0 else 1.0, b if b != 0.0 else 1.0)


@_jit
def _volumes(bar, sums, moments, quotients, out):  # type: ignore[no-untyped-def]
    """Volume against its means, volume-weighted price, signed volume."""
    close, volume = bar[3], bar[4]
    mean_5, mean_20 = _of(sums, _VOLUME, 5) / 5.0, _of(sums, _VOLUME, 20) / 20.0
    _volume_ratio(quotients, _VOL_REL, volume, mean_5)
    for i in range(3):
        n = _10_20_60[i]
        v = _of(sums, _VOLUME, n)
        _volume_ratio(quotients, _VOL_REL + 1 + i, volume, v / n)
        vwap = _of(sums, _VALUE, n) / v if v != 0.0 else close
        _quotient(quotients, _VWAP + i, close, vwap)
        out[_SVR + i] = _over(_of(sums, _SIGNED, n), v, 0.0)
    _volume_ratio(quotients, _VOL_TR, mean_5, mean_20)
    _volume_ratio(quotients, _VOL_TR + 1, mean_20, _of(sums, _VOLUME, 60) / 60.0)
    out[_VOLUME_RATIO] = _over(volume, mean_20, 1.0)
    _quotient(quotients, _LOG_VOLUME_RATIO, 1.0 + volume, 1.0 + mean_20)
    for i in range(2):
        spread = _nonzero(moments[_SPREAD + _LV_20 + i], _EPSILON)
        out[_VOL_Z + i] = _over(-moments[_LV_20 + i], spread, 0.0)


@_jit
def _costs(state, slot, bars, sums):  # type: ignore[no-untyped-def]
    """Advance illiquidity, which keeps its last value, and force, which is smoothed."""
    cost = _over(_of(sums, _PLAIN + _AM, 20), _of(sums, _PLAIN + _TRADED, 20), 0.0)
    if bars >= AMIHUD_SHOWN_AT and cost > 0.0:
        state[_AMIHUD] = cost
        state[_AMIHUD_SHOWN] = 1.0
    r, volume = _at(state, _R, slot, 0), _far(state, _VOLUME, slot, 0)
    force = r * _over(volume, _of(sums, _VOLUME, 20) / 20.0, 1.0)
    if bars == 20.0:
        state[_FORCE] = force
    elif bars > 20.0:
        force = state[_FORCE] + _ALPHA_5 * (force - state[_FORCE])
        state[_FORCE] = force if abs(force) > _FORGOTTEN else 0.0


@_jit
def _flows(state, slot, sums, quotients, out):  # type: ignore[no-untyped-def]
    """Money flows, illiquidity, force."""
    out[_CMF] = _over(_of(sums, _PLAIN + _CV, 20), _of(sums, _VOLUME, 20), 0.0)
    rising = _of(sums, _SHIFTED + _INFLOW, 10) + _four(state, _INFLOW, slot)
    falling = _of(sums, _SHIFTED + _OUTFLOW, 10) + _four(state, _OUTFLOW, slot)
    out[_MFI] = _over(rising, rising + falling, 0.5)
    shown = state[_AMIHUD_SHOWN] == 1.0
    _quotient(quotients, _AMIHUD_20, state[_AMIHUD] if shown else 1.0, 1.0)
    out[_FORCE_5] = state[_FORCE]


@_jit
def _four(state, lane, slot):  # type: ignore[no-untyped-def]
    """The last block of a window of 14."""
    a, b = _near(state, lane, slot, 10), _near(state, lane, slot, 11)
    return _sum_5(a, b, _near(state, lane, slot, 12), _near(state, lane, slot, 13), 0.0)


@_jit
def _ranges(state, close, sums, moments, out):  # type: ignore[no-untyped-def]
    """Volatility from ranges, the z of the typical price, and the length of the run."""
    near = _of(sums, _SHIFTED + _RANGE, 10)
    middle = near + _of(sums, _SHIFTED + _LATE_RANGE, 10)
    far = middle + _of(sums, _OLD_RANGE, 40)
    out[_PARK] = math.sqrt(near / 10.0 / (4.0 * _LN_2))
    out[_PARK + 1] = math.sqrt(middle / 20.0 / (4.0 * _LN_2))
    out[_PARK + 2] = math.sqrt(far / 60.0 / (4.0 * _LN_2))
    out[_GK_20] = math.sqrt(_of(sums, _PLAIN + _GK, 20) / 20.0)
    out[_RS_20] = math.sqrt(_of(sums, _PLAIN + _RS, 20) / 20.0)
    spread = _nonzero(moments[_SPREAD + _TP_20], _EPSILON * close)
    out[_TP_Z] = _over(-moments[_TP_20], spread, 0.0)
    run = state[_RUN]
    out[_RUN_LEN] = _TANH[int(run)] if run >= 0.0 else -_TANH[int(-run)]


@_jit
def _run(state, r):  # type: ignore[no-untyped-def]
    """Advance the length of the run."""
    run = state[_RUN]
    if r > 0.0:
        run = min(run + 1.0, float(RUN_MOST)) if run > 0.0 else 1.0
    elif r < 0.0:
        run = max(run - 1.0, -float(RUN_MOST)) if run < 0.0 else -1.0
    else:
        run = 0.0
    state[_RUN] = run


@_jit
def _open_session(state, bar, slot, bars):  # type: ignore[no-untyped-def]
    """Begin a session: yesterday's volumes by time of day are kept, all else is forgotten."""
    for j in range(_SLOTS):
        state[_OLD_SUM + j] = state[_SLOT_SUM + j]
        state[_OLD_COUNT + j] = state[_SLOT_COUNT + j]
        state[_SLOT_SUM + j] = 0.0
        state[_SLOT_COUNT + j] = 0.0
    if bars > 1.0:
        state[_OPENINGS] = min(state[_OPENINGS] + 1.0, _SETTLED_OPENINGS)
        state[_CLOSE_BEFORE] = _far(state, _CLOSE, slot, 1)
    state[_OPENED_AT] = bar[_SESSION_OPEN]
    state[_FIRST_OPEN] = bar[0]
    state[_HIGHEST] = bar[1]
    state[_LOWEST] = bar[2]
    state[_RANGE_HIGH] = 0.0
    state[_RANGE_LOW] = 0.0
    state[_WEIGHT] = 0.0
    state[_LEAD] = 0.0
    state[_M2] = 0.0
    state[_ANCHOR] = bar[3]


@_jit
def _session(state, bar, typical):  # type: ignore[no-untyped-def]
    """Advance the session: extremes, opening range, VWAP and its spread by West's update (1979)."""
    high, low, volume = bar[1], bar[2], bar[4]
    since, length = bar[_OPEN_TIME] - bar[_SESSION_OPEN], bar[_SESSION_CLOSE] - bar[_SESSION_OPEN]
    state[_HIGHEST] = max(state[_HIGHEST], high)
    state[_LOWEST] = min(state[_LOWEST], low)
    if int(since / bar[_INTERVAL]) < _OPENING_RANGE:
        begun = state[_RANGE_HIGH] > 0.0
        state[_RANGE_HIGH] = max(state[_RANGE_HIGH], high) if begun else high
        state[_RANGE_LOW] = min(state[_RANGE_LOW], low) if begun else low
    if volume > 0.0:
        before = state[_WEIGHT]
        state[_WEIGHT] += volume
        # Prices less the session's first close: what is small stays exact.
        d = (typical - state[_ANCHOR]) - state[_LEAD]
        share = volume / state[_WEIGHT]
        state[_LEAD] += d * share
        state[_M2] += before * share * (d * d)  # nothing cancels, however uneven the volumes
    hour = min(_SLOTS - 1, int(24.0 * since / length))
    state[_SLOT_SUM + hour] += volume
    state[_SLOT_COUNT + hour] += 1.0
    return hour


@_jit
def _session_columns(state, bar, hour, quotients, out):  # type: ignore[no-untyped-def]
    """Where the bar stands in its session."""
    close, volume = bar[3], bar[4]
    since, length = bar[_OPEN_TIME] - bar[_SESSION_OPEN], bar[_SESSION_CLOSE] - bar[_SESSION_OPEN]
    traded = state[_WEIGHT] > 0.0
    spread = math.sqrt(state[_M2] / state[_WEIGHT]) if traded else 0.0
    lead = (close - state[_ANCHOR]) - state[_LEAD]
    vwap = state[_ANCHOR] + state[_LEAD] if traded else close
    _quotient(quotients, _VWAP_SESS, close, vwap)
    out[_VWAP_Z] = _over(lead, _nonzero(spread, _EPSILON * close), 0.0)
    _quotient(quotients, _SESS_DRAWDOWN, close, state[_HIGHEST])
    _quotient(quotients, _SESS_RUNUP, close, state[_LOWEST])
    begun = state[_RANGE_HIGH] > 0.0
    _quotient(quotients, _OR_HIGH, close, state[_RANGE_HIGH] if begun else close)
    _quotient(quotients, _OR_LOW, close, state[_RANGE_LOW] if begun else close)
    _quotient(quotients, _SESS_RET, close, state[_FIRST_OPEN])
    old = state[_OLD_COUNT + hour]
    usual = state[_OLD_SUM + hour] / old if old > 0.0 else 0.0
    _volume_ratio(quotients, _TOD, volume, usual)
    fraction = min(1.0, (since + bar[_INTERVAL]) / length)
    out[_SESS_SIN], out[_SESS_SIN + 1] = sin_cos(fraction)
    out[_DOW_SIN], out[_DOW_SIN + 1] = sin_cos(bar[_WEEKDAY] / 7.0)
    out[_SESS_FRAC] = fraction


@_jit
def _log_columns(quotients, asked, out):  # type: ignore[no-untyped-def]
    """The logarithms of the quotients that the stages left, LOG_PART columns at a time."""
    for part in range(LOG_PARTS):
        if asked & (FIRST_LOGS << part):
            _log_part(quotients, LOG_PART * part, LOG_PART * (part + 1), asked, out)


@_jit
def _log_part(quotients, first, end, asked, out):  # type: ignore[no-untyped-def]
    """Some columns of logarithms; what was not asked for is left as it was."""
    for column in range(first, end):
        quotient = max(quotients[column] / quotients[_BELOW + column], _FLOOR[column])
        shown = (_STAGE[column] & asked) != 0
        out[column] = log(quotient) if shown else out[column]


@_jit
def _advance(state, bar, bars, slot, logs, now):  # type: ignore[no-untyped-def]
    """Advance all of the state but its sums; gives the directional indices and the day's part."""
    if bars == 1.0 or bar[_SESSION_OPEN] != state[_OPENED_AT]:
        _open_session(state, bar, slot, bars)
    _bar_logs(state, bar, slot, bars == 1.0, logs)
    _derive(state, bar, slot, logs, now)
    state[_BARS] = bars
    _averages(state, bar, slot, bars)
    _run(state, logs[_LOG_R])
    return _directions(state, bar[3], bars), _session(state, bar, _near(state, _TP, slot, 0))


@_jit
def _window_sums(state, slot, now, sums, moments):  # type: ignore[no-untyped-def]
    """The rest of the sums, and all that means and deviations are made of."""
    far, near = _far_row(slot), _near_row(slot)
    _add_20(state, far - 20 * LANES, LANES, now, sums, 4 * _WINDOW)
    _add_20(state, far - 40 * LANES, LANES, now, sums, 8 * _WINDOW)
    _add_20(state, near + LANES, 2 * LANES, now[2 * LANES :], sums, _SHIFTED + LANES)
    _moments(state, slot, now, sums, moments)


@_jit
def _window_columns(state, bar, slot, asked, scratch, out):  # type: ignore[no-untyped-def]
    """The columns of windows that sums are taken over."""
    close, (sums, moments, quotients) = bar[3], scratch
    if asked & MEANS:
        _closes(state, slot, close, sums, quotients, out)
        _means(state, close, moments, quotients, out)
    if asked & RETURNS:
        _returns(state, slot, sums, moments, out)
        out[_PV_CORR] = _correlation(state, slot, moments)
    if asked & MEMORY:
        _memories(state, slot, moments, out)
    if asked & LINES:
        _lines(state, slot, moments, out)
    if asked & VOLUMES:
        _volumes(bar, sums, moments, quotients, out)
        _flows(state, slot, sums, quotients, out)
    if asked & RANGES:
        _ranges(state, close, sums, moments, out)


@_jit
def _hide_unready(bars, out):  # type: ignore[no-untyped-def]
    """NaN in every column whose window is not whole yet."""
    for column in range(COLUMN_COUNT):
        if bars < _READY_AT[column]:
            out[column] = math.nan


@_whole
def _step(state, bar, out, asked):  # type: ignore[no-untyped-def]
    """Advance one series by one bar and write its row; NaN where a window is not whole yet."""
    state, bar, out = _borrowed(state), _borrowed(bar), _borrowed(out)
    bars = state[_BARS] + 1.0
    slot = (int(bars) - 1) & (RING - 1)
    logs, now, sums = _scratch(_BAR_LOGS), _scratch(_NOW), _scratch(_SUMS)
    quotients = _scratch(_QUOTIENTS)
    directions, hour = _advance(state, bar, bars, slot, logs, now)
    for i in range(_WINDOW):
        sums[i], sums[_SHIFTED + LANES + i], sums[_PLAIN + i] = 0.0, 0.0, 0.0
    _add_20(state, _far_row(slot), LANES, now, sums, 0)
    _add_20(state, _near_row(slot), 2 * LANES, now[LANES:], sums, _PLAIN)
    _costs(state, slot, bars, sums)
    if asked & SHAPES:
        _geometry(state, bar, slot, quotients, out)
    state[_PREVIOUS_OPEN] = bar[0]
    if asked & AVERAGES:
        _average_columns(state, bar[3], directions, quotients, out)
    if asked & _OF_WINDOWS:
        moments = _scratch(_ALL_MOMENTS)
        _window_sums(state, slot, now, sums, moments)
        _window_columns(state, bar, slot, asked, (sums, moments, quotients), out)
    if asked & EXTREMES:
        _extremes(state, slot, bar[3], quotients, out)
    if asked & SESSIONS:
        _session_columns(state, bar, hour, quotients, out)
    _log_columns(quotients, asked, out)
    out[_OVERNIGHT] = logs[_LOG_OVERNIGHT]
    for i in range(_COPIED_LOGS):
        out[_RET_1 + i] = logs[i]
    if bars < _LAST_READY_AT:
        _hide_unready(bars, out)


_ROW, _ROWS, _INDEX = "float64[::1]", "float64[:, ::1]", "int64[::1]"
_RINGS = "float64[:, :, ::1]"


def _door(signature: str, *, nogil: bool):  # type: ignore[no-untyped-def]
    """Compile when the module is loaded, from the cache if it is there: never at the first bar."""
    return njit(signature, cache=True, error_model="numpy", fastmath=False, nogil=nogil)


@_door(f"void({_ROW}, {_ROW}, {_ROW}, int64)", nogil=False)
def step(state, bar, out, asked):  # type: ignore[no-untyped-def]
    """One bar [BAR_WIDTH] of one series: `state` advances, `out` [columns] is its row.

    `asked` is `columns.EVERYTHING`, or `columns.asked(…)` for some columns. The state advances
    whole in any case; of the other columns each has its value or stays as it was in `out`.

    The interpreter lock is kept: giving it up for a microsecond would cost milliseconds when
    another thread is busy.
    """
    _step(state, bar, out, asked)


@_door(f"void({_ROWS}, {_INDEX}, {_ROWS}, {_ROWS}, {_INDEX}, int64)", nogil=True)
def burst(states, series, bars, out, counts, asked):  # type: ignore[no-untyped-def]
    """Bars [n, BAR_WIDTH] of many series in order; bar i moves row `series[i]` of `states`.

    `counts[i]` becomes the number of bars that its series has then seen.
    """
    states, bars, out = _borrowed(states), _borrowed(bars), _borrowed(out)
    for i in range(bars.shape[0]):
        state = states[series[i]]
        _step(state, bars[i], out[i], asked)
        counts[i] = int(state[_BARS])


def history(
    state: NDArray[np.float64],
    bars: NDArray[np.float64],
    out: NDArray[np.float64],
    asked: int = EVERYTHING,
) -> None:
    """All bars [n, BAR_WIDTH] of one series in order; row i of `out` [n, columns] is bar i's."""
    series, counts = np.zeros(len(bars), dtype=np.int64), np.empty(len(bars), dtype=np.int64)
    burst(state[np.newaxis], series, bars, out, counts, asked)


@_door(f"void({_RINGS}, {_INDEX}, {_INDEX}, {_ROWS}, {_INDEX})", nogil=True)
def push(rings, series, counts, rows, columns):  # type: ignore[no-untyped-def]
    """Write each row's `columns` into its series' ring, as that series' bar number `counts[i]`.

    `rings` [series, 2·length, columns] hold every row at two places, `length` apart, so that the
    last `length` rows are one run in memory wherever the ring stands.
    """
    length = rings.shape[1] // 2
    for i in range(series.shape[0]):
        ring = rings[series[i]]
        at = (counts[i] - 1) % length
        for j in range(columns.shape[0]):
            value = rows[i, columns[j]]
            ring[at, j] = value
            ring[at + length, j] = value


@_door(f"void({_RINGS}, {_INDEX}, {_INDEX}, {_RINGS})", nogil=True)
def gather(rings, series, ends, windows):  # type: ignore[no-untyped-def]
    """Copy the windows [n, window, columns] whose runs end before row `ends[i]` of their ring."""
    window = windows.shape[1]
    for i in range(series.shape[0]):
        windows[i] = rings[series[i], ends[i] - window : ends[i]]


def new_states(series: int) -> NDArray[np.float64]:
    """State rows [series, STATE_WIDTH] that have seen no bar."""
    return np.zeros((series, STATE_WIDTH))


def matrix(bars: NDArray[np.float64], asked: int = EVERYTHING) -> NDArray[np.float64]:
    """The rows [n, columns] of a whole history [n, BAR_WIDTH] of one series, all by `_step`.

    Columns that were not `asked` for (`columns.asked`) have their value or are NaN.
    """
    out = np.full((len(bars), COLUMN_COUNT), np.nan)
    history(new_states(1)[0], np.ascontiguousarray(bars, dtype=np.float64), out, asked)
    return out


def bars_seen(
    states: NDArray[np.float64], series: NDArray[np.int64] | slice = slice(None)
) -> NDArray[np.int64]:
    """How many bars these of the state rows [series, STATE_WIDTH], or all, have seen."""
    return states[series, _BARS].astype(np.int64)


def packed(states: NDArray[np.float64]) -> NDArray[np.float64]:
    """State rows [series, PACKED_WIDTH] without the second copy of what their rings hold."""
    return states[:, _ONCE]


def unpacked(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The state rows [series, STATE_WIDTH] that were `packed`."""
    states = np.empty((len(rows), STATE_WIDTH))
    states[:, _ONCE] = rows
    states[:, _AGAIN] = rows[:, _R:]
    return states


def settled(states: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which state rows [series, STATE_WIDTH] have forgotten where they began.

    Their next rows have the bits of a process that never stopped: every window is whole, every
    recursion has contracted, the sessions that columns look back on were seen from their openings,
    and illiquidity, which keeps its last value, has had one.
    """
    ready: NDArray[np.bool_] = (
        (states[:, _BARS] >= _SETTLED_AT)
        & (states[:, _OPENINGS] >= _SETTLED_OPENINGS)
        & (states[:, _AMIHUD_SHOWN] == 1.0)
    )
    return ready
