"""Training: repeatable, told step by step, stopped in time, and better than the base rate."""

import hashlib
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.calibrate import platt
from quantum_ai_engine.training.fit import (
    Progress,
    TrainingError,
    TrainOptions,
    Windows,
    logits,
    train,
)
from quantum_ai_engine.training.models.registry import MODELS
from quantum_ai_engine.training.scores import held_out

Walk = Callable[..., BarTable]
QUICK = TrainOptions(epochs=1, samples_per_epoch=256, batch=64)


def ignore(_: Progress) -> None: ...


def weights_hash(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, value in model.state_dict().items():
        digest.update(name.encode() + value.numpy().tobytes())
    return digest.hexdigest()


@pytest.mark.parametrize("kind", MODELS)
def test_same_seed_gives_the_same_weights(walk: Walk, kind: str) -> None:
    """L27: the same bars, options and seed give the same weights; another seed gives others."""
    table = walk(symbols=1, bars=1600)
    seeds = [0, 0, 1]
    hashes = [
        weights_hash(
            train(
                kind,
                table,
                TrainOptions(epochs=1, samples_per_epoch=128, batch=64, seed=seed),
                ignore,
            ).model
        )
        for seed in seeds
    ]
    assert hashes[0] == hashes[1] != hashes[2]


def test_leaves_the_callers_random_state_alone(walk: Walk) -> None:
    """Training draws from its own seed and puts torch's generator back."""
    before = torch.random.get_rng_state()
    train("gru", walk(), QUICK, ignore)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_learns_what_can_be_learned(walk: Walk) -> None:
    """On a walk with drift regimes the held-out paired score is below 0 by several errors."""
    options = TrainOptions(epochs=3, samples_per_epoch=3000, batch=64, learning_rate=3e-3)
    trained = train("gru", walk(symbols=3, bars=2500), options, ignore)
    data, windows = trained.dataset, Windows(trained.dataset)
    calibration = platt(logits(trained.model, windows, data.validation, 256), data.validation.rose)
    scores = held_out(
        calibration.apply(logits(trained.model, windows, data.test, 256)),
        data.test.rose,
        data.base_rate,
        data.test.close_time,
        data.horizon_bars,
        INTERVAL_MS[data.interval],
    )
    assert scores.paired < -3 * scores.paired_stderr < 0.0


def test_windows_are_normalised_once_as_in_serving(walk: Walk) -> None:
    """L17: what training reads equals, bit for bit, the normaliser applied to raw windows."""
    data = train("gru", walk(), QUICK, ignore).dataset
    served, _ = data.normaliser.apply(data.windows(data.test))
    read = Windows(data).get(torch.from_numpy(data.test.row)).numpy()
    np.testing.assert_array_equal(read, served)


def test_tells_every_step_and_the_validation_of_every_epoch(walk: Walk) -> None:
    """Progress counts all steps; the last of each epoch brings the validation loss."""
    told: list[Progress] = []
    options = TrainOptions(epochs=2, samples_per_epoch=150, batch=64)
    train("gru", walk(), options, told.append)
    assert [(p.epoch, p.step) for p in told] == [(e, s) for e in (1, 2) for s in (1, 2, 3)]
    assert {(p.epochs, p.steps) for p in told} == {(2, 3)}
    assert [p.validation_loss is not None for p in told] == [False, False, True] * 2
    assert all(0.0 < p.train_loss < 2.0 for p in told)


def test_keeps_the_weights_of_the_best_epoch(walk: Walk) -> None:
    """Training stops after `patience` epochs without improvement and returns the best weights."""
    told: list[Progress] = []
    options = TrainOptions(epochs=30, batch=64, learning_rate=2e-2, patience=2)
    trained = train("gru", walk(drift=0.0), options, told.append)
    losses = [p.validation_loss for p in told if p.validation_loss is not None]
    assert len(losses) == trained.best_epoch + 2 < 30
    assert trained.validation_loss == losses[trained.best_epoch - 1] == min(losses)
    answers = logits(trained.model, Windows(trained.dataset), trained.dataset.validation, 64)
    loss = nn.BCEWithLogitsLoss()(
        torch.from_numpy(answers), torch.from_numpy(trained.dataset.validation.rose)
    )
    assert float(loss) == pytest.approx(trained.validation_loss, rel=1e-9)
    assert not trained.model.training


class Runaway(nn.Module):
    """Overflows float32 as soon as its one weight has moved."""

    feature_set = "gru9"

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self, windows: Tensor) -> Tensor:
        return windows.mean(dim=[1, 2]) * self.weight * 1e38 * 1e4  # [batch]


def test_a_loss_that_is_no_number_ends_the_training(
    walk: Walk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L02: weights that ran away are refused; they are never exported."""
    monkeypatch.setitem(MODELS, "runaway", Runaway)
    with pytest.raises(TrainingError, match=r"the loss of runaway became .* lower learning_rate"):
        train("runaway", walk(), QUICK, ignore)


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


def test_an_unknown_kind_names_those_that_exist(walk: Walk) -> None:
    """L03: another kind is not replaced by a known one."""
    with pytest.raises(TrainingError, match="no kind 'lstm' can be trained; there are gru, patch"):
        train("lstm", walk(), QUICK, ignore)
