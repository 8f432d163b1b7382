"""Thirty indicators that others have too, side by side: live, bar by bar, and over history."""

import importlib.metadata
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks import vectorised
from benchmarks.kernel import loop, paper_bars, steps
from benchmarks.measure import Timing, side_by_side
from quantum_ai_engine.features import kernel
from quantum_ai_engine.features.columns import AT, EVERYTHING, E, S, asked

WARM_UP, LIVE_BARS, LIVE_RUNS = 3_000, 1_000, 15
OFFLINE_BARS, OFFLINE_RUNS = 1_000_000, 7
TOLERANCE = 1e-9
LIST = (
    f"SMA {', '.join(map(str, S))}; EMA {', '.join(map(str, E))}; RSI 7, 14; ATR 14, 20; "
    "Bollinger 20; MACD 12/26/9; Stochastic 14/3; ADX 14 with both DI; ROC 10; Aroon 20; "
    "Donchian 20; Keltner 20/10"
)
THIRTY = (
    *(f"sma_dist_{p}" for p in S),
    *(f"ema_dist_{p}" for p in E),
    *("rsi_7", "gru9.rsi_14", "atr_14", "atr_20", "bollinger_20", "bbw_20", "mom_10"),
    *("macd_line", "macd_signal", "macd_hist", "stoch_k_14", "stoch_d_14_3"),
    *("adx_14", "pdi_14", "mdi_14", "age_hh_20", "age_ll_20", "hh_20", "ll_20", "keltner_pos"),
)
ASKED = {"all 30": asked(AT[name] for name in THIRTY), "all columns": EVERYTHING}
Bars = NDArray[np.float64]
Values = dict[str, float]
Update = Callable[[], object]


class Live(NamedTuple):
    """A library at work: `run` feeds the timed bars, `values` are some of its newest answers."""

    run: Update
    values: Callable[[], Values]
    computes: str
    columns: int


def section() -> str:
    """Text and tables of the page."""
    bars = paper_bars(OFFLINE_BARS)
    return "\n".join(
        [
            f"Thirty indicators: {LIST}. The kernel makes {len(THIRTY)} columns of them, as "
            "distances, positions and shares; it is here twice, asked for just those, and for all "
            f"of its {kernel.COLUMN_COUNT}. Its state, from which any column can be made at the "
            "next bar, advances whole in both. Ratios are to the first row: above 1 the kernel is "
            "faster. *Per value* divides by the number of output columns.",
            "",
            f"Live: the next bar of one symbol, called from Python, {LIVE_BARS:,} bars after "
            f"{WARM_UP:,}; inputs are ready in each library's own form, and its answers are not "
            "read (the kernel's are in its row). SMA, EMA, RSI and the Donchian channel of the "
            f"libraries that have them agree with the kernel's columns within {TOLERANCE:g} at the "
            "last bar, or there is no table.",
            "",
            "| live | computes | per bar | ratio | per value | ratio |",
            "|---|---|---|---|---|---|",
            *_live(bars[: WARM_UP + LIVE_BARS]),
            "",
            f"Offline: {OFFLINE_BARS:,} bars of one symbol at once, one thread.",
            "",
            "| offline | computes | per bar | ratio | per value | ratio |",
            "|---|---|---|---|---|---|",
            *_offline(bars),
        ]
    )


def _version(package: str) -> str:
    return f"{package} {importlib.metadata.version(package)}"


def _live(bars: Bars) -> list[str]:
    makers: dict[str, tuple[str, Callable[[Bars], Live]]] = {
        "TA-Lib": ("stream handles", _talib),
        "nautilus_trader": ("`update_raw`", _nautilus),
        "river": ("`update`", _river),
        "talipp": ("`add`", _talipp),
    }
    works: dict[str, Live] = {}
    missing = []
    for package, (how, make) in makers.items():
        try:
            works[f"{_version(package)}, {how}"] = make(bars)
        except ImportError as error:
            missing.append(_missing(package, error))
    ours = [steps(bars[WARM_UP:], LIVE_BARS, bits) for bits in ASKED.values()]
    timings = side_by_side([*ours, *(w.run for w in works.values())], LIVE_BARS, LIVE_RUNS)
    _check(bars, works)
    rows = _ours("**the kernel**", timings)
    for (name, work), timing in zip(works.items(), timings[len(ours) :], strict=True):
        rows.append(_row(name, work.computes, work.columns, timing, timings[0]))
    return rows + missing


def _ours(name: str, timings: list[Timing]) -> list[str]:
    """The kernel's rows of a table."""
    counts = len(THIRTY), kernel.COLUMN_COUNT
    return [
        _row(name, what, columns, timing, timings[0])
        for what, columns, timing in zip(ASKED, counts, timings, strict=False)
    ]


def _row(name: str, computes: str, columns: int, timing: Timing, base: Timing) -> str:
    """A row of a table: raw, and per output column."""
    raw = timing.median_s / base.median_s
    return (
        f"| {name} | {computes}: {columns} values | {timing.show('ns')} | {raw:.3g} × | "
        f"{timing.median_s * 1e9 / columns:.3g} ns | {raw * len(THIRTY) / columns:.3g} × |"
    )


def _missing(package: str, error: ImportError) -> str:
    return f"| {package} | missing here: {error} | – | – | – | – |"


def _check(bars: Bars, works: dict[str, Live]) -> None:
    """Refuse to compare speeds of libraries that compute something else."""
    timed = np.tile(bars[WARM_UP:], (LIVE_RUNS + 1, 1))  # the warm-up run is fed too
    row = kernel.matrix(np.concatenate([bars[:WARM_UP], timed]))[-1]
    close = bars[-1, 3]
    ours = {
        "sma_20": close / math.exp(row[AT["sma_dist_20"]]),
        "ema_20": close / math.exp(row[AT["ema_dist_20"]]),
        "rsi_14": row[AT["gru9.rsi_14"]],
        "high_20": close / math.exp(row[AT["hh_20"]]),
    }
    for name, work in works.items():
        for what, value in work.values().items():
            if not math.isclose(value, ours[what], rel_tol=TOLERANCE):
                raise ArithmeticError(f"{what} of {name} is {value}, the kernel's is {ours[what]}")


def _prices(bars: Bars) -> list[tuple[float, float, float]]:
    rows: list[tuple[float, float, float]] = [tuple(row) for row in bars[:, 1:4].tolist()]
    return rows


def _talib_handles(bars: Bars) -> tuple[list[Any], list[Any], list[Any]]:
    """Handles that take (close), (high, low) and (high, low, close), after all `bars`."""
    from talib import stream as s

    h, l, c = (np.ascontiguousarray(bars[:, i]) for i in (1, 2, 3))  # noqa: E741
    of_close = [
        *(s.SMA(c, timeperiod=p) for p in S),
        *(s.EMA(c, timeperiod=p) for p in E),
        *(s.RSI(c, timeperiod=p) for p in (7, 14)),
        s.BBANDS(c, timeperiod=20),
        s.MACD(c),
        s.ROC(c, timeperiod=10),
    ]
    of_range = [s.DONCHIAN(h, l, timeperiod=20), s.AROON(h, l, timeperiod=20)]
    of_bar = [
        *(s.ATR(h, l, c, timeperiod=p) for p in (14, 20)),
        s.STOCHF(h, l, c, fastk_period=14, fastd_period=3),
        *(f(h, l, c, timeperiod=14) for f in (s.ADX, s.PLUS_DI, s.MINUS_DI)),
        s.KC(h, l, c, timeperiod=20, atrperiod=10),
    ]
    return of_close, of_range, of_bar


def _talib(bars: Bars) -> Live:
    of_close, of_range, of_bar = _talib_handles(bars[:WARM_UP])
    prices = _prices(bars[WARM_UP:])
    by_close, by_range, by_bar = (
        [handle.update for handle in group] for group in (of_close, of_range, of_bar)
    )

    def run() -> None:
        for high, low, close in prices:
            for update in by_close:
                update(close)
            for update in by_range:
                update(high, low)
            for update in by_bar:
                update(high, low, close)

    def values() -> Values:
        return {
            "sma_20": of_close[S.index(20)].value,
            "ema_20": of_close[len(S) + E.index(20)].value,
            "rsi_14": of_close[len(S) + len(E) + 1].value / 100.0,
            "high_20": of_range[0].value[0],
        }

    handles = len(of_close) + len(of_range) + len(of_bar)
    return Live(run, values, f"all 30 by {handles} handles", 42)


def _nautilus(bars: Bars) -> Live:
    from nautilus_trader import indicators as n

    wilder = n.MovingAverageType.WILDER
    sma, ema = n.SimpleMovingAverage(20), n.ExponentialMovingAverage(20)
    rsi, donchian = n.RelativeStrengthIndex(14, wilder), n.DonchianChannel(20)
    of_close = [
        sma,
        *(n.SimpleMovingAverage(p) for p in S if p != 20),
        ema,
        *(n.ExponentialMovingAverage(p) for p in E if p != 20),
        n.RelativeStrengthIndex(7, wilder),
        rsi,
        n.MovingAverageConvergenceDivergence(12, 26),
        n.ExponentialMovingAverage(9),  # MACD has no signal line there; an EMA costs the same
        n.RateOfChange(10),
    ]
    of_range = [donchian, n.AroonOscillator(20), n.DirectionalMovement(14, wilder)]
    of_bar = [
        *(n.AverageTrueRange(p, wilder) for p in (14, 20)),
        n.BollingerBands(20, 2.0),
        n.Stochastics(14, 3),
        n.KeltnerChannel(20, 2.0, n.MovingAverageType.EXPONENTIAL, wilder),
    ]
    by_close, by_range, by_bar = (
        [indicator.update_raw for indicator in group] for group in (of_close, of_range, of_bar)
    )

    def feed(prices: Sequence[tuple[float, float, float]]) -> None:
        for high, low, close in prices:
            for update in by_close:
                update(close)
            for update in by_range:
                update(high, low)
            for update in by_bar:
                update(high, low, close)

    def values() -> Values:
        return {
            "sma_20": sma.value,
            "ema_20": ema.value,
            "rsi_14": rsi.value,
            "high_20": donchian.upper,
        }

    feed(_prices(bars[:WARM_UP]))
    prices = _prices(bars[WARM_UP:])
    return Live(lambda: feed(prices), values, "all 30, ±DM in place of ADX and DI", 40)


def _talipp(bars: Bars) -> Live:
    from talipp import indicators as t
    from talipp.ohlcv import OHLCV

    sma, ema, rsi, donchian = t.SMA(20), t.EMA(20), t.RSI(14), t.DonchianChannels(20)
    of_close = [
        sma,
        *(t.SMA(p) for p in S if p != 20),
        ema,
        *(t.EMA(p) for p in E if p != 20),
        t.RSI(7),
        rsi,
        t.BB(20, 2.0),
        t.MACD(12, 26, 9),
        t.ROC(10),
    ]
    of_bar = [
        donchian,
        *(t.ATR(p) for p in (14, 20)),
        t.Stoch(14, 3),
        t.ADX(14, 14),
        t.Aroon(20),
        t.KeltnerChannels(20, 10, 2.0, 2.0),
    ]
    by_close, by_bar = ([i.add for i in group] for group in (of_close, of_bar))

    def ready(part: Bars) -> list[tuple[float, object]]:
        return [(row[3], OHLCV(*row)) for row in part[:, :5].tolist()]

    def feed(inputs: Sequence[tuple[float, object]]) -> None:
        for close, bar in inputs:
            for add in by_close:
                add(close)
            for add in by_bar:
                add(bar)

    def values() -> Values:
        return {
            "sma_20": sma[-1],
            "ema_20": ema[-1],
            "rsi_14": rsi[-1] / 100.0,
            "high_20": donchian[-1].ub,
        }

    feed(ready(bars[:WARM_UP]))
    inputs = ready(bars[WARM_UP:])
    return Live(lambda: feed(inputs), values, "all 30", 42)


def _river(bars: Bars) -> Live:
    from river import stats, utils

    sma: Any = utils.Rolling(stats.Mean(), 20)  # a wrapper without the types of what it wraps
    ema, high = stats.EWMean(2.0 / 21.0), stats.RollingMax(20)
    of_close: list[Any] = [
        sma,
        *(utils.Rolling(stats.Mean(), p) for p in S if p != 20),
        ema,
        *(stats.EWMean(2.0 / (p + 1)) for p in E if p != 20),
        utils.Rolling(stats.Var(ddof=0), 20),
        stats.Shift(10),
    ]
    by_close = [statistic.update for statistic in of_close]
    by_high = [high.update, stats.RollingMax(14).update]
    by_low = [stats.RollingMin(20).update, stats.RollingMin(14).update]

    def feed(prices: Sequence[tuple[float, float, float]]) -> None:
        for highest, lowest, close in prices:
            for update in by_close:
                update(close)
            for update in by_high:
                update(highest)
            for update in by_low:
                update(lowest)

    def values() -> Values:
        return {"sma_20": sma.get(), "ema_20": ema.get(), "high_20": high.get() or math.nan}

    feed(_prices(bars[:WARM_UP]))
    prices = _prices(bars[WARM_UP:])
    return Live(
        lambda: feed(prices),
        values,
        "22 of 30: SMA, EMA, what Bollinger, ROC, Donchian, Stochastic %K are made of",
        24,
    )


def _offline(bars: Bars) -> list[str]:
    works: dict[str, tuple[Update, str, int]] = {}
    missing = []
    for package, make in vectorised.MAKERS.items():
        try:
            works[_version(package)] = make(bars)
        except ImportError as error:
            missing.append(_missing(package, error))
    ours = [loop(bars, bits) for bits in ASKED.values()]
    every = [*ours, *(work for work, _, _ in works.values())]
    timings = side_by_side(every, len(bars), OFFLINE_RUNS)
    theirs = zip(works.items(), timings[len(ours) :], strict=True)
    return [
        *_ours("**the kernel**, rows reused", timings),
        *(_row(name, what, n, timing, timings[0]) for (name, (_, what, n)), timing in theirs),
        *missing,
    ]
