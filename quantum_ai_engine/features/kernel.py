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

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quantum_ai_engine.features.columns import (
    AMIHUD_SHOWN_AT,
    AT,
    COLUMNS,
    LOGS,
    RSI,
    RUN_MOST,
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

# The state row: a header, then rings of RING values each.
_BARS, _EMA, _SIGNAL, _GAIN, _LOSS, _ATR = 0, 1, 9, 10, 16, 22
_PLUS_DM, _MINUS_DM, _ADX, _FORCE, _RUN, _K_1, _K_2 = 25, 26, 27, 28, 29, 30, 31
_PREVIOUS_OPEN, _AMIHUD, _AMIHUD_SHOWN, _OPENINGS = 32, 33, 34, 35
_OPENED_AT, _FIRST_OPEN, _CLOSE_BEFORE, _HIGHEST, _LOWEST = 36, 37, 38, 39, 40
_RANGE_HIGH, _RANGE_LOW, _WEIGHT, _LEAD, _M2, _ANCHOR = 41, 42, 43, 44, 45, 46
_SLOTS = 24
_SLOT_SUM, _SLOT_COUNT, _OLD_SUM, _OLD_COUNT = 48, 72, 96, 120
# The bar's own logarithms, in the order of the first six columns after LOGS, and their divisors.
_BAR_LOG, _DIVISOR, _BAR_LOGS = 144, 160, 9
_LOG_R, _LOG_DV, _LOG_HL, _LOG_CO, _LOG_HC, _LOG_LC, _LOG_V, _LOG_HO, _LOG_LO = range(144, 153)
_COPIED_LOGS = 6
_HEADER, RING = 176, 64
(_C, _R, _H, _L, _TP, _V, _LV, _DV, _HL, _GK, _RS, _CV, _MF, _AM, _SV) = range(
    _HEADER, _HEADER + 30 * RING, 2 * RING
)
STATE_WIDTH = _HEADER + 30 * RING

_EPSILON = 1e-10  # a spread at or below this share of its scale counts as zero
_KELTNER_EPSILON = 1e-8
# Averages of nothing but zeros only shrink by a factor a bar; below this they are forgotten.
_FORGOTTEN = 1e-30
_SMALLEST = 1e-4  # the one floor: a bar without volume has no logarithm
_OPENING_RANGE = 30
_ALPHAS = np.array([2.0 / (p + 1.0) for p in E])
_ALPHA_9, _ALPHA_5 = 2.0 / 10.0, 2.0 / 6.0
_RSI = np.array(RSI, dtype=np.float64)
_S = np.array(S)
_S_OF_BLOCK = np.array([1, 2, 3, 4, 5, 6, -1, 7, -1, 8, -1, 9])
_R_OF_BLOCK = np.array([0, 1, -1, 2, -1, 3, -1, -1, -1, -1, -1, 4])
_EXTREMES = np.array([5, 10, 14, 20, 30, 60])
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

_jit = njit(cache=True, error_model="numpy", fastmath=False)


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
def _put(state, ring, slot, x):  # type: ignore[no-untyped-def]
    """Append to a ring: twice, so that the last RING values are one run, whatever the slot."""
    state[ring + slot] = x
    state[ring + RING + slot] = x


@_jit
def _sum_5(a, b, c, d, e):  # type: ignore[no-untyped-def]
    """The fixed order of every block of five."""
    return ((a + b) + (c + d)) + e


@_jit
def _wilder(average, x, count, period):  # type: ignore[no-untyped-def]
    """Wilder's average after its `count`-th input: the mean of the first `period`, then smoothed.

    Until the mean is complete the slot holds the running sum.
    """
    if count < period:
        return average + x
    if count == period:
        return (average + x) / period
    return (average * (period - 1.0) + x) / period


@_jit
def _spread(total, squares, n):  # type: ignore[no-untyped-def]
    """Population deviation from the sums of n values shifted by one of them: never negative."""
    return math.sqrt((squares - total * total / n) / n)


@_jit
def _nonzero(spread, limit):  # type: ignore[no-untyped-def]
    """A spread that is too small to be told from rounding is 0."""
    return spread if spread > limit else 0.0


@_jit
def _over(a, b, neutral):  # type: ignore[no-untyped-def]
    """a / b, and the neutral value where b is 0."""
    return a / b if b != 0.0 else neutral


@_jit
def _volume_quotient(a, b):  # type: ignore[no-untyped-def]
    """What the logarithm of a volume ratio is taken of: floored, and 1 without a denominator."""
    return max(a / b, _SMALLEST) if b != 0.0 else 1.0


@_jit
def _rise(x):  # type: ignore[no-untyped-def]
    """max(x, 0), exactly and without a branch that could be mispredicted."""
    return 0.5 * (x + abs(x))


@_jit
def _rose(x):  # type: ignore[no-untyped-def]
    """1 for what is above 0; a tie is not up."""
    return 1.0 if x > 0.0 else 0.0


@_jit
def _nth_of_10_20_60(bars):  # type: ignore[no-untyped-def]
    """The place of a window of 10, 20 or 60 bars in its group of columns; -1 for another."""
    if bars == 10:
        return 0
    if bars == 20:
        return 1
    return 2 if bars == 60 else -1


@_jit
def _moments(state, ring, slot, n):  # type: ignore[no-untyped-def]
    """Mean, less the newest, and deviation of the last n (a multiple of 5) values of a ring."""
    now = state[ring + slot]
    total, squares = 0.0, 0.0
    for age in range(0, n, 5):
        a = _at(state, ring, slot, age) - now
        b = _at(state, ring, slot, age + 1) - now
        c = _at(state, ring, slot, age + 2) - now
        d = _at(state, ring, slot, age + 3) - now
        e = _at(state, ring, slot, age + 4) - now
        total += _sum_5(a, b, c, d, e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
    return total / n, _spread(total, squares, n)


@_jit
def _sum(state, ring, slot, first, n):  # type: ignore[no-untyped-def]
    """The sum of n (a multiple of 5) values of a ring, from age `first` back; nothing cancels."""
    total = 0.0
    for age in range(first, first + n, 5):
        total += _sum_5(
            _at(state, ring, slot, age),
            _at(state, ring, slot, age + 1),
            _at(state, ring, slot, age + 2),
            _at(state, ring, slot, age + 3),
            _at(state, ring, slot, age + 4),
        )
    return total


@_jit
def _quotient(state, place, a, b):  # type: ignore[no-untyped-def]
    """Leave a and b where the logarithms of the bar are taken."""
    state[place] = a
    state[place - _BAR_LOG + _DIVISOR] = b


@_jit
def _derive(state, bar, slot, bars):  # type: ignore[no-untyped-def]
    """Append the bar to the rings; its own logarithms are taken in one pass."""
    opened, high, low, close, volume = bar[0], bar[1], bar[2], bar[3], bar[4]
    first = bars == 1.0
    _quotient(state, _LOG_R, close, close if first else _at(state, _C, slot, 1))
    more = 1.0 + volume
    _quotient(state, _LOG_DV, more, more if first else 1.0 + _at(state, _V, slot, 1))
    _quotient(state, _LOG_V, more, 1.0)
    _quotient(state, _LOG_HL, high, low)
    _quotient(state, _LOG_CO, close, opened)
    _quotient(state, _LOG_HC, high, close)
    _quotient(state, _LOG_LC, low, close)
    _quotient(state, _LOG_HO, high, opened)
    _quotient(state, _LOG_LO, low, opened)
    for i in range(_BAR_LOGS):
        state[_BAR_LOG + i] = log_quotient(state[_BAR_LOG + i], state[_DIVISOR + i])
    typical = ((high + low) + close) / 3.0
    rise = typical - _at(state, _TP, slot, 1) if not first else 0.0
    flow = typical * volume
    if abs(rise) <= _EPSILON * close:
        flow = 0.0
    _put(state, _MF, slot, flow if rise > 0.0 else -flow)
    _put(state, _C, slot, close)
    _put(state, _R, slot, state[_LOG_R])
    _put(state, _H, slot, high)
    _put(state, _L, slot, low)
    _put(state, _TP, slot, typical)
    _put(state, _V, slot, volume)
    _put(state, _LV, slot, state[_LOG_V])
    _put(state, _DV, slot, state[_LOG_DV])
    range_square = state[_LOG_HL] * state[_LOG_HL]
    body_square = state[_LOG_CO] * state[_LOG_CO]
    _put(state, _HL, slot, range_square)
    _put(state, _GK, slot, 0.5 * range_square - (2.0 * _LN_2 - 1.0) * body_square)
    _put(state, _RS, slot, state[_LOG_HC] * state[_LOG_HO] + state[_LOG_LC] * state[_LOG_LO])
    span = _nonzero(high - low, _EPSILON * close)
    _put(state, _CV, slot, _over(2.0 * close - high - low, span, 0.0) * volume)
    _put(state, _AM, slot, abs(state[_LOG_R]) / (volume * close) if volume > 0.0 else 0.0)
    r = state[_LOG_R]
    _put(state, _SV, slot, volume if r > 0.0 else (-volume if r < 0.0 else 0.0))


@_jit
def _geometry(state, bar, slot, out):  # type: ignore[no-untyped-def]
    """The bar itself, and against the one before it."""
    opened, high, low, close = bar[0], bar[1], bar[2], bar[3]
    previous = _at(state, _C, slot, 1)
    for i in range(_COPIED_LOGS):
        out[_RET_1 + i] = state[_BAR_LOG + i]
    out[_GAP] = opened / previous
    out[_HIGH_CHG] = high / _at(state, _H, slot, 1)
    out[_LOW_CHG] = low / _at(state, _L, slot, 1)
    out[_TP_CHG] = state[_TP + slot] / _at(state, _TP, slot, 1)
    span = _nonzero(high - low, _EPSILON * close)
    upper, lower = high - max(opened, close), min(opened, close) - low
    body = abs(close - opened)
    out[_WICKS] = _over(upper, span, 0.0)
    out[_WICKS + 1] = _over(lower, span, 0.0)
    out[_WICKS + 2] = _over(2.0 * close - high - low, span, 0.0)
    out[_WICKS + 3] = _over(body, span, 0.0)
    out[_TR] = (max(high, previous) - min(low, previous)) / previous
    out[_HIGH_LOW] = (high - low) / close
    out[_OPEN_CLOSE] = (close - opened) / opened
    limit = _EPSILON * close
    out[_DOJI] = 1.0 if 0.1 * (high - low) - body > limit else 0.0
    out[_DOJI + 1] = 1.0 if lower - 2.0 * body > limit and body - upper > limit else 0.0
    out[_DOJI + 2] = 1.0 if upper - 2.0 * body > limit and body - lower > limit else 0.0
    was = state[_PREVIOUS_OPEN]
    both = opened == previous and close == was
    bull = close > opened and previous < was and opened <= previous and close >= was and not both
    bear = close < opened and previous > was and opened >= previous and close <= was and not both
    out[_ENGULF_BULL] = 1.0 if bull else 0.0
    out[_ENGULF_BULL + 1] = 1.0 if bear else 0.0
    inside = high < _at(state, _H, slot, 1) and low > _at(state, _L, slot, 1)
    out[_ENGULF_BULL + 2] = 1.0 if inside else 0.0
    state[_PREVIOUS_OPEN] = opened


@_jit
def _close_window(state, i, close, lead, spread, out):  # type: ignore[no-untyped-def]
    """The columns of one window of closes; `lead` is its mean less the close."""
    mean, spread = close + lead, _nonzero(spread, _EPSILON * close)
    out[_SMA + i] = mean
    out[_SMA_Z + i] = _over(-lead, spread, 0.0)
    if i == 2:
        out[_BBW] = 4.0 * spread / mean
    if i == 8:
        out[_BBW + 2] = 4.0 * spread / mean
    if i == 4:
        out[_BBW + 1] = 4.0 * spread / mean
        out[_BOLLINGER] = _over(2.0 * spread - lead, 4.0 * spread, 0.5)
        atr_20 = _nonzero(state[_ATR + 2], _EPSILON * close)
        out[_SQUEEZE] = _over(2.0 * spread, 1.5 * atr_20, 0.0)


@_jit
def _closes(state, slot, close, out):  # type: ignore[no-untyped-def]
    """Means, deviations, momentum and efficiency of closes: one backward scan of 60."""
    total, squares, path = 0.0, 0.0, 0.0
    limit = _EPSILON * close
    b = _at(state, _C, slot, 1) - close
    c = _at(state, _C, slot, 2) - close
    _close_window(state, 0, close, (b + c) / 3.0, _spread(b + c, b * b + c * c, 3.0), out)
    x = close
    for block in range(12):
        age = 5 * block
        x1, x2 = _at(state, _C, slot, age + 1), _at(state, _C, slot, age + 2)
        x3, x4 = _at(state, _C, slot, age + 3), _at(state, _C, slot, age + 4)
        x5 = _at(state, _C, slot, age + 5)
        a, b, c, d, e = x - close, x1 - close, x2 - close, x3 - close, x4 - close
        total += _sum_5(a, b, c, d, e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
        path += _sum_5(abs(x - x1), abs(x1 - x2), abs(x2 - x3), abs(x3 - x4), abs(x4 - x5))
        x = x5
        n = age + 5.0
        i = _S_OF_BLOCK[block]
        if i >= 0:
            _close_window(state, i, close, total / n, _spread(total, squares, n), out)
        j = _nth_of_10_20_60(age + 5)
        if j >= 0:
            out[_ER + j] = _over(abs(close - x5), _nonzero(path, limit), 0.0)
    for i in range(10):
        out[_MOM + i] = close / _at(state, _C, slot, _S[i])
    out[_MOMENTUM_5] = close / _at(state, _C, slot, 5) - 1.0


@_jit
def _close_columns(close, out):  # type: ignore[no-untyped-def]
    """What is made of the means that `_closes` left in the SMA columns."""
    out[_X_SMA] = out[_SMA + 1] / out[_SMA + 4]
    out[_X_SMA + 1] = out[_SMA + 2] / out[_SMA + 6]
    out[_X_SMA + 2] = out[_SMA + 3] / out[_SMA + 7]
    out[_X_SMA + 3] = out[_SMA + 4] / out[_SMA + 8]
    out[_X_SMA + 4] = out[_SMA + 5] / out[_SMA + 9]
    for i in range(10):
        out[_SMA + i] = close / out[_SMA + i]


@_jit
def _correlation(state, slot, lead, spread):  # type: ignore[no-untyped-def]
    """Pearson's correlation of r and the change of ln(1+V) over 20 bars.

    `lead` is the mean of r less the newest, `spread` its deviation.
    """
    r_now, v_now = state[_R + slot], state[_DV + slot]
    total, squares, products = 0.0, 0.0, 0.0
    for age in range(0, 20, 5):
        a, b = _at(state, _DV, slot, age) - v_now, _at(state, _DV, slot, age + 1) - v_now
        c, d = _at(state, _DV, slot, age + 2) - v_now, _at(state, _DV, slot, age + 3) - v_now
        e = _at(state, _DV, slot, age + 4) - v_now
        total += _sum_5(a, b, c, d, e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
        products += _sum_5(
            a * (_at(state, _R, slot, age) - r_now),
            b * (_at(state, _R, slot, age + 1) - r_now),
            c * (_at(state, _R, slot, age + 2) - r_now),
            d * (_at(state, _R, slot, age + 3) - r_now),
            e * (_at(state, _R, slot, age + 4) - r_now),
        )
    other = _spread(total, squares, 20.0)
    if spread <= _EPSILON or other <= _EPSILON:
        return 0.0
    return (products / 20.0 - lead * (total / 20.0)) / (spread * other)


@_jit
def _returns(state, slot, out):  # type: ignore[no-untyped-def]
    """Deviations of returns over five windows, their ratios, semideviations, lags."""
    now = state[_R + slot]
    total, squares, up, down = 0.0, 0.0, 0.0, 0.0
    rises, lead_20 = 0.0, 0.0
    for block in range(12):
        age = 5 * block
        x, x1 = _at(state, _R, slot, age), _at(state, _R, slot, age + 1)
        x2, x3 = _at(state, _R, slot, age + 2), _at(state, _R, slot, age + 3)
        x4 = _at(state, _R, slot, age + 4)
        a, b, c, d, e = x - now, x1 - now, x2 - now, x3 - now, x4 - now
        total += _sum_5(a, b, c, d, e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
        if block < 4:
            u, u1, u2, u3, u4 = _rise(x), _rise(x1), _rise(x2), _rise(x3), _rise(x4)
            up += _sum_5(u * u, u1 * u1, u2 * u2, u3 * u3, u4 * u4)
            w, w1, w2, w3, w4 = _rise(-x), _rise(-x1), _rise(-x2), _rise(-x3), _rise(-x4)
            down += _sum_5(w * w, w1 * w1, w2 * w2, w3 * w3, w4 * w4)
            rises += _rose(x) + _rose(x1) + _rose(x2) + _rose(x3) + _rose(x4)
            if block == 1:
                out[_UP] = rises / 10.0
            lead_20 = total / 20.0
        i = _R_OF_BLOCK[block]
        if i >= 0:
            out[_RV + i] = _nonzero(_spread(total, squares, age + 5.0), _EPSILON)
    out[_UP + 1] = rises / 20.0
    out[_VR] = _over(out[_RV], out[_RV + 2], 1.0)
    out[_VR + 1] = _over(out[_RV + 1], out[_RV + 3], 1.0)
    out[_VR + 2] = _over(out[_RV + 2], out[_RV + 4], 1.0)
    up, down = math.sqrt(up / 20.0), math.sqrt(down / 20.0)
    out[_SEMI] = up
    out[_SEMI + 1] = down
    out[_SEMI + 2] = _over(down - up, _nonzero(down + up, _EPSILON), 0.0)
    for i in range(8):
        out[_LAG + i] = _at(state, _R, slot, _LAGS[i])
    out[_PV_CORR] = _correlation(state, slot, lead_20, out[_RV + 2])
    return now + lead_20, now + total / 60.0


@_jit
def _memory(state, slot, n, mean, spread, magnitude):  # type: ignore[no-untyped-def]
    """Lag-1 autocorrelation of the last n returns, or of their magnitude, inside the window."""
    if spread <= _EPSILON:
        return 0.0
    products, squares, newer = 0.0, 0.0, 0.0
    for age in range(0, n, 5):
        a, b = _at(state, _R, slot, age), _at(state, _R, slot, age + 1)
        c, d = _at(state, _R, slot, age + 2), _at(state, _R, slot, age + 3)
        e = _at(state, _R, slot, age + 4)
        if magnitude:
            a, b, c, d, e = abs(a), abs(b), abs(c), abs(d), abs(e)
        a, b, c, d, e = a - mean, b - mean, c - mean, d - mean, e - mean
        products += _sum_5(newer * a, a * b, b * c, c * d, d * e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
        newer = e
    return products / squares


@_jit
def _magnitudes(state, slot, mean_20, mean_60, out):  # type: ignore[no-untyped-def]
    """Mean, deviation and memory of |r| over 20, and the memory of r over 20 and 60."""
    now = abs(state[_R + slot])
    total, squares = 0.0, 0.0
    for age in range(0, 20, 5):
        a = abs(_at(state, _R, slot, age)) - now
        b = abs(_at(state, _R, slot, age + 1)) - now
        c = abs(_at(state, _R, slot, age + 2)) - now
        d = abs(_at(state, _R, slot, age + 3)) - now
        e = abs(_at(state, _R, slot, age + 4)) - now
        total += _sum_5(a, b, c, d, e)
        squares += _sum_5(a * a, b * b, c * c, d * d, e * e)
    mean, spread = now + total / 20.0, _nonzero(_spread(total, squares, 20.0), _EPSILON)
    out[_ABS_AC] = _memory(state, slot, 20, mean, spread, True)
    out[_VOL_CLUSTER] = _over(spread, _nonzero(mean, _EPSILON), 0.0)
    out[_AC] = _memory(state, slot, 20, mean_20, out[_RV + 2], False)
    out[_AC + 1] = _memory(state, slot, 60, mean_60, out[_RV + 4], False)


@_jit
def _line(state, slot, n, rv, out, i):  # type: ignore[no-untyped-def]
    """Slope (in deviations of r) and R² of the least-squares line through ln C over n bars."""
    total, squares, tilt, d = 0.0, 0.0, 0.0, 0.0
    centre = 0.5 * (n - 1.0)
    for age in range(1, n):
        d -= _at(state, _R, slot, age - 1)  # ln C then, less ln C now
        total += d
        squares += d * d
        tilt += (centre - age) * d
    sxx = n * (n * n - 1.0) / 12.0
    out[_SLOPE + i] = _over(tilt / sxx, rv, 0.0)
    syy = squares - total * total / n
    flat = math.sqrt(syy / n) <= _EPSILON
    out[_R2 + i] = 0.0 if flat else tilt * tilt / (sxx * syy)


@_jit
def _recursions(state, bar, slot, bars, out):  # type: ignore[no-untyped-def]
    """EMAs, MACD, RSI, true range and directional movement."""
    high, low, close = bar[1], bar[2], bar[3]
    for i in range(8):
        if bars == 1.0:
            state[_EMA + i] = close
        else:
            state[_EMA + i] += _ALPHAS[i] * (close - state[_EMA + i])
        out[_EMA_DIST + i] = close / state[_EMA + i]
    out[_X_EMA] = state[_EMA] / state[_EMA + 3]
    out[_X_EMA + 1] = state[_EMA + 1] / state[_EMA + 6]
    out[_X_EMA + 2] = state[_EMA + 4] / state[_EMA + 7]
    line = (state[_EMA + 2] - state[_EMA + 5]) / close
    state[_SIGNAL] += _ALPHA_9 * (line - state[_SIGNAL])
    out[_MACD] = line
    out[_MACD + 1] = state[_SIGNAL]
    out[_MACD + 2] = line - state[_SIGNAL]
    if bars == 1.0:
        return
    previous, count = _at(state, _C, slot, 1), bars - 1.0
    change, forgotten = close - previous, _FORGOTTEN * close
    for i in range(6):
        period = _RSI[i]
        gain = _wilder(state[_GAIN + i], max(change, 0.0), count, period)
        loss = _wilder(state[_LOSS + i], max(-change, 0.0), count, period)
        state[_GAIN + i] = _nonzero(gain, forgotten)
        state[_LOSS + i] = _nonzero(loss, forgotten)
    true_range = max(high, previous) - min(low, previous)
    state[_ATR] = _wilder(state[_ATR], true_range, count, 10.0)
    state[_ATR + 1] = _wilder(state[_ATR + 1], true_range, count, 14.0)
    state[_ATR + 2] = _wilder(state[_ATR + 2], true_range, count, 20.0)
    up, down = high - _at(state, _H, slot, 1), _at(state, _L, slot, 1) - low
    limit = _EPSILON * close
    plus = up if up - down > limit and up > limit else 0.0
    minus = down if down - up > limit and down > limit else 0.0
    state[_PLUS_DM] = _nonzero(_wilder(state[_PLUS_DM], plus, count, 14.0), forgotten)
    state[_MINUS_DM] = _nonzero(_wilder(state[_MINUS_DM], minus, count, 14.0), forgotten)


@_jit
def _recursive_columns(state, close, bars, out):  # type: ignore[no-untyped-def]
    """What is made of Wilder's averages."""
    limit = _EPSILON * close
    for i in range(6):
        moves = _nonzero(state[_GAIN + i] + state[_LOSS + i], limit)
        share = _over(state[_GAIN + i], moves, 0.5)
        out[_RSI_5 + i] = 2.0 * share - 1.0
        if i == 3:
            out[_RSI_UNIT] = share
    atr_14 = _nonzero(state[_ATR + 1], limit)
    out[_ATR_14] = atr_14 / close
    out[_ATR_14 + 1] = _nonzero(state[_ATR + 2], limit) / close
    plus, minus = _over(state[_PLUS_DM], atr_14, 0.0), _over(state[_MINUS_DM], atr_14, 0.0)
    out[_PDI] = plus
    out[_MDI] = minus
    if bars >= 15.0:
        dx = _over(abs(plus - minus), _nonzero(plus + minus, _EPSILON), 0.0)
        state[_ADX] = _nonzero(_wilder(state[_ADX], dx, bars - 14.0, 14.0), _FORGOTTEN)
    out[_ADX_14] = state[_ADX]
    atr_10 = _nonzero(state[_ATR], _KELTNER_EPSILON * close)
    out[_KELTNER] = _over(close - state[_EMA + 4], 2.0 * atr_10, 0.0)


@_jit
def _extremes(state, slot, close, out):  # type: ignore[no-untyped-def]
    """Highest high and lowest low over six windows, and their ages; of equals the most recent."""
    high, low = state[_H + slot], state[_L + slot]
    high_age, low_age, age = 0, 0, 1
    limit = _EPSILON * close
    for i in range(6):
        window = _EXTREMES[i]
        while age < window:
            h, l = _at(state, _H, slot, age), _at(state, _L, slot, age)  # noqa: E741
            if h > high:
                high, high_age = h, age
            if l < low:
                low, low_age = l, age
            age += 1
        k = _over(close - low, _nonzero(high - low, limit), 0.5)
        if window == 14:
            out[_STOCH_K] = k
            out[_STOCH_D] = ((k + state[_K_1]) + state[_K_2]) / 3.0
            state[_K_2] = state[_K_1]
            state[_K_1] = k
        else:
            out[_STOCH + (i if i < 2 else i - 1)] = k
        j = _nth_of_10_20_60(window)
        if j >= 0:
            out[_HH + j] = close / high
            out[_LL + j] = close / low
            if j > 0:
                out[_AGE_HH + j - 1] = high_age / window
                out[_AGE_LL + j - 1] = low_age / window


@_jit
def _volumes(state, slot, bar, out):  # type: ignore[no-untyped-def]
    """Volume against its means, volume-weighted price, signed volume: sums to 10, 20 and 60."""
    close, volume = bar[3], bar[4]
    v, tpv, signed, traded = 0.0, 0.0, 0.0, 0.0
    volume_20, traded_20, mean_5, mean_20 = 0.0, 0.0, 0.0, 0.0
    for block in range(12):
        age = 5 * block
        a, b = _at(state, _V, slot, age), _at(state, _V, slot, age + 1)
        c, d = _at(state, _V, slot, age + 2), _at(state, _V, slot, age + 3)
        e = _at(state, _V, slot, age + 4)
        v += _sum_5(a, b, c, d, e)
        tpv += _sum_5(
            a * _at(state, _TP, slot, age),
            b * _at(state, _TP, slot, age + 1),
            c * _at(state, _TP, slot, age + 2),
            d * _at(state, _TP, slot, age + 3),
            e * _at(state, _TP, slot, age + 4),
        )
        signed += _sum(state, _SV, slot, age, 5)
        traded += _rose(a) + _rose(b) + _rose(c) + _rose(d) + _rose(e)
        if block == 0:
            mean_5 = v / 5.0
            out[_VOL_REL] = _volume_quotient(volume, mean_5)
        j = _nth_of_10_20_60(5 * block + 5)
        if j >= 0:
            mean = v / (5.0 * block + 5.0)
            out[_VOL_REL + 1 + j] = _volume_quotient(volume, mean)
            out[_VWAP + j] = close / (tpv / v) if v != 0.0 else 1.0
            out[_SVR + j] = _over(signed, v, 0.0)
            if j == 1:
                volume_20, traded_20, mean_20 = v, traded, mean
                out[_VOL_TR] = _volume_quotient(mean_5, mean_20)
            if j == 2:
                out[_VOL_TR + 1] = _volume_quotient(mean_20, mean)
    out[_VOLUME_RATIO] = _over(volume, mean_20, 1.0)
    out[_LOG_VOLUME_RATIO] = (1.0 + volume) / (1.0 + mean_20)
    return volume_20, traded_20


@_jit
def _flows(state, slot, bars, sums, out):  # type: ignore[no-untyped-def]
    """Money flows, illiquidity, force, and volume against its usual size."""
    volume_20, traded_20 = sums
    out[_CMF] = _over(_sum(state, _CV, slot, 0, 20), volume_20, 0.0)
    rising, falling = 0.0, 0.0
    for age in range(0, 15, 5):
        a, b = _at(state, _MF, slot, age), _at(state, _MF, slot, age + 1)
        c, d = _at(state, _MF, slot, age + 2), _at(state, _MF, slot, age + 3)
        e = _at(state, _MF, slot, age + 4) if age < 10 else 0.0  # 14 of them
        rising += _sum_5(_rise(a), _rise(b), _rise(c), _rise(d), _rise(e))
        falling += _sum_5(_rise(-a), _rise(-b), _rise(-c), _rise(-d), _rise(-e))
    out[_MFI] = _over(rising, rising + falling, 0.5)
    cost = _over(_sum(state, _AM, slot, 0, 20), traded_20, 0.0)
    if bars >= AMIHUD_SHOWN_AT and cost > 0.0:
        state[_AMIHUD] = cost
        state[_AMIHUD_SHOWN] = 1.0
    out[_AMIHUD_20] = state[_AMIHUD] if state[_AMIHUD_SHOWN] == 1.0 else 1.0
    force = state[_R + slot] * _over(state[_V + slot], volume_20 / 20.0, 1.0)
    if bars == 20.0:
        state[_FORCE] = force
    elif bars > 20.0:
        force = state[_FORCE] + _ALPHA_5 * (force - state[_FORCE])
        state[_FORCE] = force if abs(force) > _FORGOTTEN else 0.0
    out[_FORCE_5] = state[_FORCE]
    for i in range(2):
        lead, spread = _moments(state, _LV, slot, 20 + 40 * i)
        out[_VOL_Z + i] = _over(-lead, _nonzero(spread, _EPSILON), 0.0)


@_jit
def _ranges(state, slot, close, out):  # type: ignore[no-untyped-def]
    """Volatility from ranges, the z of the typical price, and the length of the run."""
    near = _sum(state, _HL, slot, 0, 10)
    middle = near + _sum(state, _HL, slot, 10, 10)
    far = middle + _sum(state, _HL, slot, 20, 40)
    out[_PARK] = math.sqrt(near / 10.0 / (4.0 * _LN_2))
    out[_PARK + 1] = math.sqrt(middle / 20.0 / (4.0 * _LN_2))
    out[_PARK + 2] = math.sqrt(far / 60.0 / (4.0 * _LN_2))
    out[_GK_20] = math.sqrt(_sum(state, _GK, slot, 0, 20) / 20.0)
    out[_RS_20] = math.sqrt(_sum(state, _RS, slot, 0, 20) / 20.0)
    lead, spread = _moments(state, _TP, slot, 20)
    out[_TP_Z] = _over(-lead, _nonzero(spread, _EPSILON * close), 0.0)
    r, run = state[_R + slot], state[_RUN]
    if r > 0.0:
        run = min(run + 1.0, float(RUN_MOST)) if run > 0.0 else 1.0
    elif r < 0.0:
        run = max(run - 1.0, -float(RUN_MOST)) if run < 0.0 else -1.0
    else:
        run = 0.0
    state[_RUN] = run
    out[_RUN_LEN] = _TANH[int(run)] if run >= 0.0 else -_TANH[int(-run)]


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
        state[_CLOSE_BEFORE] = _at(state, _C, slot, 1)
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
def _session(state, bar, slot, out):  # type: ignore[no-untyped-def]
    """Where the bar stands in its session; VWAP and its spread by West's update (1979)."""
    high, low, close, volume = bar[1], bar[2], bar[3], bar[4]
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
        d = (state[_TP + slot] - state[_ANCHOR]) - state[_LEAD]
        share = volume / state[_WEIGHT]
        state[_LEAD] += d * share
        state[_M2] += before * share * (d * d)  # nothing cancels, however uneven the volumes
    traded = state[_WEIGHT] > 0.0
    spread = math.sqrt(state[_M2] / state[_WEIGHT]) if traded else 0.0
    lead = (close - state[_ANCHOR]) - state[_LEAD]
    out[_VWAP_SESS] = close / (state[_ANCHOR] + state[_LEAD]) if traded else 1.0
    out[_VWAP_Z] = _over(lead, _nonzero(spread, _EPSILON * close), 0.0)
    out[_SESS_DRAWDOWN] = close / state[_HIGHEST]
    out[_SESS_RUNUP] = close / state[_LOWEST]
    begun = state[_RANGE_HIGH] > 0.0
    out[_OR_HIGH] = close / state[_RANGE_HIGH] if begun else 1.0
    out[_OR_LOW] = close / state[_RANGE_LOW] if begun else 1.0
    out[_SESS_RET] = close / state[_FIRST_OPEN]
    out[_OVERNIGHT] = _over(state[_FIRST_OPEN], state[_CLOSE_BEFORE], 1.0)
    j = min(_SLOTS - 1, int(24.0 * since / length))
    old = state[_OLD_COUNT + j]
    out[_TOD] = _volume_quotient(volume, state[_OLD_SUM + j] / old) if old > 0.0 else 1.0
    state[_SLOT_SUM + j] += volume
    state[_SLOT_COUNT + j] += 1.0
    fraction = min(1.0, (since + bar[_INTERVAL]) / length)
    out[_SESS_SIN], out[_SESS_SIN + 1] = sin_cos(fraction)
    out[_DOW_SIN], out[_DOW_SIN + 1] = sin_cos(bar[_WEEKDAY] / 7.0)
    out[_SESS_FRAC] = fraction


@_jit
def _step(state, bar, out):  # type: ignore[no-untyped-def]
    """Advance one series by one bar and write its row; NaN where a window is not whole yet."""
    close = bar[3]
    bars = state[_BARS] + 1.0
    slot = (int(bars) - 1) & (RING - 1)
    if bars == 1.0 or bar[_SESSION_OPEN] != state[_OPENED_AT]:
        _open_session(state, bar, slot, bars)
    _derive(state, bar, slot, bars)
    state[_BARS] = bars
    _geometry(state, bar, slot, out)
    _recursions(state, bar, slot, bars, out)
    _recursive_columns(state, close, bars, out)
    _closes(state, slot, close, out)
    _close_columns(close, out)
    mean_20, mean_60 = _returns(state, slot, out)
    _magnitudes(state, slot, mean_20, mean_60, out)
    _line(state, slot, 20, out[_RV + 2], out, 0)
    _line(state, slot, 60, out[_RV + 4], out, 1)
    _extremes(state, slot, close, out)
    _flows(state, slot, bars, _volumes(state, slot, bar, out), out)
    _ranges(state, slot, close, out)
    _session(state, bar, slot, out)
    for column in range(LOGS):
        out[column] = log(out[column])
    if bars < _LAST_READY_AT:
        for column in range(COLUMN_COUNT):
            if bars < _READY_AT[column]:
                out[column] = math.nan


_ROW, _ROWS, _INDEX = "float64[::1]", "float64[:, ::1]", "int64[::1]"
_RINGS = "float64[:, :, ::1]"


def _door(signature: str, *, nogil: bool):  # type: ignore[no-untyped-def]
    """Compile when the module is loaded, from the cache if it is there: never at the first bar."""
    return njit(signature, cache=True, error_model="numpy", fastmath=False, nogil=nogil)


@_door(f"void({_ROW}, {_ROW}, {_ROW})", nogil=False)
def step(state, bar, out):  # type: ignore[no-untyped-def]
    """One bar [BAR_WIDTH] of one series: `state` advances, `out` [columns] is its row.

    The interpreter lock is kept: giving it up for a microsecond would cost milliseconds when
    another thread is busy.
    """
    _step(state, bar, out)


@_door(f"void({_ROW}, {_ROWS}, {_ROWS})", nogil=True)
def history(state, bars, out):  # type: ignore[no-untyped-def]
    """All bars [n, BAR_WIDTH] of one series in order; row i of `out` [n, columns] is bar i's."""
    for i in range(bars.shape[0]):
        _step(state, bars[i], out[i])


@_door(f"void({_ROWS}, {_INDEX}, {_ROWS}, {_ROWS}, {_INDEX})", nogil=True)
def burst(states, series, bars, out, counts):  # type: ignore[no-untyped-def]
    """Bars [n, BAR_WIDTH] of many series in order; bar i moves row `series[i]` of `states`.

    `counts[i]` becomes the number of bars that its series has then seen.
    """
    for i in range(bars.shape[0]):
        state = states[series[i]]
        _step(state, bars[i], out[i])
        counts[i] = int(state[_BARS])


@_door(f"void({_RINGS}, {_INDEX}, {_INDEX}, {_ROWS}, {_INDEX}, {_RINGS})", nogil=True)
def push(rings, series, counts, rows, columns, windows):  # type: ignore[no-untyped-def]
    """Write each row's `columns` once into its series' ring and copy the window that ends there.

    `rings` [series, 2·length, columns] holds every row twice, `length` apart, so that a window
    of any size up to `length` is one contiguous run. `windows` is [n, window, columns], oldest
    row first.
    """
    length = rings.shape[1] // 2
    window = windows.shape[1]
    for i in range(series.shape[0]):
        ring = rings[series[i]]
        at = (counts[i] - 1) % length
        for j in range(columns.shape[0]):
            value = rows[i, columns[j]]
            ring[at, j] = value
            ring[at + length, j] = value
        windows[i] = ring[at + length + 1 - window : at + length + 1]


def new_states(series: int) -> NDArray[np.float64]:
    """State rows [series, STATE_WIDTH] that have seen no bar."""
    return np.zeros((series, STATE_WIDTH))


def matrix(bars: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rows [n, columns] of a whole history [n, BAR_WIDTH] of one series, all by `_step`."""
    out = np.empty((len(bars), COLUMN_COUNT))
    history(new_states(1)[0], np.ascontiguousarray(bars, dtype=np.float64), out)
    return out


def bars_seen(states: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many bars each state row [series, STATE_WIDTH] has seen."""
    return states[:, _BARS].astype(np.int64)


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
