"""Export: the bundle that serves is the model that was fitted, or there is none."""

import dataclasses
import io
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_ai_engine.agents.base import Agent
from quantum_ai_engine.agents.bundle import Bundle, BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Dataset, build
from quantum_ai_engine.training.export import Trained, train_bundle
from quantum_ai_engine.training.fit import fit, logits, normal_windows
from quantum_ai_engine.training.models.gru import Gru
from quantum_ai_engine.training.neural import script
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions
from quantum_ai_engine.training.reference import reference

Walk = Callable[..., BarTable]
Floats = NDArray[np.float64]
KINDS = ("gru", "xgboost", "lightgbm", "sigor", "momentum")
LIBRARIES = {"gru": {"torch"}, "xgboost": {"xgboost-cpu"}, "lightgbm": {"lightgbm"}}
QUICK = TrainOptions(epochs=1, samples_per_epoch=256, batch=64)


def ignore(_: Progress) -> None: ...


@pytest.fixture(scope="module", params=KINDS)
def trained(
    request: pytest.FixtureRequest, walk: Walk, tmp_path_factory: pytest.TempPathFactory
) -> Trained:
    directory = tmp_path_factory.mktemp(request.param)
    return train_bundle(request.param, walk(bars=1600), directory, QUICK, ignore)


@pytest.fixture(scope="module")
def bundle(trained: Trained) -> Bundle:
    return trained.bundle


@pytest.fixture(scope="module")
def dataset(bundle: Bundle, walk: Walk) -> Dataset:
    return build(walk(bars=1600), bundle.feature_set, bundle.manifest.horizon_bars)


@pytest.fixture(scope="module")
def gru_data(walk: Walk) -> Dataset:
    return build(walk(bars=1600), feature_set("gru9"), 5)


def answers(agent: Agent, raw: Floats) -> Floats:
    return np.concatenate([agent.predict(raw[i : i + 256]) for i in range(0, len(raw), 256)])


def test_the_gru_answers_as_the_fitted_model(gru_data: Dataset, walk: Walk, tmp_path: Path) -> None:
    """L22: held-out windows give the agent what the model in eager mode gives, calibrated."""
    bundle = train_bundle("gru", walk(bars=1600), tmp_path, QUICK, ignore).bundle
    model, _ = fit(Gru, gru_data, QUICK, ignore)
    eager = logits(model, gru_data, gru_data.test, 256)
    raw = gru_data.windows(gru_data.test)[:200]
    expected = bundle.manifest.calibration.apply(eager[:200])
    np.testing.assert_allclose(load_agent(bundle).predict(raw), expected, atol=1e-5)


def test_the_report_is_of_the_agent_that_serves(trained: Trained) -> None:
    """L22: the probabilities of a training are those of the written bundle, read again."""
    raw = trained.dataset.windows(trained.dataset.test)
    served = answers(load_agent(read_bundle(trained.bundle.path)), raw)
    np.testing.assert_allclose(trained.probabilities, served, atol=1e-7)


def test_golden_pair_is_of_held_out_windows(bundle: Bundle, dataset: Dataset) -> None:
    """L20: the golden windows are real, raw and held out, and the agent answers them alike."""
    windows, probabilities = bundle.golden()
    np.testing.assert_array_equal(windows, dataset.windows(dataset.test)[[0, -1]])
    np.testing.assert_allclose(load_agent(bundle).predict(windows), probabilities, atol=1e-5)


def test_the_manifest_tells_how_it_was_trained(bundle: Bundle, dataset: Dataset) -> None:
    """L27: spans, embargo, data hash, target, base rate and library versions are stated."""
    manifest = bundle.manifest
    assert manifest.spans.data_sha256 == dataset.data_sha256
    assert manifest.spans.symbols == dataset.symbols
    assert manifest.spans.embargo_bars == 5 + dataset.feature_set.window
    assert manifest.spans.train.to_ms < manifest.spans.validation.from_ms
    assert manifest.spans.validation.to_ms < manifest.spans.test.from_ms
    assert manifest.spans.test.samples == manifest.held_out.samples == len(dataset.test)
    assert manifest.base_rate == dataset.base_rate
    assert manifest.normaliser == (dataset.normaliser if manifest.kind == "gru" else None)
    assert manifest.reference == reference(dataset)
    assert manifest.reference is not None
    assert manifest.reference.columns.keys() <= set(manifest.columns)
    assert (manifest.labels.rose, manifest.labels.fell) == (
        int(dataset.train.rose.sum()),
        int((1.0 - dataset.train.rose).sum()),
    )
    assert manifest.target.definition.startswith("1 if ln(close[t + 5] / close[t]) > 0")
    ours = {"numba", "numpy", "python", "quantum-ai-engine"}
    theirs = LIBRARIES.get(manifest.kind, set())
    assert manifest.libraries.keys() == ours | theirs
    assert all(manifest.libraries[name] == version(name) for name in theirs)


def test_held_out_scores_are_those_of_the_agent(bundle: Bundle, dataset: Dataset) -> None:
    """L20: the scores in the manifest are those of the probabilities that the agent gives."""
    p = answers(load_agent(bundle), dataset.windows(dataset.test))
    scores = bundle.manifest.held_out
    assert scores.brier == pytest.approx(np.mean((p - dataset.test.rose) ** 2), abs=1e-6)
    assert scores.bias == pytest.approx(np.mean(p - dataset.test.rose), abs=1e-6)
    assert sum(b.count for b in scores.reliability) == scores.samples


def test_a_golden_pair_of_another_model_is_refused(
    bundle: Bundle, walk: Walk, tmp_path: Path
) -> None:
    """L23: the same bundle with another model's golden answers does not warm up."""
    manifest = bundle.manifest
    wrong = tuple(1.0 - p for p in manifest.golden.probabilities)
    golden = msgspec.structs.replace(manifest.golden, probabilities=wrong)
    changed = msgspec.structs.replace(manifest, golden=golden)
    for name in manifest.files:
        (tmp_path / name).write_bytes((bundle.path / name).read_bytes())
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(changed))
    with pytest.raises(BundleError, match="golden input gives probabilities off"):
        load_agent(read_bundle(tmp_path)).warm_up()


class Branching(nn.Module):
    """Answers by another path once it is scripted, as a faulty model would."""

    def forward(self, windows: Tensor) -> Tensor:
        total = windows.mean(dim=[1, 2])  # [batch]
        return total + 1.0 if torch.jit.is_scripting() else total


def test_a_graph_that_differs_is_not_exported(gru_data: Dataset) -> None:
    """L22: when TorchScript answers otherwise than the model, export fails; nothing falls back."""
    with pytest.raises(TrainingError, match="the scripted model differs from the trained one by 1"):
        script(Branching(), gru_data)


@pytest.mark.parametrize("size", [1.0, 1e4])
def test_logits_may_be_off_by_their_size(gru_data: Dataset, size: float) -> None:
    """L22: float32 rounds by a share: a confident model is exported, one that differs is not."""

    class Confident(Branching):
        """Logits near `size`; scripted it is off by two shares of them."""

        def forward(self, windows: Tensor) -> Tensor:
            total = self.size + 0.0 * windows.mean(dim=[1, 2])  # [batch]
            return total + self.off * self.size if torch.jit.is_scripting() else total

        def __init__(self, size: float, off: float) -> None:
            super().__init__()
            self.size, self.off = size, off

    script(Confident(size, 0.5e-5), gru_data)
    with pytest.raises(TrainingError, match="cannot be exported"):
        script(Confident(size, 2e-5), gru_data)


def test_exports_in_eval_mode_whatever_it_is_given(gru_data: Dataset) -> None:
    """L22: a model that is still in training mode is exported without dropout."""
    model = Gru(dropout=0.5).train()
    module = torch.jit.load(io.BytesIO(script(model, gru_data)))
    assert module.training is False
    windows = normal_windows(gru_data, torch.from_numpy(gru_data.test.row[:20]))
    with torch.no_grad():
        torch.testing.assert_close(module(windows), model.eval()(windows))
        assert torch.equal(module(windows), module(windows))


def test_an_existing_bundle_is_refused_before_the_training(walk: Walk, tmp_path: Path) -> None:
    """L23: a bundle is never overwritten, and that is said before the work is done."""
    (tmp_path / "mine").mkdir()
    told: list[Progress] = []
    options = TrainOptions(epochs=1, name="mine")
    with pytest.raises(TrainingError, match="exists; remove it or choose another --name"):
        train_bundle("gru", walk(), tmp_path, options, told.append)
    assert not told


def test_a_place_that_cannot_be_written_is_refused_before_the_training(
    walk: Walk, tmp_path: Path
) -> None:
    """L23: nobody waits for a training whose bundle has no place."""
    (tmp_path / "file").write_text("")
    told: list[Progress] = []
    for place in (tmp_path / "file", tmp_path / "file" / "in"):
        with pytest.raises(OSError, match=r"File exists|Not a directory"):
            train_bundle("gru", walk(), place, QUICK, told.append)
    assert not told


def test_a_failed_training_leaves_nothing_behind(walk: Walk, tmp_path: Path) -> None:
    """L23: there is a whole bundle or none."""
    with pytest.raises(TrainingError):
        train_bundle("gru", walk(bars=60), tmp_path / "new", QUICK, ignore)
    assert not (tmp_path / "new").exists()


def test_torch_keeps_its_threads(walk: Walk, tmp_path: Path) -> None:
    """The agent's single thread does not slow the next training down."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        named = dataclasses.replace(QUICK, name="short")
        made = train_bundle("gru", walk(bars=1600), tmp_path, named, ignore)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert made.bundle.path == tmp_path / "short"
