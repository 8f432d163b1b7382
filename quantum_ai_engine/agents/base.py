"""What an agent is: something that turns windows of rows into P(up over the horizon)."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import HeldOut
from quantum_ai_engine.agents.normaliser import Normaliser
from quantum_ai_engine.features.histograms import Reference
from quantum_ai_engine.features.schema import FeatureSet

LARGEST_BATCH = 256


class Past(NamedTuple):
    """What an agent was before it served: what it is judged by.

    `base_rate` is the share that rose in its train span; moves of at most `dead_zone` in |ln| were
    masked there. Without `held_out` scores nothing can be tested against them, and without a
    `normaliser` nobody knows what range it was trained on, without a `reference` not how its
    features were spread.
    """

    base_rate: float = 0.5
    dead_zone: float = 0.0
    held_out: HeldOut | None = None
    normaliser: Normaliser | None = None
    reference: Reference | None = None


class Agent(Protocol):
    """A verified, warmed-up bundle. `predict` may be called from several threads at once."""

    @property
    def name(self) -> str:
        """Its own name, as in votes and metrics."""

    @property
    def bundle(self) -> str:
        """The first 12 hex digits of its manifest's SHA-256."""

    @property
    def feature_set(self) -> FeatureSet:
        """What it reads."""

    @property
    def horizon_bars(self) -> int:
        """How many bars ahead it looks."""

    @property
    def interval(self) -> str:
        """The interval of the bars it was trained on; it abstains from all others."""

    @property
    def past(self) -> Past:
        """What it was when it was trained."""

    @property
    def unavailable(self) -> str | None:
        """Why it can answer nothing on this machine and abstains from all; None when it can."""

    @property
    def clamped(self) -> int:
        """How many input values were clamped so far."""

    def warm_up(self) -> None:
        """Run every batch shape in the calling thread and replay the golden pair in each.

        Raises `BundleError` when the golden pair does not come out.
        """

    def predict(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated P(up) [n] of raw windows [n, window, columns], n at most LARGEST_BATCH."""


def in_batches(
    predict: Callable[[NDArray[np.float64]], NDArray[np.float64]], windows: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What `predict` gives [n] for one window or more [n, window, columns], however many.

    >>> in_batches(lambda windows: windows[:, 0, 0], np.ones((600, 1, 1))).shape
    (600,)
    """
    starts = range(0, len(windows), LARGEST_BATCH)
    return np.concatenate([predict(windows[start : start + LARGEST_BATCH]) for start in starts])
