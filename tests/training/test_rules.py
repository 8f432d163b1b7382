"""Rules are fitted on the train span: what is usual, and what each detector deserves."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.rules import PAYLOAD, READINGS, Rule
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Dataset, build
from quantum_ai_engine.training.export import Trained, train_bundle
from quantum_ai_engine.training.models.momentum import FAMILY as MOMENTUM
from quantum_ai_engine.training.models.rules import Rules, likeliest, shares
from quantum_ai_engine.training.models.sigor import FAMILY as SIGOR
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

Walk = Callable[..., BarTable]
START_MS = 1_735_689_600_000


def ignore(_: Progress) -> None: ...


@pytest.fixture(scope="module", params=[SIGOR, MOMENTUM], ids=["sigor", "momentum"])
def family(request: pytest.FixtureRequest) -> Rules:
    chosen: Rules = request.param
    return chosen


@pytest.fixture(scope="module")
def dataset(family: Rules, walk: Walk) -> Dataset:
    return build(walk(), feature_set(family.feature_set), 5)


@pytest.fixture(scope="module")
def trained(family: Rules, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    table = PaperMarket(2, 6, start_ms=START_MS).table(6_000)
    return train_bundle(
        family.kind, table, tmp_path_factory.mktemp("rules"), TrainOptions(), ignore
    )


def rule(family: Rules, dataset: Dataset) -> Rule:
    files = family.fit(dataset, TrainOptions(), ignore).files
    return msgspec.json.decode(files[PAYLOAD], type=Rule)


def test_it_finds_what_is_there(trained: Trained) -> None:
    """A market with trends is forecast with skill that is no accident."""
    score = trained.bundle.manifest.held_out
    assert score.paired + 2.0 * score.paired_stderr < 0.0
    assert score.auc > 0.55


def test_the_agent_is_a_bundle_like_others(trained: Trained) -> None:
    """L03: a rule is named, calibrated, scored and hashed as every agent is."""
    manifest = trained.bundle.manifest
    assert manifest.name == manifest.kind
    assert manifest.normaliser is None
    assert manifest.inputs == ()
    assert manifest.files.keys() == {PAYLOAD}
    assert manifest.calibration.up > 0.0
    agent = load_agent(trained.bundle)
    first = trained.dataset.windows(trained.dataset.test.part(slice(200)))
    assert agent.predict(first).tobytes() == trained.probabilities[:200].tobytes()


def test_its_answers_differ(trained: Trained) -> None:
    """L01: a rule is no constant: its held-out answers lie on both sides of the base rate."""
    answers = trained.probabilities
    assert len(np.unique(answers)) > len(answers) // 2
    assert answers.min() < trained.bundle.manifest.base_rate < answers.max()


def test_the_same_bars_give_the_same_rule(family: Rules, dataset: Dataset) -> None:
    """Nothing is drawn: the same bars give the same bytes under any seed."""
    once = family.fit(dataset, TrainOptions(seed=1), ignore)
    assert family.fit(dataset, TrainOptions(seed=2), ignore) == once


def test_a_detectors_scale_is_its_usual_size(family: Rules, dataset: Dataset) -> None:
    """L16: the root mean square over the train span, and over nothing later."""
    rows = dict(zip(dataset.feature_set.columns, dataset.rows[dataset.train.row].T, strict=True))
    for detector in rule(family, dataset).detectors:
        values = READINGS[family.kind][detector.name](rows)
        assert detector.scale == pytest.approx(np.sqrt(np.mean(values**2)))


def test_weights_are_shares(family: Rules, dataset: Dataset) -> None:
    """L31: none is negative and they sum to 1."""
    weights = [detector.weight for detector in rule(family, dataset).detectors]
    assert min(weights) >= 0.0
    assert sum(weights) == pytest.approx(1.0, abs=1e-12)


def test_a_walk_with_drift_is_met_by_momentum(dataset: Dataset, family: Rules) -> None:
    """What points the wrong way in the train span gets nothing: it is not turned round."""
    weights = {d.name: d.weight for d in rule(family, dataset).detectors}
    if family.kind == "sigor":
        assert weights["momentum"] + weights["flow"] > 0.5
        assert weights["bollinger"] == 0.0


def test_it_tells_how_it_went(family: Rules, dataset: Dataset) -> None:
    """One step, with the cross-entropy of both spans."""
    told: list[Progress] = []
    fitted = family.fit(dataset, TrainOptions(), told.append)
    assert [(p.step, p.steps) for p in told] == [(1, 1)]
    assert 0.0 < told[0].train_loss < np.log(2.0)
    assert fitted.losses == fitted.libraries == fitted.inputs == ()


@settings(max_examples=30)
@given(seed=st.integers(0, 1_000), detectors=st.integers(1, 7))
def test_the_weights_are_the_likeliest(seed: int, detectors: int) -> None:
    """No weight could move, within what is allowed, and lower the loss (Karush, Kuhn, Tucker)."""
    draw = np.random.default_rng(seed)
    opinions = draw.standard_normal((400, detectors)) + draw.standard_normal((400, 1))
    true = draw.standard_normal(detectors)
    rose = (draw.random(400) < 1.0 / (1.0 + np.exp(-opinions @ true - 0.3))).astype(float)
    found = likeliest(opinions, rose)
    inputs = np.column_stack([opinions, np.ones(400)])
    slope = inputs.T @ (1.0 / (1.0 + np.exp(-inputs @ found)) - rose) / 400
    assert found[:-1].min() >= 0.0
    assert slope.min() >= -1e-5
    assert np.abs(slope[np.append(found[:-1] > 0.0, True)]).max() <= 1e-5


def test_a_rule_that_only_errs_is_refused() -> None:
    """L03: when each detector points the wrong way there is no rule, and nothing stands in."""
    rose = np.tile([1.0, 0.0], 50)
    with pytest.raises(TrainingError, match="no detector of this rule points the right way"):
        shares((1.0 - 2.0 * rose)[:, None], rose)


def test_a_rule_of_silent_detectors_is_refused(walk: Walk) -> None:
    """L01: a rule whose detectors never say anything in the train span would be a constant."""
    whole = build(walk(), feature_set("momentum2"), 5)
    dataset = dataclasses.replace(whole, rows=whole.rows * [0.0, 1.0])
    with pytest.raises(TrainingError, match="no detector of momentum says anything"):
        MOMENTUM.fit(dataset, TrainOptions(), ignore)


def test_a_silent_detector_has_no_weight(walk: Walk) -> None:
    """L19: a detector that never says anything is given no scale that could explode, and no say."""
    whole = build(walk(), feature_set("sigor10"), 5)
    no_range = [0.0 if c.startswith("or_") else 1.0 for c in whole.feature_set.columns]
    dataset = dataclasses.replace(whole, rows=whole.rows * no_range)
    rule = msgspec.json.decode(SIGOR.fit(dataset, TrainOptions(), ignore).files[PAYLOAD], type=Rule)
    breakout = next(d for d in rule.detectors if d.name == "breakout")
    assert (breakout.scale, breakout.weight) == (1.0, 0.0)
    assert abs(sum(d.weight for d in rule.detectors) - 1.0) < 1e-12


def test_a_failed_fit_leaves_nothing(walk: Walk, tmp_path: Path) -> None:
    """L23: there is a whole bundle or none."""
    with pytest.raises(TrainingError):
        train_bundle("momentum", walk(bars=60), tmp_path / "new", TrainOptions(), ignore)
    assert not (tmp_path / "new").exists()
