"""Agents whose model is a frozen TorchScript module: logits from normalised windows."""

import threading
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle, BundleError
from quantum_ai_engine.features.schema import FeatureSet

PAYLOAD = "model.pt"
CANDIDATE_BATCHES = (4, 8, 16, 32, 64, 128, LARGEST_BATCH)
WARM_UP_RUNS = 3  # the profiling executor specialises during the first two runs of a shape


class TorchScriptAgent:
    """One TorchScript bundle.

    Inputs are padded to a few batch shapes. Only those shapes are used whose answers agree bit for
    bit with the largest one's, so that a bar's probability does not depend on which other bars
    arrived with it. Each thread fills its own preallocated tensors.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.name = bundle.manifest.name
        self.bundle = bundle.digest
        self.feature_set: FeatureSet = bundle.feature_set
        self.horizon_bars = bundle.manifest.horizon_bars
        self.interval = bundle.manifest.interval
        self.batches: tuple[int, ...] = (LARGEST_BATCH,)
        self.clamped = 0
        self._bundle = bundle
        self._module = _load(bundle.path / PAYLOAD)
        self._thread = threading.local()
        self._lock = threading.Lock()

    def prove_batches(self) -> None:
        """Keep the batch shapes that give the bits of the largest one on seeded noise."""
        torch.set_num_threads(1)  # as in the workers: parallelism comes from them
        shape = (LARGEST_BATCH, self.feature_set.window, len(self.feature_set.columns))
        noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self.batches = CANDIDATE_BATCHES
        try:
            reference = self._logits(noise, LARGEST_BATCH)
        except (RuntimeError, ValueError, AttributeError) as error:
            raise self._refused("does not answer windows of its feature set with logits") from error
        half = LARGEST_BATCH // 2
        among_others = np.concatenate([noise[:half], -noise[half:]])
        if (self._logits(among_others, LARGEST_BATCH) != reference)[:half].any():
            raise self._refused("gives no answer that depends on the window alone")
        self.batches = tuple(
            batch
            for batch in CANDIDATE_BATCHES
            if np.array_equal(self._logits(noise, batch), reference, equal_nan=True)
        )

    def _refused(self, what: str) -> BundleError:
        return BundleError(f"bundle {self._bundle.path}: the model {what}; export it again")

    def warm_up(self) -> None:
        torch.set_num_threads(1)
        windows, _ = self._bundle.golden()
        for batch in self.batches:
            full = np.resize(windows, (batch, *windows.shape[1:]))
            for _ in range(WARM_UP_RUNS):
                got = self._answer(full)[0]
            self._bundle.check_golden(got)

    def predict(self, windows: NDArray[np.float64]) -> NDArray[np.float64]:
        probabilities, clamped = self._answer(windows)
        with self._lock:
            self.clamped += clamped
        return probabilities

    def _answer(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        normal, clamped = self._bundle.manifest.normaliser.apply(windows)
        batch = next(batch for batch in self.batches if batch >= len(normal))
        return self._bundle.manifest.calibration.apply(self._logits(normal, batch)), clamped

    def _logits(self, normal: NDArray[np.float32], batch: int) -> NDArray[np.float64]:
        """Logits [n] of normalised windows [n, window, columns] in chunks of one batch shape."""
        logits = np.empty(len(normal))
        with torch.inference_mode():
            for start in range(0, len(normal), batch):
                chunk = normal[start : start + batch]
                inputs = self._buffer(batch)
                inputs.numpy()[: len(chunk)] = chunk
                logits[start : start + len(chunk)] = self._module(inputs).numpy()[: len(chunk)]
        return logits

    def _buffer(self, batch: int) -> torch.Tensor:
        buffers: dict[int, torch.Tensor] | None = getattr(self._thread, "buffers", None)
        if buffers is None:
            shape = (self.feature_set.window, len(self.feature_set.columns))
            buffers = {b: torch.zeros((b, *shape)) for b in CANDIDATE_BATCHES}
            self._thread.buffers = buffers
        return buffers[batch]


def _load(path: Path) -> torch.jit.ScriptModule:
    try:
        module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
            str(path), map_location="cpu"
        )
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise BundleError(f"{path} is not a TorchScript module: {reason}") from error
    if getattr(module, "training", None) is not False:
        raise BundleError(f"{path} does not say that it was exported in eval mode; export it so")
    return module
