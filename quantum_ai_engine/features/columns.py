"""The kernel's columns: their order, when each is whole, and when a cold start has settled.

The first `LOG_PARTS` · `LOG_PART` columns are logarithms: the kernel leaves their quotients, and
takes the logarithms in one pass. The order here is the kernel's own; a set selects by name.
"""

from collections.abc import Iterable
from typing import NamedTuple

S = (3, 5, 10, 15, 20, 25, 30, 40, 50, 60)
E = (5, 10, 12, 15, 20, 26, 30, 50)
RSI = (5, 7, 9, 14, 21, 30)
LAGS = (1, 2, 3, 4, 5, 6, 8, 10)
SMA_PAIRS = ((5, 20), (10, 30), (15, 40), (20, 50), (25, 60))
EMA_PAIRS = ((5, 15), (10, 30), (20, 50))
AMIHUD_SHOWN_AT = 21

# The kernel's stages, which make columns only where one of theirs is asked for. One bit each.
SHAPES, AVERAGES, MEANS, RETURNS, MEMORY = 1, 2, 4, 8, 16
LINES, EXTREMES, VOLUMES, RANGES, SESSIONS = 32, 64, 128, 256, 512
# Logarithms of what the stages leave, LOG_PART columns at a time, have the bits from here on.
FIRST_LOGS, LOG_PART, LOG_PARTS = 1 << 16, 16, 4


class Column(NamedTuple):
    """A column of the kernel.

    `ready_at`: the bar, counted from 1, at which its whole window has been seen. `settled_at`:
    the bar at which a cold start gives the bits of a process that never stopped. `sessions`: the
    session openings that must have been seen by then as well. `stage`: the bit of what makes it.
    """

    name: str
    ready_at: int
    settled_at: int
    sessions: int = 0
    stage: int = 0


def _window(name: str, ready_at: int) -> Column:
    """A window settles when it is whole: it depends on nothing older."""
    return Column(name, ready_at, ready_at)


def _session(name: str, openings: int = 1) -> Column:
    return Column(name, 1, 1, openings)


def _by(stage: int, *columns: Column) -> list[Column]:
    """These columns are made by that stage."""
    return [column._replace(stage=stage) for column in columns]


def _ema(period: int) -> int:
    """Bars after which an EMA has forgotten where it began: 48 / α, α = 2 / (period + 1)."""
    return 24 * (period + 1)


def _wilder(period: int) -> int:
    """The same for Wilder's average, α = 1 / period, seeded `period` changes after bar 1."""
    return 48 * period + period + 1


def _logs() -> list[Column]:
    w = _window
    session = (
        "vwap_dist_sess",
        "sess_drawdown",
        "sess_runup",
        "or_high_dist",
        "or_low_dist",
        "sess_ret",
        "overnight_gap",
    )
    return [
        *_by(SHAPES, *(w(name, 2) for name in ("gap_1", "high_chg", "low_chg", "typical_chg"))),
        *_by(MEANS, *(w(f"mom_{p}", p + 1) for p in S), *(w(f"sma_dist_{p}", p) for p in S)),
        *_by(AVERAGES, *(Column(f"ema_dist_{p}", p, _ema(p)) for p in E)),
        *_by(MEANS, *(w(f"x_sma_{p}_{q}", q) for p, q in SMA_PAIRS)),
        *_by(AVERAGES, *(Column(f"x_ema_{p}_{q}", q, _ema(q)) for p, q in EMA_PAIRS)),
        *_by(EXTREMES, *(w(f"{which}_{p}", p) for which in ("hh", "ll") for p in (10, 20, 60))),
        *_by(
            VOLUMES,
            *(w(f"vol_rel_{p}", p) for p in (5, 10, 20, 60)),
            *(w(f"vol_tr_{p}_{q}", q) for p, q in ((5, 20), (20, 60))),
            *(w(f"vwap_dist_{p}", p) for p in (10, 20, 60)),
            w("amihud_20", AMIHUD_SHOWN_AT),
            w("log_volume_ratio", 20),
        ),
        *_by(SESSIONS, _session("vol_tod_rel", openings=2), *(_session(n) for n in session)),
    ]


def _bars_and_volatility() -> list[Column]:
    w = _window
    return [
        *_by(
            SHAPES,
            *(w(name, 2) for name in ("ret_1", "vol_chg_1")),
            *(w(name, 1) for name in ("hl_log", "oc_log", "log_high", "log_low")),
            *(w(name, 1) for name in ("upper_wick", "lower_wick", "clv", "body_frac")),
            w("true_range_rel", 2),
        ),
        *_by(RETURNS, *(w(f"ret_lag_{k}", k + 2) for k in LAGS)),
        *_by(MEANS, *(w(f"sma_z_{p}", p) for p in S)),
        *_by(
            AVERAGES,
            Column("macd_line", 26, _ema(26)),
            Column("macd_signal", 34, _ema(26) + _ema(9)),
            Column("macd_hist", 34, _ema(26) + _ema(9)),
        ),
        *_by(RETURNS, *(w(f"rv_{p}", p + 1) for p in (5, 10, 20, 30, 60))),
        *_by(RANGES, *(w(f"park_{p}", p) for p in (10, 20, 60)), w("gk_20", 20), w("rs_20", 20)),
        *_by(
            RETURNS,
            *(w(f"vr_{p}_{q}", q + 1) for p, q in ((5, 20), (10, 30), (20, 60))),
            *(w(name, 21) for name in ("semi_up_20", "semi_dn_20", "semi_asym_20")),
        ),
        *_by(AVERAGES, *(Column(f"atr_{p}", p + 1, _wilder(p)) for p in (14, 20))),
        *_by(MEMORY, w("absret_ac1_20", 21), w("vol_cluster_20", 21)),
        *_by(MEANS, *(w(f"bbw_{p}", p) for p in (10, 20, 50))),
        *_by(AVERAGES, Column("keltner_pos", 20, max(_ema(20), _wilder(10)))),
        *_by(MEANS, Column("squeeze_ratio", 21, _wilder(20))),
    ]


def _oscillators_and_flows() -> list[Column]:
    w = _window
    return [
        *_by(AVERAGES, *(Column(f"rsi_{p}", p + 1, _wilder(p)) for p in RSI)),
        *_by(
            EXTREMES,
            *(w(f"stoch_{p}", p) for p in (5, 10, 20, 30, 60)),
            w("stoch_k_14", 14),
            w("stoch_d_14_3", 16),
            *(w(f"age_{which}_{p}", p) for which in ("hh", "ll") for p in (20, 60)),
        ),
        *_by(RANGES, w("tp_z_20", 20)),
        *_by(
            AVERAGES,
            Column("adx_14", 28, _wilder(14) + _wilder(14)),
            Column("pdi_14", 15, _wilder(14)),
            Column("mdi_14", 15, _wilder(14)),
        ),
        *_by(MEANS, *(w(f"er_{p}", p + 1) for p in (10, 20, 60))),
        *_by(LINES, *(w(f"lr_slope_{p}", p + 1) for p in (20, 60))),
        *_by(LINES, *(w(f"lr_r2_{p}", p) for p in (20, 60))),
        *_by(MEMORY, *(w(f"ret_ac1_{p}", p + 1) for p in (20, 60))),
        *_by(RETURNS, *(w(f"up_frac_{p}", p + 1) for p in (10, 20))),
        *_by(RANGES, Column("run_len", 2, RUN_MOST + 2)),
        *_by(VOLUMES, *(w(f"vol_z_{p}", p) for p in (20, 60))),
        *_by(SESSIONS, _session("vwap_z_sess")),
        *_by(VOLUMES, *(w(f"svr_{p}", p + 1) for p in (10, 20, 60))),
        *_by(VOLUMES, w("cmf_20", 20), w("mfi_14", 15)),
        *_by(RETURNS, w("pv_corr_20", 21)),
        *_by(VOLUMES, Column("force_ema_5", 24, _ema(5) + 20)),
    ]


def _patterns_and_sessions() -> list[Column]:
    w = _window
    of_time = ("sess_sin", "sess_cos", "dow_sin", "dow_cos", "sess_frac")
    return [
        *_by(SHAPES, *(w(name, 1) for name in ("doji", "hammer", "shooting_star"))),
        *_by(SHAPES, *(w(name, 2) for name in ("engulf_bull", "engulf_bear", "inside_bar"))),
        *_by(SESSIONS, *(w(name, 1) for name in of_time)),
        *_by(MEANS, w("momentum_5", 6)),
        *_by(AVERAGES, Column("gru9.rsi_14", 15, _wilder(14))),
        *_by(MEANS, w("bollinger_20", 20)),
        *_by(VOLUMES, w("volume_ratio_20", 20)),
        *_by(SHAPES, w("high_low", 1), w("open_close", 1)),
    ]


RUN_MOST = 100  # tanh(n / 5) is 1 to the last bit well before: longer runs need not be told apart
COLUMNS = (
    *_logs(),
    *_bars_and_volatility(),
    *_oscillators_and_flows(),
    *_patterns_and_sessions(),
)
NAMES = tuple(column.name for column in COLUMNS)
AT = {name: i for i, name in enumerate(NAMES)}


def asked(indices: Iterable[int]) -> int:
    """The bits by which the kernel is asked for these columns: what makes them, and no more."""
    bits = 0
    for i in indices:
        part = i // LOG_PART
        bits |= COLUMNS[i].stage | (FIRST_LOGS << part if part < LOG_PARTS else 0)
    return bits


EVERYTHING = asked(range(len(COLUMNS)))
