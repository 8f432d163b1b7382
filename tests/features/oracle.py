"""Features recomputed from their definitions, one bar at a time.

The oracle of all three sets: written from the definitions alone, it shares nothing with the
kernel. Every window is read again from the raw history at each bar and summed exactly; only EMA
and Wilder run forward. Differences are taken before logarithms and squares, so that a spread
just above zero keeps its digits.
"""

import math
from collections.abc import Callable, Iterable, Sequence

from .oracle_terms import (
    Column,
    Now,
    OracleBar,
    Past,
    SessionRule,
    Table,
    above_mean,
    autocorrelation,
    centred,
    correlation,
    dot,
    ema,
    ln,
    lnq,
    mean,
    over,
    sign,
    wilder,
    z_score,
    zeroed,
)

S = "3 5 10 15 20 25 30 40 50 60"
E = "5 10 12 15 20 26 30 50"


def directional_move(n: Now, mine: float, other: float) -> float:
    return mine if n.less(other, mine) and n.less(0.0, mine) else 0.0


def directional(n: Now, name: str) -> float:
    return over(n.at(f"{name}_14"), zeroed(n.at("tr_14"), n.c), 0.0)


def directional_index(n: Now) -> float:
    plus, minus = directional(n, "pdm"), directional(n, "mdm")
    return over(abs(plus - minus), zeroed(plus + minus), 0.0)


def relative_strength(n: Now, period: int) -> float:
    gain, loss = n.at(f"gain_{period}"), n.at(f"loss_{period}")
    return over(gain, zeroed(gain + loss, n.c), 0.5)


def bollinger(n: Now) -> float:
    s = n.sd("close", 20)
    return over(above_mean(n.last("close", 20)) + 2 * s, 4 * s, 0.5)


def stochastic(n: Now, period: int) -> float:
    low = min(n.last("low", period))
    return over(n.c - low, zeroed(max(n.last("high", period)) - low, n.c), 0.5)


def semideviation(n: Now, side: int) -> float:
    return math.sqrt(mean([max(side * r, 0.0) ** 2 for r in n.last("r", 20)]))


def semi_asymmetry(n: Now) -> float:
    up, down = semideviation(n, 1), semideviation(n, -1)
    return over(down - up, zeroed(down + up), 0.0)


def keltner(n: Now) -> float:
    atr = n.at("tr_10")
    return 0.0 if atr <= 1e-8 * n.c else (n.c - n.at("ema_20")) / (2 * atr)


def age(newest_last: Sequence[float], extreme: Callable[[Iterable[float]], float]) -> float:
    return newest_last[::-1].index(extreme(newest_last)) / len(newest_last)


def efficiency(n: Now, period: int) -> float:
    path = math.fsum(map(abs, n.last("step", period)))
    return over(abs(n.c - n.at("close", period)), zeroed(path, n.c), 0.0)


def log_closes(n: Now, period: int) -> list[float]:
    """ln C of the window, measured from the newest."""
    return [ln(c, n.c) for c in n.last("close", period)]


def slope(n: Now, period: int) -> float:
    x = centred(range(period))
    return over(dot(x, log_closes(n, period)) / dot(x, x), n.sd("r", period), 0.0)


def run_length(n: Now) -> int:
    signs = [sign(r) for r in n.last("r", n.t)]
    return next((k for k in range(n.t) if signs[-1 - k] != signs[-1]), n.t) * signs[-1]


def log_volume_z(n: Now, period: int) -> float:
    return z_score([ln(v, n.v, add=1.0) for v in n.last("volume", period)])


def above_vwap(n: Now, period: int) -> float:
    """C − VWAP; 0 without volume, which makes each of its features neutral."""
    volumes = n.last("volume", period)
    return over(dot(volumes, [n.c - tp for tp in n.last("tp", period)]), math.fsum(volumes), 0.0)


def vwap_distance(n: Now, period: int) -> float:
    volumes = n.last("volume", period)
    return ln(n.c, over(dot(volumes, n.last("tp", period)), math.fsum(volumes), n.c))


def session_vwap_z(n: Now) -> float:
    seen = len(n.session())
    volumes, above = n.last("volume", seen), above_vwap(n, seen)
    squares = [(tp - (n.c - above)) ** 2 for tp in n.last("tp", seen)]
    sigma = math.sqrt(over(dot(volumes, squares), math.fsum(volumes), 0.0))
    return over(above, zeroed(sigma, n.c), 0.0)


def twenty_fourth(n: Now) -> int:
    opens, closes = n.past.sessions[n.t]
    return min(23, 24 * n.since_open_ms() // (closes - opens))


def time_of_day_volume(n: Now) -> float:
    first = n.session()[0]
    previous = Now(n.past, first - 1).session() if first > 0 else []
    bars = [Now(n.past, t) for t in previous]
    volumes = [bar.v for bar in bars if twenty_fourth(bar) == twenty_fourth(n)]
    return lnq(n.v, mean(volumes)) if volumes else 0.0


def volume_weighted(n: Now, weights: Iterable[float], period: int) -> float:
    volumes = n.last("volume", period)
    return over(dot(weights, volumes), math.fsum(volumes), 0.0)


def money_flow_index(n: Now) -> float:
    flows = n.last("flow", 14)
    return over(math.fsum(max(f, 0.0) for f in flows), math.fsum(map(abs, flows)), 0.5)


def typical_direction(n: Now) -> int:
    return n.less(n.at("tp", 1), n.at("tp")) - n.less(n.at("tp"), n.at("tp", 1))


def amihud(n: Now) -> float:
    """Of the newest bar, from bar 21 on, whose window has a positive mean; 0 if there is none."""
    for past in (Now(n.past, t) for t in range(n.t, 19, -1)):
        columns = (past.last(name, 20) for name in ("abs_r", "volume", "close"))
        terms = [r / (v * c) for r, v, c in zip(*columns, strict=True) if v > 0]
        if any(terms):
            return math.log(mean(terms))
    return 0.0


def engulfing(n: Now, side: int) -> float:
    o, c, o1, c1 = (side * x for x in (n.o, n.c, n.at("open", 1), n.at("close", 1)))
    return float(c > o and c1 < o1 and o <= c1 and c >= o1 and not (o == c1 and c == o1))


def session_fraction(n: Now) -> float:
    opens, closes = n.past.sessions[n.t]
    return min(1.0, (n.bar.open_time + n.bar.interval_ms - opens) / (closes - opens))


def opening_range(n: Now, name: str, extreme: Callable[[Iterable[float]], float]) -> float:
    bars = [Now(n.past, t) for t in n.session()]
    early = [b.at(name) for b in bars if b.since_open_ms() // b.bar.interval_ms < 30]
    return ln(n.c, extreme(early)) if early else 0.0


def overnight_gap(n: Now) -> float:
    first = n.session()[0]
    return ln(n.past.bars[first].open, n.past.bars[first - 1].close) if first > 0 else 0.0


def family(name: str, periods: str, after: int, column: Callable[..., float]) -> Table:
    """One column per period p, or per pair p/q; ready on bar p + after, or q + after."""

    def of(*period: int) -> Column:
        return lambda n: column(n, *period)

    each = [tuple(map(int, text.split("/"))) for text in periods.split()]
    return {name.format(*period): (period[-1] + after, of(*period)) for period in each}


SERIES: Table = {
    "tp": (1, lambda n: ((n.h + n.l) + n.c) / 3),
    "hl_square": (1, lambda n: ln(n.h, n.l) ** 2),
    "gk": (1, lambda n: n.at("hl_square") / 2 - (2 * math.log(2) - 1) * ln(n.c, n.o) ** 2),
    "rs": (1, lambda n: ln(n.h, n.c) * ln(n.h, n.o) + ln(n.l, n.c) * ln(n.l, n.o)),
    "r": (2, lambda n: ln(n.c, n.at("close", 1))),
    "abs_r": (2, lambda n: abs(n.at("r"))),
    "step": (2, lambda n: n.c - n.at("close", 1)),
    "gain": (2, lambda n: max(n.at("step"), 0.0)),
    "loss": (2, lambda n: max(-n.at("step"), 0.0)),
    "tr": (2, lambda n: max(n.h, n.at("close", 1)) - min(n.l, n.at("close", 1))),
    "up": (2, lambda n: n.h - n.at("high", 1)),
    "down": (2, lambda n: n.at("low", 1) - n.l),
    "pdm": (2, lambda n: directional_move(n, n.at("up"), n.at("down"))),
    "mdm": (2, lambda n: directional_move(n, n.at("down"), n.at("up"))),
    "flow": (2, lambda n: typical_direction(n) * n.at("tp") * n.v),
    "force": (20, lambda n: n.at("r") * over(n.v, n.sma("volume", 20), 1.0)),
}

TRANSFORMER: Table = {
    "ret_1": (2, lambda n: n.at("r")),
    "gap_1": (2, lambda n: ln(n.o, n.at("close", 1))),
    "oc_log": (1, lambda n: ln(n.c, n.o)),
    "hl_log": (1, lambda n: ln(n.h, n.l)),
    "upper_wick": (1, lambda n: over(n.upper, n.range, 0.0)),
    "lower_wick": (1, lambda n: over(n.lower, n.range, 0.0)),
    "clv": (1, lambda n: over(math.fsum((n.c, n.c, -n.h, -n.l)), n.range, 0.0)),
    "body_frac": (1, lambda n: over(n.body, n.range, 0.0)),
    "high_chg": (2, lambda n: ln(n.h, n.at("high", 1))),
    "low_chg": (2, lambda n: ln(n.l, n.at("low", 1))),
    "true_range_rel": (2, lambda n: n.at("tr") / n.at("close", 1)),
    "typical_chg": (2, lambda n: ln(n.at("tp"), n.at("tp", 1))),
    **family("ret_lag_{}", "1 2 3 4 5 6 8 10", 2, lambda n, k: n.at("r", k)),
    **family("mom_{}", S, 1, lambda n, p: ln(n.c, n.at("close", p))),
    **family("sma_dist_{}", S, 0, lambda n, p: ln(n.c, n.sma("close", p))),
    **family("sma_z_{}", S, 0, lambda n, p: z_score(n.last("close", p), n.c)),
    **family("ema_dist_{}", E, 0, lambda n, p: ln(n.c, n.at(f"ema_{p}"))),
    **family(
        "x_sma_{}_{}",
        "5/20 10/30 15/40 20/50 25/60",
        0,
        lambda n, p, q: ln(n.sma("close", p), n.sma("close", q)),
    ),
    **family(
        "x_ema_{}_{}",
        "5/15 10/30 20/50",
        0,
        lambda n, p, q: ln(n.at(f"ema_{p}"), n.at(f"ema_{q}")),
    ),
    "macd_line": (26, lambda n: n.at("macd")),
    "macd_signal": (34, lambda n: n.at("signal")),
    "macd_hist": (34, lambda n: n.at("macd") - n.at("signal")),
    **family("rv_{}", "5 10 20 30 60", 1, lambda n, p: n.sd("r", p)),
    **family(
        "park_{}", "10 20 60", 0, lambda n, p: math.sqrt(n.sma("hl_square", p) / math.log(16))
    ),
    "gk_20": (20, lambda n: math.sqrt(n.sma("gk", 20))),
    "rs_20": (20, lambda n: math.sqrt(n.sma("rs", 20))),
    **family(
        "vr_{}_{}", "5/20 10/30 20/60", 1, lambda n, p, q: over(n.sd("r", p), n.sd("r", q), 1.0)
    ),
    "semi_up_20": (21, lambda n: semideviation(n, 1)),
    "semi_dn_20": (21, lambda n: semideviation(n, -1)),
    "semi_asym_20": (21, semi_asymmetry),
    **family("atr_{}", "14 20", 1, lambda n, p: zeroed(n.at(f"tr_{p}"), n.c) / n.c),
    "absret_ac1_20": (21, lambda n: autocorrelation(n.last("abs_r", 20))),
    "vol_cluster_20": (21, lambda n: over(n.sd("abs_r", 20), zeroed(n.sma("abs_r", 20)), 0.0)),
    **family("bbw_{}", "10 20 50", 0, lambda n, p: 4 * n.sd("close", p) / n.sma("close", p)),
    "keltner_pos": (20, keltner),
    "squeeze_ratio": (
        21,
        lambda n: over(2 * n.sd("close", 20), 1.5 * zeroed(n.at("tr_20"), n.c), 0.0),
    ),
    **family("rsi_{}", "5 7 9 14 21 30", 1, lambda n, p: 2 * relative_strength(n, p) - 1),
    **family("stoch_{}", "5 10 20 30 60", 0, stochastic),
    "stoch_k_14": (14, lambda n: stochastic(n, 14)),
    "stoch_d_14_3": (16, lambda n: n.sma("stoch_k_14", 3)),
    **family("hh_{}", "10 20 60", 0, lambda n, p: ln(n.c, max(n.last("high", p)))),
    **family("ll_{}", "10 20 60", 0, lambda n, p: ln(n.c, min(n.last("low", p)))),
    **family("age_hh_{}", "20 60", 0, lambda n, p: age(n.last("high", p), max)),
    **family("age_ll_{}", "20 60", 0, lambda n, p: age(n.last("low", p), min)),
    "sess_drawdown": (1, lambda n: ln(n.c, max(n.last("high", len(n.session()))))),
    "sess_runup": (1, lambda n: ln(n.c, min(n.last("low", len(n.session()))))),
    "tp_z_20": (20, lambda n: z_score(n.last("tp", 20), n.c)),
    "adx_14": (28, lambda n: n.at("adx")),
    "pdi_14": (15, lambda n: directional(n, "pdm")),
    "mdi_14": (15, lambda n: directional(n, "mdm")),
    **family("er_{}", "10 20 60", 1, efficiency),
    "lr_slope_20": (21, lambda n: slope(n, 20)),
    "lr_r2_20": (20, lambda n: correlation(range(20), log_closes(n, 20)) ** 2),
    "lr_slope_60": (61, lambda n: slope(n, 60)),
    "lr_r2_60": (60, lambda n: correlation(range(60), log_closes(n, 60)) ** 2),
    **family("ret_ac1_{}", "20 60", 1, lambda n, p: autocorrelation(n.last("r", p))),
    **family("up_frac_{}", "10 20", 1, lambda n, p: sum(r > 0 for r in n.last("r", p)) / p),
    "run_len": (2, lambda n: math.tanh(run_length(n) / 5)),
    **family("vol_rel_{}", "5 10 20 60", 0, lambda n, p: lnq(n.v, n.sma("volume", p))),
    **family("vol_z_{}", "20 60", 0, log_volume_z),
    "vol_chg_1": (2, lambda n: ln(n.v, n.at("volume", 1), add=1.0)),
    **family(
        "vol_tr_{}_{}",
        "5/20 20/60",
        0,
        lambda n, p, q: lnq(n.sma("volume", p), n.sma("volume", q)),
    ),
    "vol_tod_rel": (1, time_of_day_volume),
    **family("vwap_dist_{}", "10 20 60", 0, vwap_distance),
    "vwap_dist_sess": (1, lambda n: vwap_distance(n, len(n.session()))),
    "vwap_z_sess": (1, session_vwap_z),
    **family(
        "svr_{}", "10 20 60", 1, lambda n, p: volume_weighted(n, map(sign, n.last("r", p)), p)
    ),
    "cmf_20": (20, lambda n: volume_weighted(n, n.last("clv", 20), 20)),
    "mfi_14": (15, money_flow_index),
    "pv_corr_20": (21, lambda n: correlation(n.last("r", 20), n.last("vol_chg_1", 20))),
    "amihud_20": (21, amihud),
    "force_ema_5": (24, lambda n: n.at("force_5")),
    "doji": (1, lambda n: float(n.less(n.body, 0.1 * (n.h - n.l)))),
    "hammer": (1, lambda n: float(n.less(2 * n.body, n.lower) and n.less(n.upper, n.body))),
    "shooting_star": (1, lambda n: float(n.less(2 * n.body, n.upper) and n.less(n.lower, n.body))),
    "engulf_bull": (2, lambda n: engulfing(n, 1)),
    "engulf_bear": (2, lambda n: engulfing(n, -1)),
    "inside_bar": (2, lambda n: float(n.h < n.at("high", 1) and n.l > n.at("low", 1))),
    "sess_sin": (1, lambda n: math.sin(2 * math.pi * session_fraction(n))),
    "sess_cos": (1, lambda n: math.cos(2 * math.pi * session_fraction(n))),
    "dow_sin": (1, lambda n: math.sin(2 * math.pi * n.past.weekdays[n.t] / 7)),
    "dow_cos": (1, lambda n: math.cos(2 * math.pi * n.past.weekdays[n.t] / 7)),
    "sess_frac": (1, session_fraction),
    "or_high_dist": (1, lambda n: opening_range(n, "high", max)),
    "or_low_dist": (1, lambda n: opening_range(n, "low", min)),
    "sess_ret": (1, lambda n: ln(n.c, n.past.bars[n.session()[0]].open)),
    "overnight_gap": (1, overnight_gap),
}

GRU: Table = {
    "gru9.log_return": (2, lambda n: n.at("r")),
    **family("gru9.sma_{}", "10 30", 0, lambda n, p: ln(n.c, n.sma("close", p))),
    "gru9.momentum_5": (6, lambda n: (n.c - n.at("close", 5)) / n.at("close", 5)),
    "gru9.rsi_14": (15, lambda n: relative_strength(n, 14)),
    "gru9.bollinger_20": (20, bollinger),
    "gru9.volume_ratio_20": (20, lambda n: over(n.v, n.sma("volume", 20), 1.0)),
    "gru9.high_low": (1, lambda n: (n.h - n.l) / n.c),
    "gru9.open_close": (1, lambda n: (n.c - n.o) / n.o),
}

PATCHTST: Table = {
    "patchtst8.log_return": (2, lambda n: n.at("r")),
    "patchtst8.log_high": (1, lambda n: ln(n.h, n.c)),
    "patchtst8.log_low": (1, lambda n: ln(n.l, n.c)),
    "patchtst8.log_volume_ratio": (20, lambda n: ln(n.v, n.sma("volume", 20), add=1.0)),
    "patchtst8.volatility_20": (21, lambda n: n.sd("r", 20)),
    "patchtst8.rsi_14": (15, lambda n: relative_strength(n, 14)),
    "patchtst8.macd": (26, lambda n: n.at("macd")),
    "patchtst8.momentum_10": (11, lambda n: ln(n.c, n.at("close", 10))),
}

COLUMNS: Table = TRANSFORMER | GRU | PATCHTST
READY: dict[str, int] = {name: ready for name, (ready, _) in COLUMNS.items()}


def smooth(past: Past) -> None:
    """The recursions, each from the first bar on which its input exists."""
    series = past.series
    for period in E.split():
        series[f"ema_{period}"] = ema(series["close"], int(period))
    past.add("macd", 1, lambda n: (n.at("ema_12") - n.at("ema_26")) / n.c)
    series["signal"] = ema(series["macd"], 9)
    for p in (5, 7, 9, 10, 14, 20, 21, 30):
        for name in ("gain", "loss", "tr", "pdm", "mdm"):
            series[f"{name}_{p}"] = wilder(series[name], p)
    past.add("dx", 15, directional_index)
    series["adx"] = wilder(series["dx"], 14, first=14)
    series["force_5"] = ema(series["force"], 5, first=19)


def rows(bars: Sequence[OracleBar], sessions: SessionRule) -> dict[str, list[float]]:
    """Every column's value at every bar, NaN before the bar on which it is ready."""
    past = Past(bars, sessions)
    for name, (ready, column) in SERIES.items():
        past.add(name, ready, column)
    smooth(past)
    for name, (ready, column) in COLUMNS.items():
        past.add(name, ready, column)
    return {name: past.series[name] for name in COLUMNS}
