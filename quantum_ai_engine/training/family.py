"""What a family of models is to the training: something that fits a dataset and gives a payload."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from quantum_ai_engine.training.dataset import Dataset
from quantum_ai_engine.training.options import Progress, TrainOptions


class Loss(NamedTuple):
    """Mean cross-entropy after an epoch or a boosting round, on the train and validation spans."""

    train: float
    validation: float


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted model as its agent will load it.

    `files` are the payload, `inputs` the names of what a tabular model reads (see `Manifest`),
    `normalised` whether it reads rows standardised by the dataset's normaliser, `losses` how the
    fit went (none for rules), `libraries` the packages whose versions decide its answers.
    """

    files: dict[str, bytes]
    inputs: tuple[str, ...]
    normalised: bool
    losses: tuple[Loss, ...]
    libraries: tuple[str, ...]


class Family(Protocol):
    """One kind of model."""

    @property
    def feature_set(self) -> str:
        """The name of the set that it reads."""

    def fit(
        self, dataset: Dataset, options: TrainOptions, progress: Callable[[Progress], None]
    ) -> Fitted:
        """Fit to the train span; the validation span says when to stop. The same bits each time.

        Raises `TrainingError`.
        """
