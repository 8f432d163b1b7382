"""From a trained model to a bundle that has been proven, or no bundle at all."""

import io
import platform
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from quantum_ai_engine.agents.bundle import (
    BUNDLE_SCHEMA,
    Bundle,
    Calibration,
    Golden,
    HeldOut,
    Manifest,
    Span,
    Spans,
    Target,
    write_bundle,
)
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import PAYLOAD
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.calibrate import platt
from quantum_ai_engine.training.dataset import Dataset, Samples, TrainingError
from quantum_ai_engine.training.fit import Progress, Trained, TrainOptions, Windows, logits, train
from quantum_ai_engine.training.scores import held_out

TOLERANCE = 1e-5  # of a logit, between the model and what is exported of it
COMPARED = 512  # held-out windows on which the two are compared, in batches, so that the
COMPARED_BATCH = 64  # executor has specialised before the last of them
SCORE_BATCH = 256
LIBRARIES = ("numba", "numpy", "quantum-ai-engine", "torch")


def train_bundle(
    kind: str,
    table: BarTable,
    directory: Path,
    options: TrainOptions,
    progress: Callable[[Progress], None],
) -> Bundle:
    """Train, calibrate, score and export: the bundle `directory/<name>`, proven by its agent.

    Raises `TrainingError` or `BundleError`; then nothing was written.
    """
    target = directory / (options.name or kind)
    if target.exists():  # said before the training rather than after it
        raise TrainingError(f"bundle {target} exists; remove it or choose another --name")
    trained = train(kind, table, options, progress)
    payload = script(trained.model, trained.dataset)
    files = {PAYLOAD: payload}
    manifest = describe(trained, payload)
    with tempfile.TemporaryDirectory() as scratch:
        _prove(write_bundle(Path(scratch), manifest, files))
    return write_bundle(directory, manifest, files)


def script(model: nn.Module, dataset: Dataset) -> bytes:
    """The model as frozen TorchScript, which answers held-out windows as the model does.

    Raises `TrainingError` when it does not: there is no other form to fall back to.
    """
    model.eval()
    with torch.no_grad():
        # The flag is kept so that a loader can see that dropout was off.
        frozen = torch.jit.freeze(torch.jit.script(model), preserved_attrs=["training"])
    buffer = io.BytesIO()
    torch.jit.save(frozen, buffer)
    windows, some = Windows(dataset), _some(dataset.test, slice(COMPARED))
    expected = logits(model, windows, some, COMPARED_BATCH)
    for name, module in (("scripted", frozen), ("saved", _loaded(buffer.getvalue()))):
        worst = np.abs(logits(module, windows, some, COMPARED_BATCH) - expected).max()
        if not worst <= TOLERANCE:
            raise TrainingError(
                f"the {name} model differs from the trained one by {worst:.2g} in a logit "
                f"(allowed {TOLERANCE:g}); it cannot be exported, train it again"
            )
    return buffer.getvalue()


def describe(trained: Trained, payload: bytes) -> Manifest:
    """The manifest of a trained model, measured on the payload that will serve."""
    dataset, module = trained.dataset, _loaded(payload)
    windows = Windows(dataset)
    calibration = platt(
        logits(module, windows, dataset.validation, SCORE_BATCH), dataset.validation.rose
    )
    return Manifest(
        bundle_schema=BUNDLE_SCHEMA,
        name=trained.options.name or trained.kind,
        kind=trained.kind,
        feature_set=dataset.feature_set.name,
        columns=dataset.feature_set.columns,
        schema_hash=dataset.feature_set.hash,
        window=dataset.feature_set.window,
        horizon_bars=dataset.horizon_bars,
        interval=dataset.interval,
        output="logit",
        calibration=calibration,
        base_rate=dataset.base_rate,
        target=_target(trained.options),
        normaliser=dataset.normaliser,
        spans=_spans(dataset),
        held_out=_scores(dataset, logits(module, windows, dataset.test, SCORE_BATCH), calibration),
        libraries={name: version(name) for name in LIBRARIES}
        | {"python": platform.python_version()},
        golden=_golden(dataset, module, calibration),
        files={},
    )


def _prove(bundle: Bundle) -> None:
    """Load the bundle as the engine does and replay its golden pair. Raises `BundleError`."""
    threads = torch.get_num_threads()
    try:
        load_agent(bundle).warm_up()
    finally:
        torch.set_num_threads(threads)  # an agent takes one; further trainings want them all


def _loaded(payload: bytes) -> torch.jit.ScriptModule:
    module: torch.jit.ScriptModule = torch.jit.load(io.BytesIO(payload))  # type: ignore[no-untyped-call]
    return module


def _some(samples: Samples, part: slice) -> Samples:
    return Samples(samples.row[part], samples.close_time[part], samples.rose[part])


def _target(options: TrainOptions) -> Target:
    ahead = f"ln(close[t + {options.horizon_bars}] / close[t])"
    zone = f"{options.dead_zone:g}"
    return Target(f"1 if {ahead} > {zone}, 0 if {ahead} < -{zone}, else masked", options.dead_zone)


def _spans(dataset: Dataset) -> Spans:
    train_span, validation, test = (
        Span(int(s.close_time[0]), int(s.close_time[-1]), len(s))
        for s in (dataset.train, dataset.validation, dataset.test)
    )
    return Spans(
        train_span, validation, test, dataset.embargo_bars, dataset.symbols, dataset.data_sha256
    )


def _scores(dataset: Dataset, raw: NDArray[np.float64], calibration: Calibration) -> HeldOut:
    return held_out(
        calibration.apply(raw),
        dataset.test.rose,
        dataset.base_rate,
        dataset.test.close_time,
        dataset.horizon_bars,
        INTERVAL_MS[dataset.interval],
    )


def _golden(dataset: Dataset, module: torch.jit.ScriptModule, calibration: Calibration) -> Golden:
    """The first and last held-out window, raw, and what the payload makes of them."""
    first_and_last = slice(None, None, len(dataset.test) - 1)
    raw = dataset.windows(_some(dataset.test, first_and_last))
    normal, _ = dataset.normaliser.apply(raw)
    with torch.no_grad():
        answers = module(torch.from_numpy(normal)).numpy().astype(np.float64)
    return Golden(
        tuple(tuple(map(tuple, window)) for window in raw.tolist()),
        tuple(calibration.apply(answers).tolist()),
    )
