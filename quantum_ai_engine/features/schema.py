"""Feature sets: ordered selections by name from the kernel's columns, each with a hash."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.features.columns import AT, COLUMNS, NAMES, SESSIONS, Column, asked
from quantum_ai_engine.features.kernel import KERNEL_VERSION

# What depends on when the venue's sessions open and close, or on its weekday.
SESSION_COLUMNS = frozenset(column.name for column in COLUMNS if column.stage == SESSIONS)


class SchemaError(ValueError):
    """A feature set or column that the kernel does not have, or not as promised."""


@dataclass(frozen=True)
class FeatureSet:
    """An ordered list of columns and the number of rows that its agents read at once.

    `aliases` says which kernel column stands behind a name that differs from it.

    >>> two = FeatureSet("two", ("ret_1", "mean"), window=4, aliases={"mean": "sma_dist_10"})
    >>> two.ready_at
    10
    """

    name: str
    columns: tuple[str, ...]
    window: int
    aliases: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            if self.kernel_name(name) not in AT:
                raise SchemaError(f"feature set {self.name}: the kernel has no column {name}")

    def kernel_name(self, name: str) -> str:
        """The kernel's own name of a column of this set."""
        return self.aliases.get(name, name)

    def kernel_columns(self) -> list[Column]:
        """The kernel's columns behind this set's, in this set's order."""
        return [COLUMNS[i] for i in self.indices]

    @property
    def indices(self) -> NDArray[np.int64]:
        """Where each column stands in a kernel row."""
        return np.array([AT[self.kernel_name(name)] for name in self.columns], dtype=np.int64)

    @property
    def asked(self) -> int:
        """The bits by which the kernel is asked for these columns; of two sets, a | b."""
        return asked(self.indices.tolist())

    @cached_property
    def ready_at(self) -> int:
        """The bar, counted from 1, whose row is the first with every column whole."""
        return max(column.ready_at for column in self.kernel_columns())

    @property
    def reads_sessions(self) -> bool:
        """Whether rows depend on the venue at which a symbol trades."""
        return any(self.kernel_name(name) in SESSION_COLUMNS for name in self.columns)

    @property
    def window_ready_at(self) -> int:
        """The bar at which a whole window of ready rows exists."""
        return self.ready_at + self.window - 1

    @property
    def hash(self) -> str:
        """16 hex digits over the kernel version, the ordered names and what stands behind them."""
        return _hash(f"{name} = {self.kernel_name(name)}" for name in self.columns)

    def check(self, columns: tuple[str, ...], expected_hash: str) -> None:
        """Refuse a promise of other columns, naming the first that differs."""
        for position, (here, there) in enumerate(zip(self.columns, columns, strict=False)):
            if here != there:
                raise SchemaError(
                    f"feature set {self.name}: column {position} is {here}, the bundle has {there}"
                )
        if len(self.columns) != len(columns):
            first = max(self.columns, columns, key=len)[min(len(self.columns), len(columns))]
            raise SchemaError(
                f"feature set {self.name} has {len(self.columns)} columns, the bundle "
                f"{len(columns)}: the first that differs is {first}"
            )
        if self.hash != expected_hash:
            raise SchemaError(
                f"feature set {self.name}: schema hash {expected_hash} of the bundle is not "
                f"{self.hash}; it was made with another kernel version, train it again"
            )


def _hash(lines: Iterable[str]) -> str:
    text = "\n".join((f"kernel {KERNEL_VERSION}", *lines))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


KERNEL_HASH = _hash(NAMES)

# What the small sets call by their own names. RSI is a fraction in them, and ±1 in the large one.
_SMALL = {
    "log_return": "ret_1",
    "sma_10": "sma_dist_10",
    "sma_30": "sma_dist_30",
    "rsi_14": "gru9.rsi_14",
    "volatility_20": "rv_20",
    "macd": "macd_line",
    "momentum_10": "mom_10",
}
TRANSFORMER_173 = tuple(
    """
    ret_1 gap_1 oc_log hl_log upper_wick lower_wick clv body_frac high_chg low_chg true_range_rel
    typical_chg
    ret_lag_1 ret_lag_2 ret_lag_3 ret_lag_4 ret_lag_5 ret_lag_6 ret_lag_8 ret_lag_10
    mom_3 mom_5 mom_10 mom_15 mom_20 mom_25 mom_30 mom_40 mom_50 mom_60
    sma_dist_3 sma_dist_5 sma_dist_10 sma_dist_15 sma_dist_20 sma_dist_25 sma_dist_30 sma_dist_40
    sma_dist_50 sma_dist_60
    sma_z_3 sma_z_5 sma_z_10 sma_z_15 sma_z_20 sma_z_25 sma_z_30 sma_z_40 sma_z_50 sma_z_60
    ema_dist_5 ema_dist_10 ema_dist_12 ema_dist_15 ema_dist_20 ema_dist_26 ema_dist_30 ema_dist_50
    x_sma_5_20 x_sma_10_30 x_sma_15_40 x_sma_20_50 x_sma_25_60 x_ema_5_15 x_ema_10_30 x_ema_20_50
    macd_line macd_signal macd_hist
    rv_5 rv_10 rv_20 rv_30 rv_60 park_10 park_20 park_60 gk_20 rs_20 vr_5_20 vr_10_30 vr_20_60
    semi_up_20 semi_dn_20 semi_asym_20 atr_14 atr_20 absret_ac1_20 vol_cluster_20
    bbw_10 bbw_20 bbw_50 keltner_pos squeeze_ratio
    rsi_5 rsi_7 rsi_9 rsi_14 rsi_21 rsi_30
    stoch_5 stoch_10 stoch_20 stoch_30 stoch_60 stoch_k_14 stoch_d_14_3
    hh_10 hh_20 hh_60 ll_10 ll_20 ll_60 age_hh_20 age_hh_60 age_ll_20 age_ll_60 sess_drawdown
    sess_runup
    tp_z_20 adx_14 pdi_14 mdi_14 er_10 er_20 er_60 lr_slope_20 lr_r2_20 lr_slope_60 lr_r2_60
    ret_ac1_20 ret_ac1_60 up_frac_10 up_frac_20 run_len
    vol_rel_5 vol_rel_10 vol_rel_20 vol_rel_60 vol_z_20 vol_z_60 vol_chg_1 vol_tr_5_20
    vol_tr_20_60 vol_tod_rel vwap_dist_10 vwap_dist_20 vwap_dist_60 vwap_dist_sess vwap_z_sess
    svr_10 svr_20 svr_60 cmf_20 mfi_14 pv_corr_20 amihud_20 force_ema_5
    doji hammer shooting_star engulf_bull engulf_bear inside_bar
    sess_sin sess_cos dow_sin dow_cos sess_frac or_high_dist or_low_dist sess_ret overnight_gap
    """.split()
)

GRU_9 = tuple(
    """
    log_return sma_10 sma_30 momentum_5 rsi_14 bollinger_20 volume_ratio_20 high_low open_close
    """.split()
)

PATCHTST_8 = tuple(
    "log_return log_high log_low log_volume_ratio volatility_20 rsi_14 macd momentum_10".split()
)

SIGOR_10 = tuple(
    """
    sma_z_20 rsi_14 mom_10 rv_60 vwap_dist_60 or_high_dist or_low_dist svr_20 ret_1 vol_z_20
    """.split()
)

MOMENTUM_2 = ("x_sma_10_30", "rv_30")

SETS = {
    feature_set.name: feature_set
    for feature_set in (
        FeatureSet("gru9", GRU_9, window=32, aliases=_SMALL),
        FeatureSet("patchtst8", PATCHTST_8, window=128, aliases=_SMALL),
        FeatureSet("transformer173", TRANSFORMER_173, window=64),
        FeatureSet("tree173", TRANSFORMER_173, window=6),
        FeatureSet("sigor10", SIGOR_10, window=1),
        FeatureSet("momentum2", MOMENTUM_2, window=1),
    )
}


def feature_set(name: str) -> FeatureSet:
    """The set of that name. Raises `SchemaError` naming those that exist."""
    try:
        return SETS[name]
    except KeyError:
        raise SchemaError(f"no feature set {name!r}; there are {', '.join(SETS)}") from None
