"""Boosted trees: found signals, repeatable bits, and the agent's answers are the booster's own."""

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
import pytest
import xgboost
from numpy.typing import NDArray

from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.paper import PaperMarket
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Dataset, build
from quantum_ai_engine.training.export import Trained, train_bundle
from quantum_ai_engine.training.family import Fitted
from quantum_ai_engine.training.models import trees
from quantum_ai_engine.training.models.trees import INPUTS, LIGHTGBM, ROUNDS, XGBOOST, Span, Trees
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

Walk = Callable[..., BarTable]
START_MS = 1_735_689_600_000


def ignore(_: Progress) -> None: ...


@pytest.fixture(scope="module")
def dataset(walk: Walk) -> Dataset:
    return build(walk(), feature_set("tree173"), 5)


@pytest.fixture(scope="module", params=[XGBOOST, LIGHTGBM], ids=["xgboost", "lightgbm"])
def family(request: pytest.FixtureRequest) -> Trees:
    chosen: Trees = request.param
    return chosen


@pytest.fixture(scope="module")
def fitted(family: Trees, dataset: Dataset) -> tuple[Fitted, list[Progress]]:
    told: list[Progress] = []
    return family.fit(dataset, TrainOptions(seed=3), told.append), told


@pytest.fixture(scope="module")
def trained(family: Trees, tmp_path_factory: pytest.TempPathFactory) -> Trained:
    table = PaperMarket(2, 6, start_ms=START_MS).table(6_000)
    return train_bundle(
        family.kind, table, tmp_path_factory.mktemp("trees"), TrainOptions(), ignore
    )


def inputs(dataset: Dataset, windows: NDArray[np.float64]) -> NDArray[np.float32]:
    """What trees read of windows, named value by named value."""
    columns = dataset.feature_set.columns
    picked = []
    for name in INPUTS:
        column, _, back = name.partition("@")
        picked.append(windows[:, -1 - int(back or 0), columns.index(column)])
    return np.stack(picked, axis=1).astype(np.float32)


def own_answers(bundle_path: Path, kind: str, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The logits that the library itself gives, read from its own file."""
    if kind == "xgboost":
        booster = xgboost.Booster(model_file=str(bundle_path / "model.json"))
        return np.float64(booster.predict(xgboost.DMatrix(rows), output_margin=True))
    model = lightgbm.Booster(model_file=str(bundle_path / "model.txt"))
    return np.asarray(model.predict(rows, raw_score=True))


def test_the_agent_answers_as_the_booster(trained: Trained) -> None:
    """L22: held-out windows give the agent the bits of the library's own prediction."""
    dataset, manifest = trained.dataset, trained.bundle.manifest
    windows = dataset.windows(dataset.test)
    own = own_answers(trained.bundle.path, manifest.kind, inputs(dataset, windows))
    agent = load_agent(trained.bundle)
    parts = [agent.predict(windows[i : i + 200]) for i in range(0, len(windows), 200)]
    assert np.concatenate(parts).tobytes() == manifest.calibration.apply(own).tobytes()
    assert trained.probabilities.tobytes() == manifest.calibration.apply(own).tobytes()


def test_it_finds_what_is_there(trained: Trained) -> None:
    """A market with trends is forecast with skill that is no accident."""
    score = trained.bundle.manifest.held_out
    assert score.paired + 2.0 * score.paired_stderr < 0.0
    assert score.auc > 0.55


def test_the_manifest_says_what_is_read(trained: Trained) -> None:
    """L12: inputs are named, rows are raw, and the library's version is stated."""
    manifest = trained.bundle.manifest
    assert manifest.inputs == INPUTS
    assert manifest.normaliser is None
    assert {"xgboost-cpu", "xgboost", "lightgbm"} & manifest.libraries.keys()


def test_the_same_bars_give_the_same_file(
    family: Trees, dataset: Dataset, fitted: tuple[Fitted, list[Progress]]
) -> None:
    """The same bars, options and seed give the same bytes; another seed gives others."""
    assert family.fit(dataset, TrainOptions(seed=3), ignore).files == fitted[0].files
    assert family.fit(dataset, TrainOptions(seed=4), ignore).files != fitted[0].files


def test_rounds_are_told_and_kept(fitted: tuple[Fitted, list[Progress]]) -> None:
    """Each round is told with both losses, and they are those of the report."""
    found, told = fitted
    assert [(p.train_loss, p.validation_loss) for p in told] == [tuple(x) for x in found.losses]
    assert [p.step for p in told] == list(range(1, len(told) + 1))
    assert {(p.epoch, p.epochs, p.steps) for p in told} == {(1, 1, ROUNDS)}
    assert found.losses[-1].train < found.losses[0].train < np.log(2.0)


def test_the_losses_are_those_of_the_spans(
    family: Trees, dataset: Dataset, fitted: tuple[Fitted, list[Progress]], tmp_path: Path
) -> None:
    """The loss of the best round is the cross-entropy of the file on the validation span."""
    found = fitted[0]
    for name, data in found.files.items():
        (tmp_path / name).write_bytes(data)
    rows = inputs(dataset, dataset.windows(dataset.validation))
    z = own_answers(tmp_path, family.kind, rows)
    loss = np.mean(np.logaddexp(0.0, z) - dataset.validation.rose * z)
    assert loss == pytest.approx(min(x.validation for x in found.losses), abs=1e-6)


def test_it_stops_when_validation_says_so(
    family: Trees, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So many rounds after the best one the training ends, and the best one is kept."""
    monkeypatch.setattr(trees, "PATIENCE", 3)
    found = family.fit(dataset, TrainOptions(), ignore)
    best = int(np.argmin([loss.validation for loss in found.losses]))
    assert len(found.losses) == min(best + 1 + 3, ROUNDS)


def test_a_part_of_the_windows_can_be_drawn(family: Trees, dataset: Dataset) -> None:
    """L38: `samples_per_epoch` has an effect: so many windows, the same each time."""
    few = TrainOptions(samples_per_epoch=300)
    assert family.fit(dataset, few, ignore).files == family.fit(dataset, few, ignore).files
    assert (
        family.fit(dataset, few, ignore).files != family.fit(dataset, TrainOptions(), ignore).files
    )


def test_no_later_bar_is_read(dataset: Dataset, walk: Walk) -> None:
    """L16: bars after the train span do not change what it is fitted to."""
    table = walk()
    later = table.open_time > dataset.train.close_time[-1] + 6 * 60_000
    ohlcv = np.where(later[:, None], table.ohlcv * 1.5, table.ohlcv)
    other = build(dataclasses.replace(table, ohlcv=ohlcv), feature_set("tree173"), 5)
    ours, theirs = (trees._span(d, d.train) for d in (dataset, other))
    assert ours.inputs.tobytes() == theirs.inputs.tobytes()


def test_inputs_are_columns_and_lags() -> None:
    """L14: all columns of the newest row, then lags, none twice and none that returns have."""
    columns = feature_set("tree173").columns
    assert INPUTS[: len(columns)] == columns
    assert len(set(INPUTS)) == len(INPUTS) == 173 + 8 * 4
    assert not any(name.startswith("ret_") for name in INPUTS[173:])


def test_training_without_the_library_says_what_to_install(
    family: Trees, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing library is one sentence."""
    monkeypatch.setitem(sys.modules, family.kind, None)
    with pytest.raises(TrainingError, match=rf"needs {family.kind}: pip install '.*\[trees\]'"):
        family.fit(dataset, TrainOptions(), ignore)


def test_what_lightgbm_refuses_is_one_sentence() -> None:
    """A library's own error becomes ours."""
    span = Span(np.zeros((60, len(INPUTS)), np.float32), np.zeros(59))
    with pytest.raises(TrainingError, match="LightGBM cannot train on these bars"):
        LIGHTGBM.boost(span, span, 0, lambda *_: True)
