"""Agents that are rules: detectors, each an opinion in log-odds, and their weighted mean.

A detector reads one bar's row and says how far it stands from usual, `value / scale` = s. Its
log-odds of a rise are most · s / (1 + |s|): bounded, so that none outvotes all others, and made of
sums and quotients alone, so that a row's answer has the same bits in any batch. A rule's logit is
`gain` times the mean of its detectors' log-odds by weight.
"""

from collections.abc import Callable, Mapping
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from quantum_ai_engine.agents.bundle import Bundle, BundleError, printable
from quantum_ai_engine.agents.bundled import BundledAgent

PAYLOAD = "rule.json"
LARGEST = 1e6  # of a column; all are of the order of 1, and beyond this a product could overflow
LEAST_VOLATILITY = 1e-6  # per bar, a hundredth of a basis point: below it nothing moved

Floats = NDArray[np.float64]
Row = Mapping[str, Floats]  # a column's values [n] by its name
Reading = Callable[[Row], Floats]

Positive = Annotated[float, Meta(gt=0, le=1e9)]


class Detector(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One opinion: which reading, what is usual for it, and what it weighs."""

    name: str
    scale: Annotated[float, Meta(ge=1e-9, le=1e9)]
    weight: Annotated[float, Meta(ge=0, le=1)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rule as `rule.json` holds it; weights sum to 1, `most` is a detector's largest log-odds."""

    gain: Positive
    most: Positive
    detectors: tuple[Detector, ...]


def _bollinger(row: Row) -> Floats:
    """Far above its mean a price falls back (Bollinger 2001)."""
    return -row["sma_z_20"]


def _rsi(row: Row) -> Floats:
    """What was overbought falls back (Wilder 1978)."""
    return -row["rsi_14"]


def _momentum(row: Row) -> Floats:
    """A move goes on (Jegadeesh and Titman 1993)."""
    return _in_volatilities(row["mom_10"], row["rv_60"])


def _vwap(row: Row) -> Floats:
    """A price returns to the mean price of the volume (Berkowitz, Logue and Noser 1988)."""
    return -_in_volatilities(row["vwap_dist_60"], row["rv_60"])


def _breakout(row: Row) -> Floats:
    """Beyond the opening range a move goes on; inside it there is no opinion (Crabel 1990)."""
    beyond = np.maximum(row["or_high_dist"], 0.0) + np.minimum(row["or_low_dist"], 0.0)
    return _in_volatilities(beyond, row["rv_60"])


def _flow(row: Row) -> Floats:
    """Where more volume came with rises than with falls, buyers lead (Kyle 1985)."""
    return row["svr_20"]


def _confirmed(row: Row) -> Floats:
    """A bar's move goes on when its volume is unusual (Karpoff 1987)."""
    return _in_volatilities(row["ret_1"], row["rv_60"]) * np.maximum(row["vol_z_20"], 0.0)


def _regime(row: Row) -> Floats:
    """The mean of 10 bars above that of 30 is a rising market (Brock, Lakonishok, LeBaron 1992)."""
    return _in_volatilities(row["x_sma_10_30"], row["rv_30"])


def _in_volatilities(log_distance: Floats, volatility: Floats) -> Floats:
    return log_distance / np.maximum(volatility, LEAST_VOLATILITY)


READINGS: dict[str, dict[str, Reading]] = {
    "sigor": {
        "bollinger": _bollinger,
        "rsi": _rsi,
        "momentum": _momentum,
        "vwap": _vwap,
        "breakout": _breakout,
        "flow": _flow,
        "confirmed": _confirmed,
    },
    "momentum": {"regime": _regime},
}


class RuleAgent(BundledAgent):
    """One bundle of a rule. A window that holds NaN or infinity has no answer."""

    def __init__(self, bundle: Bundle, rule: Rule) -> None:
        super().__init__(bundle)
        self.rule = rule

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        newest = windows[:, -1]  # [n, columns]
        clamped = int(np.count_nonzero(np.abs(newest) > LARGEST))
        within = np.clip(newest, -LARGEST, LARGEST)
        row = dict(zip(self.feature_set.columns, within.T, strict=True))
        answers = judge(self.rule, READINGS[self.source.manifest.kind], row)
        whole = np.isfinite(windows).all(axis=(1, 2))
        return np.where(whole, answers, np.nan), clamped


def judge(rule: Rule, readings: Mapping[str, Reading], row: Row) -> Floats:
    """The rule's logits [n] of rows given by column [n]."""
    total = sum(
        detector.weight * opinion(readings[detector.name](row), detector.scale, rule.most)
        for detector in rule.detectors
    )
    return np.asarray(rule.gain * total)


def opinion(values: Floats, scale: float, most: float) -> Floats:
    """A detector's log-odds [n]: of its sign, half of `most` where a value is as large as usual.

    >>> opinion(np.array([-3.0, 0.0, 1.0, 1e9]), 1.0, 2.0).round(6)
    array([-1.5,  0. ,  1. ,  2. ])
    """
    return np.asarray(most * values / (scale + np.abs(values)))


def load(bundle: Bundle) -> RuleAgent:
    """The agent of a verified bundle. Raises `BundleError`."""
    try:
        rule = msgspec.json.decode(bundle.read(PAYLOAD), type=Rule)
    except ValueError as error:  # no JSON, no UTF-8, a field amiss
        reason = printable(str(error).lower())
        raise BundleError(f"bundle {bundle.path}: {PAYLOAD}: {reason}") from error
    known = list(READINGS[bundle.manifest.kind])
    if [detector.name for detector in rule.detectors] != known:
        raise BundleError(f"bundle {bundle.path}: {PAYLOAD}: its detectors are not {known}")
    if abs(sum(detector.weight for detector in rule.detectors) - 1.0) > 1e-9:
        raise BundleError(f"bundle {bundle.path}: {PAYLOAD}: its weights do not sum to 1")
    return RuleAgent(bundle, rule)
