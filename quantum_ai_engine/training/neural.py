"""The neural families: fitted in torch, served as TorchScript that answers as the fitted model."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from quantum_ai_engine.agents.torchscript import PAYLOAD, opened, ready
from quantum_ai_engine.training.dataset import Dataset
from quantum_ai_engine.training.family import Fitted
from quantum_ai_engine.training.fit import fit, logits
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

TOLERANCE = 1e-5  # between the fitted model and what is exported of it, of a logit of at most 1
COMPARED = 512  # held-out windows on which the two are compared, in batches, so that the
COMPARED_BATCH = 64  # executor has specialised before the last of them


@dataclass(frozen=True, slots=True)
class Neural:
    """A family of torch modules that answer one logit per window.

    With `one_thread` they are fitted in one: steps as small as a recurrent layer's lose more by
    waiting for each other than they win, many times more on a busy machine.
    """

    model: type[nn.Module]
    feature_set: str
    one_thread: bool = False

    def fit(
        self, dataset: Dataset, options: TrainOptions, progress: Callable[[Progress], None]
    ) -> Fitted:
        if self.one_thread:
            torch.set_num_threads(1)  # who trains puts it back
        model, losses = fit(self.model, dataset, options, progress)
        return Fitted({PAYLOAD: script(model, dataset)}, (), True, losses, ("torch",))


def script(model: nn.Module, dataset: Dataset) -> bytes:
    """The model in its serving form as TorchScript, which answers held-out windows as it does.

    Raises `TrainingError` when it does not: there is no other form to fall back to.
    """
    model.eval()
    for_serving: Callable[[], nn.Module] = getattr(model, "for_serving", lambda: model)
    serving = for_serving().eval()
    payload = scripted(serving)
    some = dataset.test.part(slice(COMPARED))
    expected = logits(model, dataset, some, COMPARED_BATCH)
    worst = np.abs(logits(ready(opened(payload)), dataset, some, COMPARED_BATCH) - expected).max()
    most = allowed(float(np.abs(expected).max()))
    if not worst <= most:
        raise TrainingError(
            f"the scripted model differs from the trained one by {worst:.2g} in a logit "
            f"(allowed {most:.2g}); it cannot be exported, train it again"
        )
    return payload


def scripted(serving: nn.Module) -> bytes:
    """A module in its serving form as TorchScript: the same bytes in each process."""
    # TorchScript writes the set of a module's constants in the order of their hashes, another one
    # in each process. Numbers and None are attributes as well; only tuples must be constants.
    for module in serving.modules():
        names: list[str] = getattr(module, "__constants__", [])
        kept: Any = [name for name in names if isinstance(getattr(module, name), tuple)]
        module.__constants__ = kept
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(serving), buffer)
    return buffer.getvalue()


def allowed(largest: float) -> float:
    """How far a logit may be off where the `largest` in size is that: float32 rounds by share."""
    return TOLERANCE * max(1.0, largest)
