"""The neural families: fitted in torch, served as TorchScript that answers as the fitted model."""

import io
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from quantum_ai_engine.agents.torchscript import PAYLOAD, ready
from quantum_ai_engine.training.dataset import Dataset
from quantum_ai_engine.training.family import Fitted
from quantum_ai_engine.training.fit import Windows, fit, logits
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions

TOLERANCE = 1e-5  # of a logit, between the fitted model and what is exported of it
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
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(serving), buffer)
    buffer.seek(0)
    saved: torch.jit.ScriptModule = torch.jit.load(buffer)  # type: ignore[no-untyped-call]
    windows, some = Windows(dataset), dataset.test.part(slice(COMPARED))
    expected = logits(model, windows, some, COMPARED_BATCH)
    worst = np.abs(logits(ready(saved), windows, some, COMPARED_BATCH) - expected).max()
    if not worst <= TOLERANCE:
        raise TrainingError(
            f"the scripted model differs from the trained one by {worst:.2g} in a logit "
            f"(allowed {TOLERANCE:g}); it cannot be exported, train it again"
        )
    return buffer.getvalue()
