"""Fits a neural model to the train span; the validation span says when to stop."""

import copy
import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_ai_engine.training.dataset import Dataset, Samples
from quantum_ai_engine.training.family import Loss
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

GRADIENT_NORM = 1.0


def normal_windows(dataset: Dataset, row: Tensor) -> Tensor:
    """The windows [n, window, columns] that end at these rows [n], as a model reads them."""
    return torch.from_numpy(dataset.normalised[dataset.window_rows(row.numpy())])


def fit(
    make: Callable[[], nn.Module],
    dataset: Dataset,
    options: TrainOptions,
    progress: Callable[[Progress], None],
) -> tuple[nn.Module, tuple[Loss, ...]]:
    """A model in eval mode with the weights of its best epoch, and the losses of all epochs.

    The same dataset, options and number of torch threads give the same weights on one CPU; CUDA
    promises no such thing. Raises `TrainingError`.
    """
    device = _device(options)
    # First weights and dropout draw from torch's global generators; the caller's are put back.
    with torch.random.fork_rng(devices=[] if device.type == "cpu" else [device]):
        torch.manual_seed(options.seed)
        work = _Fit(make().to(device), dataset, options, device)
        work.run(progress)
    return work.model.cpu().eval(), tuple(work.losses)


def _device(options: TrainOptions) -> torch.device:
    """Where to fit."""
    present = torch.cuda.is_available()
    if options.device == "cuda" and not present:
        raise TrainingError("device = 'cuda', but torch finds no CUDA here; take 'cpu' or 'auto'")
    if present and options.device != "cpu":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")


def logits(
    model: Callable[[Tensor], Tensor], dataset: Dataset, samples: Samples, batch: int
) -> NDArray[np.float64]:
    """The raw answers [n] of a model in eval mode to these samples."""
    rows = torch.from_numpy(samples.row)
    with torch.no_grad():
        parts = [model(normal_windows(dataset, part)) for part in torch.split(rows, batch)]
    return torch.cat(parts).numpy().astype(np.float64)


class _Fit:
    """One training: batches drawn by a seeded generator, the best epoch's weights kept."""

    def __init__(
        self, model: nn.Module, dataset: Dataset, options: TrainOptions, device: torch.device
    ) -> None:
        self.model = model
        self._device = device
        self.losses: list[Loss] = []
        self._best_epoch = 0
        self._dataset = dataset
        self._options = options
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
            if self._best_epoch == epoch:
                best = copy.deepcopy(self.model.state_dict())
            elif epoch - self._best_epoch >= options.patience:
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
                self.losses.append(Loss(total / step, validation_loss))
            progress(
                Progress(epoch, options.epochs, step, len(batches), total / step, validation_loss)
            )

    def _step(self, epoch: int, step: int, chosen: Tensor) -> float:
        answer = self.model(normal_windows(self._dataset, self._rows[chosen]).to(self._device))
        loss = self._loss(answer, self._rose[chosen].to(self._device))
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
        answers = torch.from_numpy(
            logits(self._answer, self._dataset, samples, self._options.batch)
        )
        value = float(self._loss(answers, torch.from_numpy(samples.rose)))
        self._check(value, f"the validation of epoch {epoch}")
        if value < min((loss.validation for loss in self.losses), default=math.inf):
            self._best_epoch = epoch
        return value

    def _answer(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.model(windows.to(self._device)).cpu()
        return logits

    def _check(self, loss: float, where: str) -> None:
        if not math.isfinite(loss):
            raise TrainingError(
                f"the loss became {loss} in {where}; lower learning_rate "
                f"(now {self._options.learning_rate:g})"
            )
