"""What all agents made of a bundle share: who they are, and logits decoded to probabilities."""

import threading

import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import Past
from quantum_ai_engine.agents.bundle import Bundle
from quantum_ai_engine.features.schema import FeatureSet


class BundledAgent:
    """An agent as its manifest describes it; a kind of model adds `logits`.

    Instances answer several threads at once.
    """

    unavailable: str | None = None

    def __init__(self, bundle: Bundle) -> None:
        manifest = bundle.manifest
        self.name = manifest.name
        self.bundle = bundle.digest
        self.feature_set: FeatureSet = bundle.feature_set
        self.horizon_bars = manifest.horizon_bars
        self.interval = manifest.interval
        self.past = Past(
            manifest.base_rate,
            manifest.target.dead_zone,
            manifest.held_out,
            manifest.normaliser,
            manifest.reference,
        )
        self.clamped = 0
        self.other_versions = tuple(manifest.other_versions())
        self.source = bundle
        self._lock = threading.Lock()

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        """Raw answers [n] to raw windows [n, window, columns], and how many values were clamped.

        NaN where a window holds one.
        """
        raise NotImplementedError

    def warm_up(self) -> None:
        """Replay the golden pair in the calling thread; a kind with batch shapes runs each."""
        windows, _ = self.source.golden()
        self.source.check_golden(self.predict(windows))

    def predict(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Calibrated P(up) [n] of raw windows [n, window, columns]."""
        logits, clamped = self.logits(windows)
        with self._lock:
            self.clamped += clamped
        return self.source.manifest.calibration.apply(logits)


class UnavailableAgent(BundledAgent):
    """A bundle whose library is not installed: it is named, and it abstains from every bar."""

    def __init__(self, bundle: Bundle, why: str) -> None:
        super().__init__(bundle)
        self.unavailable = why

    def warm_up(self) -> None:
        """There is nothing to warm up."""

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        """No answer: NaN, which nobody takes for a number."""
        return np.full(len(windows), np.nan), 0
