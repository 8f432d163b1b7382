"""Rule agents: named, weighted and judged like all others."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle, BundleError
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.rules import PAYLOAD, READINGS, RuleAgent, judge, load, opinion

from .again import again

Floats = NDArray[np.float64]


@pytest.fixture(scope="module", params=list(READINGS))
def bundle(request: pytest.FixtureRequest, tabular: dict[str, Bundle]) -> Bundle:
    return tabular[request.param]


@pytest.fixture(scope="module")
def agent(bundle: Bundle) -> RuleAgent:
    made = load(bundle)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def windows(agent: RuleAgent) -> Floats:
    """The largest batch of rows, noise around real ones."""
    golden, _ = agent.source.golden()
    full = np.resize(golden, (LARGEST_BATCH, *golden.shape[1:]))
    return full * (1.0 + 0.5 * np.random.default_rng(0).standard_normal(full.shape))


def row(**values: float) -> dict[str, Floats]:
    """A row in which nothing stands out, but for these."""
    usual = {"rv_60": 1e-3, "rv_30": 1e-3, "or_high_dist": -1e-3, "or_low_dist": 1e-3}
    names = "sma_z_20 rsi_14 mom_10 vwap_dist_60 svr_20 ret_1 vol_z_20 x_sma_10_30".split()
    return {k: np.array([v]) for k, v in (dict.fromkeys(names, 0.0) | usual | values).items()}


@pytest.mark.parametrize(
    ("detector", "rises", "falls"),
    [
        ("bollinger", {"sma_z_20": -2.0}, {"sma_z_20": 2.0}),
        ("rsi", {"rsi_14": -0.6}, {"rsi_14": 0.6}),
        ("momentum", {"mom_10": 0.01}, {"mom_10": -0.01}),
        ("vwap", {"vwap_dist_60": -0.01}, {"vwap_dist_60": 0.01}),
        ("breakout", {"or_high_dist": 0.002}, {"or_low_dist": -0.002}),
        ("flow", {"svr_20": 0.5}, {"svr_20": -0.5}),
        ("confirmed", {"ret_1": 1e-3, "vol_z_20": 2.0}, {"ret_1": -1e-3, "vol_z_20": 2.0}),
        ("regime", {"x_sma_10_30": 1e-3}, {"x_sma_10_30": -1e-3}),
    ],
)
def test_each_detector_points_as_it_is_meant(
    detector: str, rises: dict[str, float], falls: dict[str, float]
) -> None:
    """L03: a detector says which way by its own column, and nothing where nothing stands out."""
    reading = (READINGS["sigor"] | READINGS["momentum"])[detector]
    assert reading(row(**rises)) > 0.0 > reading(row(**falls))
    assert reading(row()) == 0.0


def test_a_move_without_volume_confirms_nothing() -> None:
    """A bar's move counts where its volume is above the mean."""
    assert READINGS["sigor"]["confirmed"](row(ret_1=1e-3, vol_z_20=-2.0)) == 0.0


def test_nothing_moved_is_no_opinion() -> None:
    """L02: without volatility a distance is measured in the least one; it does not divide by 0."""
    assert READINGS["momentum"]["regime"](row(x_sma_10_30=0.0, rv_30=0.0)) == 0.0


def test_log_odds_are_fused_as_their_weighted_mean(agent: RuleAgent, windows: Floats) -> None:
    """The logit is gain · Σw·logit(p) / Σw of the detectors' probabilities."""
    rule, columns = agent.rule, agent.feature_set.columns
    values = dict(zip(columns, windows[:, -1].T, strict=True))
    readings = READINGS[agent.source.manifest.kind]
    odds = np.stack([opinion(readings[d.name](values), d.scale, rule.most) for d in rule.detectors])
    probability = 1.0 / (1.0 + np.exp(-odds))  # [detectors, n]
    weights = np.array([d.weight for d in rule.detectors])
    logit = weights @ np.log(probability / (1.0 - probability)) / weights.sum()
    np.testing.assert_allclose(judge(rule, readings, values), rule.gain * logit, atol=1e-12)
    assert agent.logits(windows)[0].tobytes() == judge(rule, readings, values).tobytes()


def test_it_is_no_constant(agent: RuleAgent, windows: Floats) -> None:
    """L01: rows that differ are answered differently, on both sides of the base rate."""
    answers = agent.predict(windows)
    assert len(np.unique(answers)) > LARGEST_BATCH // 2


def test_a_row_does_not_depend_on_its_batch(agent: RuleAgent, windows: Floats) -> None:
    """Any batch, at any place, gives each row the bits that it gets alone."""
    alone = np.concatenate([agent.predict(windows[i : i + 1]) for i in range(LARGEST_BATCH)])
    draw = np.random.default_rng(1)
    for size in (2, 3, 7, 8, 9, 15, 31, 64, 101, LARGEST_BATCH):
        some = draw.choice(LARGEST_BATCH, size, replace=False)
        assert agent.predict(windows[some]).tobytes() == alone[some].tobytes()


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_what_is_unknown_gives_no_number(agent: RuleAgent, windows: Floats, hole: float) -> None:
    """L02: a hole in any column is no answer; NaN never turns to 0 or to 0.5."""
    for column in range(windows.shape[2]):
        holed = windows[:5].copy()
        holed[2, -1, column] = hole
        answers = agent.predict(holed)
        assert np.isnan(answers[2])
        assert np.isfinite(np.delete(answers, 2)).all()


def test_wild_values_are_clamped_and_counted(bundle: Bundle, windows: Floats) -> None:
    """L19: no product overflows, and each clamped value is counted."""
    agent, wild = load(bundle), windows[:2].copy()
    wild[1, -1, 0] = 1e300
    assert np.isfinite(agent.predict(wild)).all()
    assert agent.clamped == 1


def change_first(document: dict[str, Any], **values: Any) -> None:
    document["detectors"][0] |= values


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"name": "oracle"}, "its detectors are not"),
        ({"weight": -0.1}, "weight|>= 0"),
        ({"weight": 0.5}, "its weights do not sum to 1"),
        ({"scale": 0.0}, "scale|>= "),
        ({"scale": None}, "expected `float`"),
        ({"mood": 1.0}, "unknown field"),
    ],
)
def test_another_rule_is_refused(
    tabular: dict[str, Bundle], tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    """L23: a rule is read whole, as it was written, or not at all."""
    bundle = tabular["momentum"]
    document = json.loads((bundle.path / PAYLOAD).read_text())
    change_first(document, **changes)
    with pytest.raises(BundleError, match=why):
        load_agent(again(bundle, tmp_path, files={PAYLOAD: json.dumps(document).encode()}))


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"gain": 1e400}'])
def test_what_is_no_rule_is_refused(bundle: Bundle, tmp_path: Path, payload: bytes) -> None:
    """L24: an empty or foreign file is one sentence."""
    with pytest.raises(BundleError, match=r"rule\.json"):
        load_agent(again(bundle, tmp_path, files={PAYLOAD: payload}))


def test_a_rule_without_its_file_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """L24: the file that the kind needs has to be there."""
    with pytest.raises(BundleError, match=r"the manifest lists no rule\.json"):
        load_agent(again(bundle, tmp_path, files={"model.bin": b"x"}))
