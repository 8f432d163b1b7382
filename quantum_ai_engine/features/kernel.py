"""The one feature kernel: live bars, bursts, history and training all run `step`.

The state of a series is one flat float64 row. Windows are small rings, read newest to oldest at
each bar; price windows are shifted by the newest value, so that no error accumulates and a row
depends on the last bars of its longest window only. Recursions (EMA, Wilder) contract, so that a
state fed enough history equals one that never stopped.

The same bits come from the loop, the burst and the single step because nothing here calls libm or
a numpy ufunc, `fastmath` is off and the compiler contracts nothing into fused operations.

Everything compiled is in this one file: the compiler's cache notices changes by file.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

KERNEL_VERSION = 1

# Column name and the bar, counted from 1, at which its whole window has been seen.
COLUMNS: tuple[tuple[str, int], ...] = (
    ("log_return", 2),
    ("sma_10", 10),
    ("sma_30", 30),
    ("momentum_5", 6),
    ("rsi_14", 15),
    ("bollinger_20", 20),
    ("volume_ratio_20", 20),
    ("high_low", 1),
    ("open_close", 1),
    ("log_high", 1),
    ("log_low", 1),
    ("log_volume_ratio", 20),
    ("volatility_20", 21),
    ("macd", 26),
    ("momentum_10", 11),
)
COLUMN_COUNT = len(COLUMNS)
FIELDS = ("open", "high", "low", "close", "volume")

# The state row: bars seen, the recursions, then three rings of RING values each.
_BARS, _EMA_12, _EMA_26, _GAIN, _LOSS = 0, 1, 2, 3, 4
_HEADER, _RING = 8, 32
_CLOSES, _RETURNS, _VOLUMES = _HEADER, _HEADER + _RING, _HEADER + 2 * _RING
STATE_WIDTH = _HEADER + 3 * _RING

_EPSILON = 1e-10  # a spread at or below this share of its scale counts as zero
_ALPHA_12, _ALPHA_26 = 2.0 / 13.0, 2.0 / 27.0
_READY_AT = np.array([ready_at for _, ready_at in COLUMNS], dtype=np.float64)
_LAST_READY_AT = float(_READY_AT.max())

# fdlibm's natural logarithm (Sun Microsystems 1993, e_log.c): below 1 ulp, the same everywhere.
_LN2_HIGH, _LN2_LOW = 6.93147180369123816490e-01, 1.90821492927058770002e-10
_LG1, _LG2, _LG3, _LG4 = (
    0.6666666666666735130,
    0.3999999999940941908,
    0.2857142874366239149,
    0.2222219843214978396,
)
_LG5, _LG6, _LG7 = 0.1818357216161805012, 0.1531383769920937332, 0.1479819860511658591

_jit = njit(cache=True, error_model="numpy", fastmath=False)


@_jit
def log(x):  # type: ignore[no-untyped-def]  # compiled for float64 alone
    """Natural logarithm of a positive normal number, without libm."""
    bits = np.float64(x).view(np.int64)
    high = bits >> 32
    k = (high >> 20) - 1023
    high &= 0x000FFFFF
    above_root_2 = (high + 0x95F64) & 0x100000
    fraction_bits = (bits & 0xFFFFFFFF) | ((high | (above_root_2 ^ 0x3FF00000)) << 32)
    f = np.int64(fraction_bits).view(np.float64) - 1.0
    k += above_root_2 >> 20
    dk = float(k)
    if (0x000FFFFF & (2 + high)) < 3:  # |f| < 2^-20
        if f == 0.0:
            return dk * _LN2_HIGH + dk * _LN2_LOW
        r = f * f * (0.5 - 0.33333333333333333 * f)
        return dk * _LN2_HIGH - ((r - dk * _LN2_LOW) - f)
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    r = z * (_LG1 + w * (_LG3 + w * (_LG5 + w * _LG7))) + w * (_LG2 + w * (_LG4 + w * _LG6))
    if ((high - 0x6147A) | (0x6B851 - high)) > 0:
        half_square = 0.5 * f * f
        return dk * _LN2_HIGH - ((half_square - (s * (half_square + r) + dk * _LN2_LOW)) - f)
    return dk * _LN2_HIGH - ((s * (f - r) - dk * _LN2_LOW) - f)


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
def _recur(state, bars, close, change):  # type: ignore[no-untyped-def]
    """Advance the recursions by one bar; `change` is close − previous close (bar 2 on)."""
    if bars == 1.0:
        state[_EMA_12] = close
        state[_EMA_26] = close
        return
    state[_EMA_12] += _ALPHA_12 * (close - state[_EMA_12])
    state[_EMA_26] += _ALPHA_26 * (close - state[_EMA_26])
    state[_GAIN] = _wilder(state[_GAIN], max(change, 0.0), bars - 1.0, 14.0)
    state[_LOSS] = _wilder(state[_LOSS], max(-change, 0.0), bars - 1.0, 14.0)


@_jit
def _price_columns(state, slot, close, out):  # type: ignore[no-untyped-def]
    """One backward scan of the closes: SMA 10 and 30, mean and deviation over 20."""
    total, squares = 0.0, 0.0
    mean_20, deviation_20 = 0.0, 0.0
    for age in range(30):
        d = state[_CLOSES + ((slot - age) & (_RING - 1))] - close
        total += d
        squares += d * d
        if age == 9:
            out[1] = log(close / (close + total / 10.0))
        elif age == 19:
            mean_20 = close + total / 20.0
            deviation_20 = math.sqrt((squares - total * total / 20.0) / 20.0)
    out[2] = log(close / (close + total / 30.0))
    if deviation_20 <= _EPSILON * close:
        out[5] = 0.5
    else:
        out[5] = (close - (mean_20 - 2.0 * deviation_20)) / (4.0 * deviation_20)


@_jit
def _flow_columns(state, slot, volume, out):  # type: ignore[no-untyped-def]
    """One backward scan of volumes (all non-negative: nothing cancels) and of returns."""
    newest = state[_RETURNS + slot]
    volumes, total, squares = 0.0, 0.0, 0.0
    for age in range(20):
        at = (slot - age) & (_RING - 1)
        volumes += state[_VOLUMES + at]
        d = state[_RETURNS + at] - newest
        total += d
        squares += d * d
    mean_volume = volumes / 20.0
    out[6] = volume / mean_volume if volumes > 0.0 else 1.0
    out[11] = log((1.0 + volume) / (1.0 + mean_volume))
    deviation = math.sqrt((squares - total * total / 20.0) / 20.0)
    out[12] = deviation if deviation > _EPSILON else 0.0


@_jit
def _step(state, bar, out):  # type: ignore[no-untyped-def]
    """Advance one series by one bar and write its row; NaN where a window is not whole yet."""
    opened, high, low, close, volume = bar[0], bar[1], bar[2], bar[3], bar[4]
    bars = state[_BARS] + 1.0
    slot = (int(bars) - 1) & (_RING - 1)
    previous = state[_CLOSES + ((slot - 1) & (_RING - 1))]
    close_5 = state[_CLOSES + ((slot - 5) & (_RING - 1))]
    close_10 = state[_CLOSES + ((slot - 10) & (_RING - 1))]

    log_return = log(close / previous) if bars > 1.0 else 0.0
    _recur(state, bars, close, close - previous)
    state[_BARS] = bars
    state[_CLOSES + slot] = close
    state[_RETURNS + slot] = log_return
    state[_VOLUMES + slot] = volume

    out[0] = log_return
    _price_columns(state, slot, close, out)
    _flow_columns(state, slot, volume, out)
    out[3] = close / close_5 - 1.0
    moves = state[_GAIN] + state[_LOSS]
    out[4] = state[_GAIN] / moves if moves > _EPSILON * close else 0.5
    out[7] = (high - low) / close
    out[8] = (close - opened) / opened
    out[9] = log(high / close)
    out[10] = log(low / close)
    out[13] = (state[_EMA_12] - state[_EMA_26]) / close
    out[14] = log(close / close_10)
    if bars < _LAST_READY_AT:
        for column in range(COLUMN_COUNT):
            if bars < _READY_AT[column]:
                out[column] = math.nan


_ROW, _ROWS, _INDEX = "float64[::1]", "float64[:, ::1]", "int64[::1]"


@njit(f"void({_ROW}, {_ROW}, {_ROW})", cache=True, error_model="numpy")
def step(state, bar, out):  # type: ignore[no-untyped-def]
    """One bar of one series: `state` [STATE_WIDTH] advances, `out` [columns] is its row.

    `bar` is (open, high, low, close, volume). The interpreter lock is kept: giving it up for a
    microsecond would cost milliseconds when another thread is busy.
    """
    _step(state, bar, out)


@njit(f"void({_ROW}, {_ROWS}, {_ROWS})", cache=True, error_model="numpy", nogil=True)
def history(state, bars, out):  # type: ignore[no-untyped-def]
    """All bars [n, 5] of one series in order; row i of `out` [n, columns] belongs to bar i."""
    for i in range(bars.shape[0]):
        _step(state, bars[i], out[i])


@njit(
    f"void({_ROWS}, {_INDEX}, {_ROWS}, {_ROWS}, {_INDEX})",
    cache=True,
    error_model="numpy",
    nogil=True,
)
def burst(states, series, bars, out, counts):  # type: ignore[no-untyped-def]
    """Bars [n, 5] of many series in order; `series[i]` names the row of `states` that bar i moves.

    `counts[i]` becomes the number of bars that its series has then seen.
    """
    for i in range(bars.shape[0]):
        state = states[series[i]]
        _step(state, bars[i], out[i])
        counts[i] = int(state[_BARS])


@njit(
    f"void(float64[:, :, ::1], {_INDEX}, {_INDEX}, {_ROWS}, {_INDEX}, float64[:, :, ::1])",
    cache=True,
    error_model="numpy",
    nogil=True,
)
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
    """The rows [n, columns] of a whole history [n, 5] of one series, through the same `step`.

    >>> matrix(np.array([[1.0, 2.0, 1.0, 2.0, 5.0]]))[0, 8]
    np.float64(1.0)
    """
    out = np.empty((len(bars), COLUMN_COUNT))
    history(new_states(1)[0], np.ascontiguousarray(bars, dtype=np.float64), out)
    return out
