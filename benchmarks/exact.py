"""Every column of the kernel once more, from its definition, in decimals of 40 digits.

Slow and plain: nothing is rolled, every window is summed anew. Recursions begin with the first
bar given, so give enough of them to have forgotten it.
"""

from collections.abc import Callable, Sequence
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.columns import EMA_PAIRS, LAGS, RSI, SMA_PAIRS, E, S

DIGITS = 40
ZERO, ONE, HALF, EPSILON = Decimal(0), Decimal(1), Decimal("0.5"), Decimal("1e-10")
NO_VALUE = Decimal("NaN")
PI = Decimal("3.1415926535897932384626433832795028841971693993751")
Series = list[Decimal]
Columns = dict[str, Decimal]


def columns_at(bars: NDArray[np.float64], newest: int) -> list[Columns]:
    """The columns at each of the newest bars of `bars` [n, BAR_WIDTH]."""
    with localcontext() as context:
        context.prec = DIGITS
        exact = _Exact(bars)
        return [exact.columns(t) for t in range(len(bars) - newest, len(bars))]


def _mean(x: Sequence[Decimal]) -> Decimal:
    return sum(x, ZERO) / len(x)


def _sd(x: Sequence[Decimal]) -> Decimal:
    mean = _mean(x)
    return _mean([(a - mean) ** 2 for a in x]).sqrt()


def _over(a: Decimal, b: Decimal, neutral: Decimal = ZERO) -> Decimal:
    return a / b if b else neutral


def _nonzero(spread: Decimal, limit: Decimal = EPSILON) -> Decimal:
    return spread if spread > limit else ZERO


def _lnq(a: Decimal, b: Decimal) -> Decimal:
    return max(a / b, Decimal("1e-4")).ln() if b else ZERO


def _sign(x: Decimal) -> int:
    return (x > 0) - (x < 0)


def _ema(x: Series, period: int, first: int = 0) -> Series:
    out = [NO_VALUE] * first + [x[first]]
    for value in x[first + 1 :]:
        out.append(out[-1] + 2 * (value - out[-1]) / (period + 1))
    return out


def _wilder(x: Series, period: int, first: int = 1) -> Series:
    out = [NO_VALUE] * (first + period - 1) + [_mean(x[first : first + period])]
    for value in x[first + period :]:
        out.append((out[-1] * (period - 1) + value) / period)
    return out


def _ac1(x: Sequence[Decimal]) -> Decimal:
    if not _nonzero(_sd(x)):
        return ZERO
    mean = _mean(x)
    d = [a - mean for a in x]
    return sum((a * b for a, b in zip(d[1:], d, strict=False)), ZERO) / sum(a * a for a in d)


def _sine(x: Decimal) -> Decimal:
    """By its series; x is at most 9 here."""
    term = total = x
    for k in range(1, 60):
        term *= -x * x / (2 * k * (2 * k + 1))
        total += term
    return total


class _Exact:
    """The series that the columns are made of."""

    def __init__(self, bars: NDArray[np.float64]) -> None:
        o, h, l, c, v = ([Decimal(x) for x in bars[:, i].tolist()] for i in range(5))  # noqa: E741
        self.o, self.h, self.l, self.c, self.v = o, h, l, c, v
        self.times = bars[:, 5:].astype(np.int64).tolist()
        n = range(1, len(c))
        self.tp = [(a + b + d) / 3 for a, b, d in zip(h, l, c, strict=True)]
        self.lv = [(1 + x).ln() for x in v]
        self.lc = [x.ln() for x in c]
        self.r = [ZERO, *((c[i] / c[i - 1]).ln() for i in n)]
        self.dv = [ZERO, *(self.lv[i] - self.lv[i - 1] for i in n)]
        self.tr = [ZERO, *(max(h[i], c[i - 1]) - min(l[i], c[i - 1]) for i in n)]
        self.ema = {p: _ema(c, p) for p in E}
        gain = [ZERO, *(max(c[i] - c[i - 1], ZERO) for i in n)]
        loss = [ZERO, *(max(c[i - 1] - c[i], ZERO) for i in n)]
        self.gain = {p: _wilder(gain, p) for p in RSI}
        self.loss = {p: _wilder(loss, p) for p in RSI}
        self.atr = {p: _wilder(self.tr, p) for p in (10, 14, 20)}
        self.macd = [(a - b) / d for a, b, d in zip(self.ema[12], self.ema[26], c, strict=True)]
        self.signal = _ema(self.macd, 9)
        self._directions()
        force = [
            self.r[i] * _over(v[i], _mean(v[max(0, i - 19) : i + 1]), ONE) for i in range(len(c))
        ]
        self.force = _ema(force, 5, first=19)

    def _directions(self) -> None:
        plus, minus = [ZERO], [ZERO]
        for i in range(1, len(self.c)):
            up, down = self.h[i] - self.h[i - 1], self.l[i - 1] - self.l[i]
            limit = EPSILON * self.c[i]
            plus.append(up if up - down > limit and up > limit else ZERO)
            minus.append(down if down - up > limit and down > limit else ZERO)
        self.pdi, self.mdi = (
            [_over(a, b) for a, b in zip(_wilder(dm, 14), self.atr[14], strict=True)]
            for dm in (plus, minus)
        )
        dx = [
            _over(abs(a - b), _nonzero(a + b)) if not a.is_nan() else a
            for a, b in zip(self.pdi, self.mdi, strict=True)
        ]
        self.adx = _wilder(dx, 14, first=14)

    def columns(self, t: int) -> Columns:
        parts: list[Callable[[int], Columns]] = [
            self._bar,
            self._patterns,
            self._closes,
            self._recursive,
            self._returns,
            self._ranges,
            self._extremes,
            self._lines,
            self._volumes,
            self._flows,
            self._session,
            self._time,
        ]
        return {name: value for part in parts for name, value in part(t).items()}

    def _bar(self, t: int) -> Columns:
        o, h, l, c = self.o[t], self.h[t], self.l[t], self.c[t]  # noqa: E741
        span = _nonzero(h - l, EPSILON * c)
        return {
            "ret_1": self.r[t],
            "gap_1": (o / self.c[t - 1]).ln(),
            "oc_log": (c / o).ln(),
            "hl_log": (h / l).ln(),
            "log_high": (h / c).ln(),
            "log_low": (l / c).ln(),
            "high_chg": (h / self.h[t - 1]).ln(),
            "low_chg": (l / self.l[t - 1]).ln(),
            "typical_chg": (self.tp[t] / self.tp[t - 1]).ln(),
            "vol_chg_1": self.dv[t],
            "true_range_rel": self.tr[t] / self.c[t - 1],
            "upper_wick": _over(h - max(o, c), span),
            "lower_wick": _over(min(o, c) - l, span),
            "clv": _over(2 * c - h - l, span),
            "body_frac": _over(abs(c - o), span),
            "high_low": (h - l) / c,
            "open_close": (c - o) / o,
            "momentum_5": c / self.c[t - 5] - 1,
        }

    def _patterns(self, t: int) -> Columns:
        o, h, l, c = self.o[t], self.h[t], self.l[t], self.c[t]  # noqa: E741
        o_1, c_1 = self.o[t - 1], self.c[t - 1]
        limit, body = EPSILON * c, abs(c - o)
        upper, lower = h - max(o, c), min(o, c) - l
        same = o == c_1 and c == o_1
        tests = {
            "doji": (h - l) / 10 - body > limit,
            "hammer": lower - 2 * body > limit and body - upper > limit,
            "shooting_star": upper - 2 * body > limit and body - lower > limit,
            "engulf_bull": c > o and c_1 < o_1 and o <= c_1 and c >= o_1 and not same,
            "engulf_bear": c < o and c_1 > o_1 and o >= c_1 and c <= o_1 and not same,
            "inside_bar": h < self.h[t - 1] and l > self.l[t - 1],
        }
        return {name: ONE if test else ZERO for name, test in tests.items()}

    def _closes(self, t: int) -> Columns:
        c, out = self.c[t], {}
        sma = {p: _mean(self.c[t - p + 1 : t + 1]) for p in S}
        sd = {p: _nonzero(_sd(self.c[t - p + 1 : t + 1]), EPSILON * c) for p in S}
        for p in S:
            out[f"mom_{p}"] = (c / self.c[t - p]).ln()
            out[f"sma_dist_{p}"] = (c / sma[p]).ln()
            out[f"sma_z_{p}"] = _over(c - sma[p], sd[p])
        for p, q in SMA_PAIRS:
            out[f"x_sma_{p}_{q}"] = (sma[p] / sma[q]).ln()
        for p in (10, 20, 50):
            out[f"bbw_{p}"] = 4 * sd[p] / sma[p]
        out["bollinger_20"] = _over(c - sma[20] + 2 * sd[20], 4 * sd[20], HALF)
        atr = _nonzero(self.atr[20][t], EPSILON * c)
        out["squeeze_ratio"] = _over(2 * sd[20], atr * 3 / 2)
        typical = self.tp[t - 19 : t + 1]
        spread = _nonzero(_sd(typical), EPSILON * c)
        out["tp_z_20"] = _over(self.tp[t] - _mean(typical), spread)
        for p in (10, 20, 60):
            steps = [abs(self.c[i] - self.c[i - 1]) for i in range(t - p + 1, t + 1)]
            path = _nonzero(sum(steps, ZERO), EPSILON * c)
            out[f"er_{p}"] = _over(abs(c - self.c[t - p]), path)
        return out

    def _recursive(self, t: int) -> Columns:
        c, out = self.c[t], {}
        limit = EPSILON * c
        for p in E:
            out[f"ema_dist_{p}"] = (c / self.ema[p][t]).ln()
        for p, q in EMA_PAIRS:
            out[f"x_ema_{p}_{q}"] = (self.ema[p][t] / self.ema[q][t]).ln()
        out["macd_line"], out["macd_signal"] = self.macd[t], self.signal[t]
        out["macd_hist"] = self.macd[t] - self.signal[t]
        for p in RSI:
            gain, loss = self.gain[p][t], self.loss[p][t]
            share = _over(gain, _nonzero(gain + loss, limit), HALF)
            out[f"rsi_{p}"] = 2 * share - 1
            if p == 14:
                out["gru9.rsi_14"] = share
        for p in (14, 20):
            out[f"atr_{p}"] = _nonzero(self.atr[p][t], limit) / c
        out["keltner_pos"] = _over(
            c - self.ema[20][t], 2 * _nonzero(self.atr[10][t], Decimal("1e-8") * c)
        )
        out["pdi_14"], out["mdi_14"], out["adx_14"] = self.pdi[t], self.mdi[t], self.adx[t]
        out["force_ema_5"] = self.force[t]
        return out

    def _returns(self, t: int) -> Columns:
        last = {p: self.r[t - p + 1 : t + 1] for p in (5, 10, 20, 30, 60)}
        rv = {p: _nonzero(_sd(r)) for p, r in last.items()}
        out = {f"rv_{p}": value for p, value in rv.items()}
        for p, q in ((5, 20), (10, 30), (20, 60)):
            out[f"vr_{p}_{q}"] = _over(rv[p], rv[q], ONE)
        up = _mean([max(r, ZERO) ** 2 for r in last[20]]).sqrt()
        down = _mean([max(-r, ZERO) ** 2 for r in last[20]]).sqrt()
        out["semi_up_20"], out["semi_dn_20"] = up, down
        out["semi_asym_20"] = _over(down - up, _nonzero(down + up))
        size = [abs(r) for r in last[20]]
        out["absret_ac1_20"] = _ac1(size)
        out["vol_cluster_20"] = _over(_nonzero(_sd(size)), _nonzero(_mean(size)))
        for p in (20, 60):
            out[f"ret_ac1_{p}"] = _ac1(last[p])
        for p in (10, 20):
            out[f"up_frac_{p}"] = Decimal(sum(r > 0 for r in last[p])) / p
        for k in LAGS:
            out[f"ret_lag_{k}"] = self.r[t - k]
        run, sign = 0, _sign(self.r[t])
        while sign and run < t and _sign(self.r[t - run]) == sign:
            run += 1
        doubled = (Decimal(2 * run * sign) / 5).exp()
        out["run_len"] = (doubled - 1) / (doubled + 1)
        return out

    def _ranges(self, t: int) -> Columns:
        out, ln_2 = {}, Decimal(2).ln()
        for p in (10, 20, 60):
            squares = [(self.h[i] / self.l[i]).ln() ** 2 for i in range(t - p + 1, t + 1)]
            out[f"park_{p}"] = (_mean(squares) / (4 * ln_2)).sqrt()
        gk, rs = [], []
        for i in range(t - 19, t + 1):
            o, h, l, c = self.o[i], self.h[i], self.l[i], self.c[i]  # noqa: E741
            gk.append((h / l).ln() ** 2 / 2 - (2 * ln_2 - 1) * (c / o).ln() ** 2)
            rs.append((h / c).ln() * (h / o).ln() + (l / c).ln() * (l / o).ln())
        out["gk_20"], out["rs_20"] = _mean(gk).sqrt(), _mean(rs).sqrt()
        return out

    def _stochastic(self, t: int, p: int) -> Decimal:
        high, low = max(self.h[t - p + 1 : t + 1]), min(self.l[t - p + 1 : t + 1])
        return _over(self.c[t] - low, _nonzero(high - low, EPSILON * self.c[t]), HALF)

    def _extremes(self, t: int) -> Columns:
        c = self.c[t]
        out = {f"stoch_{p}": self._stochastic(t, p) for p in (5, 10, 20, 30, 60)}
        out["stoch_k_14"] = self._stochastic(t, 14)
        out["stoch_d_14_3"] = _mean([self._stochastic(t - i, 14) for i in range(3)])
        for p in (10, 20, 60):
            newest_first = range(t, t - p, -1)
            highs, lows = [self.h[i] for i in newest_first], [self.l[i] for i in newest_first]
            out[f"hh_{p}"], out[f"ll_{p}"] = (c / max(highs)).ln(), (c / min(lows)).ln()
            if p > 10:
                out[f"age_hh_{p}"] = Decimal(highs.index(max(highs))) / p
                out[f"age_ll_{p}"] = Decimal(lows.index(min(lows))) / p
        return out

    def _lines(self, t: int) -> Columns:
        out = {}
        for p in (20, 60):
            y = self.lc[t - p + 1 : t + 1]
            centre, mean = Decimal(p - 1) / 2, _mean(y)
            sxx = sum((x - centre) ** 2 for x in range(p))
            sxy = sum(((x - centre) * (b - mean) for x, b in enumerate(y)), ZERO)
            syy = sum(((b - mean) ** 2 for b in y), ZERO)
            out[f"lr_slope_{p}"] = _over(sxy / sxx, _nonzero(_sd(self.r[t - p + 1 : t + 1])))
            out[f"lr_r2_{p}"] = sxy**2 / (sxx * syy) if _nonzero(_sd(y)) else ZERO
        return out

    def _volumes(self, t: int) -> Columns:
        v, c, out = self.v[t], self.c[t], {}
        mean = {p: _mean(self.v[t - p + 1 : t + 1]) for p in (5, 10, 20, 60)}
        for p, usual in mean.items():
            out[f"vol_rel_{p}"] = _lnq(v, usual)
        out["vol_tr_5_20"] = _lnq(mean[5], mean[20])
        out["vol_tr_20_60"] = _lnq(mean[20], mean[60])
        out["volume_ratio_20"] = _over(v, mean[20], ONE)
        out["log_volume_ratio"] = ((1 + v) / (1 + mean[20])).ln()
        for p in (20, 60):
            logs = self.lv[t - p + 1 : t + 1]
            out[f"vol_z_{p}"] = _over(self.lv[t] - _mean(logs), _nonzero(_sd(logs)))
        for p in (10, 20, 60):
            bars, total = range(t - p + 1, t + 1), mean[p] * p
            traded = sum((self.tp[i] * self.v[i] for i in bars), ZERO)
            out[f"vwap_dist_{p}"] = (c * total / traded).ln() if total else ZERO
            signed = sum((_sign(self.r[i]) * self.v[i] for i in bars), ZERO)
            out[f"svr_{p}"] = _over(signed, total)
        return out

    def _flows(self, t: int) -> Columns:
        bars = range(t - 19, t + 1)
        clv = sum((self._bar(i)["clv"] * self.v[i] for i in bars), ZERO)
        out = {"cmf_20": _over(clv, sum(self.v[t - 19 : t + 1], ZERO))}
        rising = falling = ZERO
        for i in range(t - 13, t + 1):
            rise, flow = self.tp[i] - self.tp[i - 1], self.tp[i] * self.v[i]
            if abs(rise) > EPSILON * self.c[i]:
                rising, falling = (rising + flow, falling) if rise > 0 else (rising, falling + flow)
        out["mfi_14"] = _over(rising, rising + falling, HALF)
        traded = [i for i in bars if self.v[i]]
        out["amihud_20"] = _mean([abs(self.r[i]) / (self.v[i] * self.c[i]) for i in traded]).ln()
        r, d = self.r[t - 19 : t + 1], self.dv[t - 19 : t + 1]
        spread = _nonzero(_sd(r)) * _nonzero(_sd(d))
        both = _mean([a * b for a, b in zip(r, d, strict=True)]) - _mean(r) * _mean(d)
        out["pv_corr_20"] = _over(both, spread)
        return out

    def _of_session(self, t: int) -> range:
        """The bars of the session of bar t, up to it."""
        first = t
        while first and self.times[first - 1][2] == self.times[t][2]:
            first -= 1
        return range(first, t + 1)

    def _session(self, t: int) -> Columns:
        c, bars = self.c[t], self._of_session(t)
        first = bars[0]
        total = sum((self.v[i] for i in bars), ZERO)
        traded = sum((self.tp[i] * self.v[i] for i in bars), ZERO)
        vwap = _over(traded, total, c)
        spread = _over(sum((self.v[i] * (self.tp[i] - vwap) ** 2 for i in bars), ZERO), total)
        early = [i for i in bars if (self.times[i][0] - self.times[i][2]) // self.times[i][1] < 30]
        return {
            "vwap_dist_sess": (c / vwap).ln(),
            "vwap_z_sess": _over(c - vwap, _nonzero(spread.sqrt(), EPSILON * c)),
            "sess_drawdown": (c / max(self.h[i] for i in bars)).ln(),
            "sess_runup": (c / min(self.l[i] for i in bars)).ln(),
            "or_high_dist": (c / max(self.h[i] for i in early)).ln(),
            "or_low_dist": (c / min(self.l[i] for i in early)).ln(),
            "sess_ret": (c / self.o[first]).ln(),
            "overnight_gap": (self.o[first] / self.c[first - 1]).ln(),
        }

    def _twenty_fourth(self, t: int) -> int:
        opened, _, session, close = self.times[t][:4]
        part: int = 24 * (opened - session) // (close - session)
        return min(23, part)

    def _time(self, t: int) -> Columns:
        opened, interval, session, close, weekday = self.times[t]
        u = min(ONE, Decimal(opened + interval - session) / (close - session))
        before = self._of_session(self._of_session(t)[0] - 1)
        same = [self.v[i] for i in before if self._twenty_fourth(i) == self._twenty_fourth(t)]
        turn, day = 2 * PI * u, 2 * PI * weekday / 7
        return {
            "vol_tod_rel": _lnq(self.v[t], _mean(same)) if same else ZERO,
            "sess_sin": _sine(turn),
            "sess_cos": _sine(turn + PI / 2),
            "dow_sin": _sine(day),
            "dow_cos": _sine(day + PI / 2),
            "sess_frac": u,
        }
