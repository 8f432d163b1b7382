"""Agents whose model is a frozen TorchScript module: logits from normalised windows."""

import io
import threading
import warnings

import numpy as np
import torch
from numpy.typing import NDArray

from quantum_ai_engine.agents.archive import check_archive
from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle, BundleError, printable
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.agents.normaliser import Normaliser, Standardiser

PAYLOAD = "model.pt"
CANDIDATE_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, LARGEST_BATCH)
PROVEN_WINDOWS = 16  # of each shape, or one batch of it
# The executor specialises while a bundle is loaded; what is left to each thread is to fill its
# caches of oneDNN's primitives, and to see that the second run of a shape answers as the first.
WARM_UP_RUNS = 2

# What torch raises for an archive or module that is no model of ours; it has no class of its own.
UNFIT = (
    torch.jit.Error,
    RuntimeError,
    ValueError,
    AttributeError,
    LookupError,
    TypeError,
    MemoryError,
)


class TorchScriptAgent(BundledAgent):
    """One TorchScript bundle.

    Inputs are padded to a few batch shapes. Only those shapes are used whose answers agree bit for
    bit with the largest one's, so that a bar's probability does not depend on which other bars
    arrived with it. Each thread fills its own preallocated tensors.
    """

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle)
        self.batches: tuple[int, ...] = (LARGEST_BATCH,)
        self._standard = Standardiser(_normaliser(bundle))
        self._module = _load(bundle)
        self._thread = threading.local()

    def prove_batches(self) -> None:
        """Keep the batch shapes that give the bits of the largest one on seeded noise."""
        shape = (LARGEST_BATCH, self.feature_set.window, len(self.feature_set.columns))
        noise = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        self.batches = CANDIDATE_BATCHES
        try:
            reference = self._answers(noise, LARGEST_BATCH)
        except UNFIT as error:
            raise self._refused("does not answer windows of its feature set with logits") from error
        half = LARGEST_BATCH // 2
        among_others = np.concatenate([noise[:half], -noise[half:]])
        if (self._answers(among_others, LARGEST_BATCH) != reference)[:half].any():
            raise self._refused("gives no answer that depends on the window alone")
        smaller = CANDIDATE_BATCHES[:-1]
        agreeing = (batch for batch in smaller if self._agrees(batch, noise, reference))
        self.batches = (*agreeing, LARGEST_BATCH)

    def _agrees(
        self, batch: int, noise: NDArray[np.float32], reference: NDArray[np.float64]
    ) -> bool:
        """Whether a batch shape gives the bits of the largest one."""
        some = slice(max(batch, PROVEN_WINDOWS))
        answers = self._answers(noise[some], batch)
        return np.array_equal(answers, reference[some], equal_nan=True)

    def _refused(self, what: str) -> BundleError:
        return BundleError(f"bundle {self.source.path}: the model {what}; export it again")

    def warm_up(self) -> None:
        torch.set_num_threads(1)
        windows, _ = self.source.golden()
        calibration = self.source.manifest.calibration
        for batch in self.batches:
            full = np.resize(windows, (batch, *windows.shape[1:]))
            for _ in range(WARM_UP_RUNS):
                logits, _ = self.logits(full)
            self.source.check_golden(calibration.apply(logits))

    def logits(self, windows: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
        rows = len(windows)
        batch = next(batch for batch in self.batches if batch >= rows)
        inputs, values = self._buffer(batch)
        clamped = self._standard.into(windows, values[:rows])
        with torch.inference_mode():
            return self._module(inputs).numpy()[:rows].astype(np.float64), clamped

    def _answers(self, normal: NDArray[np.float32], batch: int) -> NDArray[np.float64]:
        """Logits [n] of normalised windows [n, window, columns] in chunks of one batch shape."""
        logits = np.empty(len(normal))
        inputs, values = self._buffer(batch)
        with torch.inference_mode():
            for start in range(0, len(normal), batch):
                chunk = normal[start : start + batch]
                values[: len(chunk)] = chunk
                answers = self._module(inputs)
                # numpy would repeat a single answer and drop an imaginary part.
                if answers.shape != (batch,) or not answers.is_floating_point():
                    raise ValueError(f"{answers.dtype} {tuple(answers.shape)} is no logits")
                logits[start : start + len(chunk)] = answers.numpy()[: len(chunk)]
        return logits

    def _buffer(self, batch: int) -> tuple[torch.Tensor, NDArray[np.float32]]:
        """This thread's input of a batch shape: the tensor, and its memory as an array."""
        buffers: dict[int, tuple[torch.Tensor, NDArray[np.float32]]]
        buffers = self._thread.__dict__.setdefault("buffers", {})
        if batch not in buffers:
            columns = len(self.feature_set.columns)
            tensor = torch.zeros((batch, self.feature_set.window, columns))
            buffers[batch] = tensor, tensor.numpy()
        return buffers[batch]


def load(bundle: Bundle) -> TorchScriptAgent:
    """The agent of a verified bundle. Raises `BundleError`."""
    torch.set_num_threads(1)  # as in the workers: parallelism comes from them
    agent = TorchScriptAgent(bundle)
    agent.prove_batches()
    return agent


def _bound_interop() -> None:
    """Have torch run its operators one after the other, which it only takes before it has begun."""
    if torch.get_num_interop_threads() == 1:
        return
    try:
        torch.set_num_interop_threads(1)
    except RuntimeError:  # the process has used these threads; no agent will, since `fork` is out
        warnings.warn(
            f"torch keeps {torch.get_num_interop_threads()} idle threads beside the agents: import "
            "quantum_ai_engine.agents.torchscript before torch begins parallel work",
            RuntimeWarning,
            stacklevel=2,
        )


_bound_interop()  # here, where no model has run yet; training takes its threads within operators


def opened(data: bytes) -> torch.jit.ScriptModule:
    """The module of a payload, with its parameters as they are in the file."""
    module: torch.jit.ScriptModule = torch.jit.load(  # type: ignore[no-untyped-call]
        io.BytesIO(data), map_location="cpu"
    )
    return module


def ready(module: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    """The module as it serves: its weights packed for this processor, parameters folded in."""
    if hasattr(module, "prepare"):
        with torch.no_grad():
            module.prepare()
    return torch.jit.freeze(module)  # type: ignore[no-any-return]


def _normaliser(bundle: Bundle) -> Normaliser:
    if bundle.manifest.normaliser is None:
        raise BundleError(f"bundle {bundle.path}: a neural model needs a normaliser; export it so")
    return bundle.manifest.normaliser


def _load(bundle: Bundle) -> torch.jit.ScriptModule:
    """The module with its parameters folded in, as it serves."""
    data = bundle.read(PAYLOAD)
    try:
        check_archive(data)
        module = opened(data)
        if getattr(module, "training", None) is not False:
            raise ValueError("it does not say that it was exported in eval mode; export it so")
        return ready(module)
    except UNFIT as error:
        reason = printable((str(error).strip() or type(error).__name__).splitlines()[0])
        raise BundleError(
            f"bundle {bundle.path}: {PAYLOAD} is not a TorchScript module that serves: {reason}"
        ) from error
