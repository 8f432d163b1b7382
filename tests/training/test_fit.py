"""Training: repeatable, told step by step, stopped in time, and better than the base rate."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.calibrate import platt
from quantum_ai_engine.training.dataset import Dataset, build
from quantum_ai_engine.training.family import Loss
from quantum_ai_engine.training.fit import fit, logits, normal_windows
from quantum_ai_engine.training.models.gru import Gru
from quantum_ai_engine.training.models.nhits import NHits
from quantum_ai_engine.training.models.patchtst import PatchTst
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions
from quantum_ai_engine.training.scores import held_out

Walk = Callable[..., BarTable]
QUICK = TrainOptions(epochs=1, samples_per_epoch=256, batch=64, device="cpu")


def ignore(_: Progress) -> None: ...


def fitted(
    model: type[nn.Module], table: BarTable, options: TrainOptions = QUICK
) -> tuple[nn.Module, tuple[Loss, ...], Dataset]:
    data = build(table, feature_set(str(model.feature_set)), options.horizon_bars)
    return *fit(model, data, options, ignore), data


def weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("model", [Gru, PatchTst, NHits])
def test_same_seed_gives_the_same_weights(walk: Walk, model: type[nn.Module]) -> None:
    """L27: the same bars, options and seed give the same weights; another seed gives others."""
    table = walk(symbols=1, bars=1600)
    hashes = [
        weights_hash(
            fitted(
                model,
                table,
                TrainOptions(epochs=1, samples_per_epoch=128, batch=64, seed=seed, device="cpu"),
            )[0]
        )
        for seed in (0, 0, 1)
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_leaves_the_callers_random_state_alone(walk: Walk) -> None:
    """Training draws from its own seed and puts torch's generator back."""
    before = torch.random.get_rng_state()
    fitted(Gru, walk())
    assert torch.equal(torch.random.get_rng_state(), before)


def test_learns_what_can_be_learned(walk: Walk) -> None:
    """On a walk with drift regimes the held-out paired score is below 0 by several errors."""
    options = TrainOptions(epochs=3, samples_per_epoch=3000, batch=64, learning_rate=3e-3)
    model, _, data = fitted(Gru, walk(symbols=3, bars=2500), options)
    calibration = platt(logits(model, data, data.validation, 256), data.validation.rose)
    scores = held_out(
        calibration.apply(logits(model, data, data.test, 256)),
        data.test,
        data.base_rate,
        data.horizon_bars,
        INTERVAL_MS[data.interval],
    )
    assert scores.paired < -3 * scores.paired_stderr < 0.0


def test_windows_are_normalised_once_as_in_serving(walk: Walk) -> None:
    """L17: what training reads equals, bit for bit, the normaliser applied to raw windows."""
    data = build(walk(), feature_set("gru9"), 5)
    served, _ = data.normaliser.apply(data.windows(data.test))
    read = normal_windows(data, torch.from_numpy(data.test.row)).numpy()
    np.testing.assert_array_equal(read, served)


def test_tells_every_step_and_the_validation_of_every_epoch(walk: Walk) -> None:
    """Progress counts all steps; the last of each epoch brings the validation loss."""
    told: list[Progress] = []
    options = TrainOptions(epochs=2, samples_per_epoch=150, batch=64)
    fit(Gru, build(walk(), feature_set("gru9"), 5), options, told.append)
    assert [(p.epoch, p.step) for p in told] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    assert {(p.epochs, p.steps) for p in told} == {(2, 3)}
    assert [p.validation_loss is not None for p in told] == [False, False, True] * 2
    assert all(0.0 < p.train_loss < 2.0 for p in told)


def test_keeps_the_weights_of_the_best_epoch(walk: Walk) -> None:
    """Training stops after `patience` epochs without improvement and returns the best weights."""
    told: list[Progress] = []
    options = TrainOptions(epochs=30, batch=64, learning_rate=2e-2, patience=2)
    data = build(walk(drift=0.0), feature_set("gru9"), 5)
    model, curve = fit(Gru, data, options, told.append)
    losses = [p.validation_loss for p in told if p.validation_loss is not None]
    assert [loss.validation for loss in curve] == losses
    assert len(losses) == losses.index(min(losses)) + 1 + 2 < 30
    answers = logits(model, data, data.validation, 64)
    loss = nn.BCEWithLogitsLoss()(torch.from_numpy(answers), torch.from_numpy(data.validation.rose))
    assert float(loss) == pytest.approx(min(losses), rel=1e-9)
    assert not model.training


class Runaway(nn.Module):
    """Overflows float32 as soon as its one weight has moved."""

    feature_set = "gru9"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, windows: Tensor) -> Tensor:
        return windows.mean(dim=[1, 2]) * self.weight * 1e38 * 1e4  # [batch]


def test_a_loss_that_is_no_number_ends_the_training(walk: Walk) -> None:
    """L02: weights that ran away are refused; they are never exported."""
    with pytest.raises(TrainingError, match=r"the loss became .* lower learning_rate"):
        fitted(Runaway, walk())


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is CUDA here")
def test_cuda_is_refused_where_there_is_none(walk: Walk) -> None:
    """L03: asked for CUDA, a fit does not fall back to the CPU in silence."""
    with pytest.raises(TrainingError, match=r"^device = 'cuda', but torch finds no CUDA here"):
        fitted(Gru, walk(), TrainOptions(epochs=1, samples_per_epoch=64, device="cuda"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA here")
def test_what_was_fitted_on_cuda_comes_back(walk: Walk) -> None:
    """A model fitted on CUDA is handed over on the CPU, and answers there."""
    options = TrainOptions(epochs=1, samples_per_epoch=256, device="cuda")
    model, _, data = fitted(Gru, walk(), options)
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert np.isfinite(logits(model, data, data.test, 64)).all()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("horizon_bars", 0),
        ("epochs", 0),
        ("batch", -1),
        ("patience", 0),
        ("samples_per_epoch", 0),
        ("learning_rate", 0.0),
        ("learning_rate", 1e38),
        ("learning_rate", float("nan")),
        ("dead_zone", -0.1),
        ("seed", -1),
        ("name", "../up"),
        ("name", "Upper"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(key: str, value: object) -> None:
    """An option out of its range is named."""
    with pytest.raises(TrainingError, match=f"^{key} = "):
        TrainOptions(**{key: value})  # type: ignore[arg-type]
