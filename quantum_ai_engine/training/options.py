"""How to train, and where a training stands: what all families share, without their libraries."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from quantum_ai_engine.config import Venue

BUNDLE_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class TrainingError(ValueError):
    """Bars or options from which no honest bundle can come: one sentence that says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainOptions:
    """How to train. `samples_per_epoch` None means all windows of the train span.

    `patience` is the number of epochs in a row without a lower validation loss after which the
    training stops; `dead_zone` a fraction: smaller moves are left out. `name` None means the kind.
    `venues` says where symbols trade; those not named trade 24 hours UTC. `device` is where neural
    models are fitted; auto takes CUDA when it is present.
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
    device: Literal["auto", "cpu", "cuda"] = "auto"

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
    """Where a training stands; `validation_loss` is given with the last step of an epoch.

    For boosted trees an epoch is all rounds and a step is one of them.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    train_loss: float
    validation_loss: float | None
