"""The thirty indicators over a whole history: TA-Lib's functions, pandas, polars."""

import os
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.columns import E, S

Bars = NDArray[np.float64]
Work = tuple[Callable[[], object], str, int]  # what to time, what it computes, how many columns
os.environ["POLARS_MAX_THREADS"] = "1"  # read when polars is first imported, by whomever


def _talib(bars: Bars) -> Work:
    import talib

    h, l, c = (np.ascontiguousarray(bars[:, i]) for i in (1, 2, 3))  # noqa: E741

    def work() -> list[object]:
        return [
            *(talib.SMA(c, timeperiod=p) for p in S),
            *(talib.EMA(c, timeperiod=p) for p in E),
            *(talib.RSI(c, timeperiod=p) for p in (7, 14)),
            *(talib.ATR(h, l, c, timeperiod=p) for p in (14, 20)),
            talib.BBANDS(c, timeperiod=20),
            talib.MACD(c),
            talib.STOCHF(h, l, c, fastk_period=14, fastd_period=3),
            *(f(h, l, c, timeperiod=14) for f in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)),
            talib.ROC(c, timeperiod=10),
            talib.AROON(h, l, timeperiod=20),
            talib.DONCHIAN(h, l, timeperiod=20),
            talib.KC(h, l, c, timeperiod=20, atrperiod=10),
        ]

    return work, "all 30", 42


def _pandas(bars: Bars) -> Work:
    import pandas as pd

    h, l, c = (pd.Series(np.ascontiguousarray(bars[:, i])) for i in (1, 2, 3))  # noqa: E741

    def ema(x: pd.Series, period: int) -> pd.Series:
        return x.ewm(span=period, adjust=False).mean()

    def wilder(x: pd.Series, period: int) -> pd.Series:
        return x.ewm(alpha=1.0 / period, adjust=False).mean()

    def rsi(period: int) -> pd.Series:
        change = c.diff()
        gain, loss = wilder(change.clip(lower=0), period), wilder(-change.clip(upper=0), period)
        return gain / (gain + loss)

    def directions(atr: pd.Series) -> list[pd.Series]:
        up, down = h.diff(), -l.diff()
        plus = wilder(up.where((up > down) & (up > 0), 0.0), 14) / atr
        minus = wilder(down.where((down > up) & (down > 0), 0.0), 14) / atr
        return [plus, minus, wilder((plus - minus).abs() / (plus + minus), 14)]

    def work() -> list[pd.Series]:
        before = c.shift()
        true_range = np.maximum(h, before) - np.minimum(l, before)
        atr, middle, spread = wilder(true_range, 14), c.rolling(20).mean(), c.rolling(20).std()
        high, low, base = h.rolling(20).max(), l.rolling(20).min(), ema(c, 20)
        line = ema(c, 12) - ema(c, 26)
        lowest = l.rolling(14).min()
        k = (c - lowest) / (h.rolling(14).max() - lowest)
        width = 2.0 * wilder(true_range, 10)
        return [
            *(c.rolling(p).mean() for p in S),
            *(ema(c, p) for p in E),
            *(rsi(p) for p in (7, 14)),
            *(atr, wilder(true_range, 20)),
            *(middle, middle + 2.0 * spread, middle - 2.0 * spread),
            *(line, ema(line, 9), line - ema(line, 9)),
            *(k, k.rolling(3).mean()),
            *directions(atr),
            c / c.shift(10) - 1.0,
            *(high, low, (high + low) / 2.0),
            *(base, base + width, base - width),
        ]

    return work, "29 of 30 (no Aroon)", 40


def _polars(bars: Bars) -> Work:
    import polars as pl

    frame = pl.DataFrame({name: bars[:, i] for name, i in (("h", 1), ("l", 2), ("c", 3))}).lazy()
    h, l, c = pl.col("h"), pl.col("l"), pl.col("c")  # noqa: E741

    def ema(x: pl.Expr, period: int) -> pl.Expr:
        return x.ewm_mean(span=period, adjust=False)

    def wilder(x: pl.Expr, period: int) -> pl.Expr:
        return x.ewm_mean(alpha=1.0 / period, adjust=False)

    def rsi(period: int) -> pl.Expr:
        rises, falls = c.diff().clip(0.0, None), -c.diff().clip(None, 0.0)
        gain, loss = wilder(rises, period), wilder(falls, period)
        return gain / (gain + loss)

    def direction(there: pl.Expr, back: pl.Expr) -> pl.Expr:
        moved = pl.when((there > back) & (there > 0)).then(there).otherwise(0.0)
        return wilder(moved, 14) / wilder(true_range, 14)

    true_range = pl.max_horizontal(h, c.shift()) - pl.min_horizontal(l, c.shift())
    up, down = h.diff(), -l.diff()
    plus, minus = direction(up, down), direction(down, up)
    middle, spread = c.rolling_mean(20), c.rolling_std(20)
    high, low, base = h.rolling_max(20), l.rolling_min(20), ema(c, 20)
    line, width = ema(c, 12) - ema(c, 26), 2.0 * wilder(true_range, 10)
    k = (c - l.rolling_min(14)) / (h.rolling_max(14) - l.rolling_min(14))
    columns = [
        *(c.rolling_mean(p) for p in S),
        *(ema(c, p) for p in E),
        *(rsi(p) for p in (7, 14)),
        *(wilder(true_range, p) for p in (14, 20)),
        *(middle, middle + 2.0 * spread, middle - 2.0 * spread),
        *(line, ema(line, 9), line - ema(line, 9)),
        *(k, k.rolling_mean(3)),
        *(plus, minus, wilder((plus - minus).abs() / (plus + minus), 14)),
        c / c.shift(10) - 1.0,
        *(high, low, (high + low) / 2.0),
        *(base, base + width, base - width),
    ]
    query = frame.select(column.alias(str(i)) for i, column in enumerate(columns))
    return query.collect, "29 of 30 (no Aroon)", 40


MAKERS: dict[str, Callable[[Bars], Work]] = {
    "TA-Lib": _talib,
    "polars": _polars,
    "pandas": _pandas,
}
