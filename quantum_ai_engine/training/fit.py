"""Fits a model to the train span; the validation span says when to stop."""

import copy
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import Dataset, Samples, TrainingError, build
from quantum_ai_engine.training.models.registry import MODELS

GRADIENT_NORM = 1.0
BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. `samples_per_epoch` None means all windows of the train span.

    `patience` is the number of epochs in a row without a lower validation loss after which the
    training stops; `dead_zone` a fraction: smaller moves are left out. `name` None means the kind.
    `venues` says where symbols trade; those not named trade 24 hours UTC.
    """

    horizon_bars: int = 5
    epochs: int = 8
    batch: int = 256
    learning_rate: float = 1e-3
    seed: int = 0
    patience: int = 2
    samples_per_epoch: int | None = None
    name: str | None = None
    dead_zone: float = 0.0
    venues: Mapping[str, Venue] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("horizon_bars", "epochs", "batch", "patience", "samples_per_epoch"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise TrainingError(f"{key} = {value} must be at least 1")
        if not 0.0 < self.learning_rate <= 1.0:
            raise TrainingError(f"learning_rate = {self.learning_rate} must be above 0, at most 1")
        if not 0.0 <= self.dead_zone < 1.0:
            raise TrainingError(f"dead_zone = {self.dead_zone} must be a fraction from 0 to 1")
        if not 0 <= self.seed < 2**63:
            raise TrainingError(f"seed = {self.seed} must be from 0 to 2^63 − 1")
        if self.name is not None and not BUNDLE_NAME.fullmatch(self.name):
            raise TrainingError(
                f"name = {self.name!r} must be 1 to 32 of a–z, 0–9, _ and -, letter or digit first"
            )


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands; `validation_loss` is given with the last step of an epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    train_loss: float
    validation_loss: float | None


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """A model in eval mode with the weights of its best epoch, and the data it was fitted to."""

    kind: str
    model: nn.Module
    dataset: Dataset
    options: TrainOptions
    best_epoch: int
    validation_loss: float


class Windows:
    """Normalised windows of a dataset as tensors, gathered where they are asked for."""

    def __init__(self, dataset: Dataset) -> None:
        normal, _ = dataset.normaliser.apply(dataset.rows)
        self._rows = torch.from_numpy(normal)
        self._back = torch.arange(1 - dataset.feature_set.window, 1)

    def get(self, row: Tensor) -> Tensor:
        """The windows [n, window, columns] that end at these rows [n]."""
        return self._rows[row.unsqueeze(1) + self._back]  # [n, window, columns]


def train(
    kind: str,
    table: BarTable,
    options: TrainOptions,
    progress: Callable[[Progress], None],
) -> Trained:
    """Fit a model of that kind to the bars. Raises `TrainingError`.

    The same bars, options and number of torch threads give the same weights on one machine.
    """
    if kind not in MODELS:
        raise TrainingError(f"no kind {kind!r} can be trained; there are {', '.join(MODELS)}")
    model_type = MODELS[kind]
    dataset = build(
        table,
        feature_set(model_type.feature_set),
        options.horizon_bars,
        options.dead_zone,
        calendars=Calendars(options.venues),
    )
    # First weights and dropout draw from torch's global generator; the caller's is put back.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        fit = _Fit(kind, model_type(), dataset, options)
        fit.run(progress)
    return Trained(
        kind, fit.model.eval(), dataset, options, fit.best_epoch, fit.best_validation_loss
    )


def logits(
    model: Callable[[Tensor], Tensor], windows: Windows, samples: Samples, batch: int
) -> NDArray[np.float64]:
    """The raw answers [n] of a model in eval mode to these samples."""
    rows = torch.from_numpy(samples.row)
    with torch.no_grad():
        parts = [model(windows.get(part)) for part in torch.split(rows, batch)]
    return torch.cat(parts).numpy().astype(np.float64)


class _Fit:
    """One training: batches drawn by a seeded generator, the best epoch's weights kept."""

    def __init__(
        self, kind: str, model: nn.Module, dataset: Dataset, options: TrainOptions
    ) -> None:
        self.model = model
        self.best_epoch = 0
        self.best_validation_loss = math.inf
        self._kind = kind
        self._dataset = dataset
        self._options = options
        self._windows = Windows(dataset)
        self._rows = torch.from_numpy(dataset.train.row)
        self._rose = torch.from_numpy(dataset.train.rose).float()
        self._loss = nn.BCEWithLogitsLoss()
        self._optimiser = torch.optim.AdamW(model.parameters(), lr=options.learning_rate)
        self._draw = torch.Generator().manual_seed(options.seed)

    def run(self, progress: Callable[[Progress], None]) -> None:
        options = self._options
        best = copy.deepcopy(self.model.state_dict())
        for epoch in range(1, options.epochs + 1):
            self._epoch(epoch, progress)
            if self.best_epoch == epoch:
                best = copy.deepcopy(self.model.state_dict())
            elif epoch - self.best_epoch >= options.patience:
                break
        self.model.load_state_dict(best)

    def _epoch(self, epoch: int, progress: Callable[[Progress], None]) -> None:
        """All steps of an epoch, then the validation loss; both are told to `progress`."""
        options = self._options
        size = min(options.samples_per_epoch or len(self._rows), len(self._rows))
        order = torch.randperm(len(self._rows), generator=self._draw)
        batches = torch.split(order[:size], options.batch)
        self.model.train()
        total, validation_loss = 0.0, None
        for step, chosen in enumerate(batches, start=1):
            total += self._step(epoch, step, chosen)
            if step == len(batches):
                validation_loss = self._validate(epoch)
            progress(
                Progress(epoch, options.epochs, step, len(batches), total / step, validation_loss)
            )

    def _step(self, epoch: int, step: int, chosen: Tensor) -> float:
        answer = self.model(self._windows.get(self._rows[chosen]))
        loss = self._loss(answer, self._rose[chosen])
        value = float(loss.detach())
        self._check(value, f"step {step} of epoch {epoch}")
        self._optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        self._optimiser.step()
        return value

    def _validate(self, epoch: int) -> float:
        samples = self._dataset.validation
        self.model.eval()
        answers = torch.from_numpy(logits(self.model, self._windows, samples, self._options.batch))
        value = float(self._loss(answers, torch.from_numpy(samples.rose)))
        self._check(value, f"the validation of epoch {epoch}")
        if value < self.best_validation_loss:
            self.best_epoch, self.best_validation_loss = epoch, value
        return value

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss of {self._kind} became {loss} in {where}; lower learning_rate "
                f"(now {self._options.learning_rate:g})"
            )
