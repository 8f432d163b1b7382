"""From a fitted model to a bundle that has been proven, or no bundle at all."""

import contextlib
import platform
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle, BundleError, write_bundle
from quantum_ai_engine.agents.bundled import BundledAgent
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.manifest import (
    BUNDLE_SCHEMA,
    Calibration,
    Golden,
    HeldOut,
    Labels,
    Manifest,
    Span,
    Spans,
    Target,
)
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.features.sessions import Calendars
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.calibrate import calibrate
from quantum_ai_engine.training.dataset import Dataset, Samples, build
from quantum_ai_engine.training.family import Fitted, Loss
from quantum_ai_engine.training.models.registry import family
from quantum_ai_engine.training.options import Progress, TrainingError, TrainOptions
from quantum_ai_engine.training.reference import reference
from quantum_ai_engine.training.scores import held_out

LIBRARIES = ("numba", "numpy", "quantum-ai-engine")
_AS_IT_IS = Calibration("platt", 1.0, 1.0, 0.0)


@dataclass(frozen=True, eq=False, slots=True)
class Trained:
    """A bundle, and what a report tells of how it came about.

    `probabilities` are the agent's own for the dataset's test span.
    """

    bundle: Bundle
    dataset: Dataset
    losses: tuple[Loss, ...]
    probabilities: NDArray[np.float64]


def train_bundle(
    kind: str,
    table: BarTable,
    directory: Path,
    options: TrainOptions,
    progress: Callable[[Progress], None],
) -> Trained:
    """Fit, calibrate, score and export: the bundle `directory/<name>`, proven by its agent.

    Raises `TrainingError` or `BundleError`, or `OSError` where `directory` cannot be written to;
    then nothing was written.
    """
    target = directory / (options.name or kind)
    if target.exists():  # said before the training rather than after it
        raise TrainingError(f"bundle {target} exists; remove it or choose another --name")
    chosen = family(kind)
    dataset = build(
        table,
        feature_set(chosen.feature_set),
        options.horizon_bars,
        options.dead_zone,
        calendars=Calendars(options.venues),
    )
    directory.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=directory):  # said before the training too
        pass
    with _threads_kept(), tempfile.TemporaryDirectory() as scratch:
        fitted = chosen.fit(dataset, options, progress)
        manifest, probabilities = describe(kind, dataset, fitted, options, Path(scratch))
        _agent(write_bundle(Path(scratch) / "proof", manifest, fitted.files)).warm_up()
    bundle = write_bundle(directory, manifest, fitted.files)
    return Trained(bundle, dataset, fitted.losses, probabilities)


@contextlib.contextmanager
def _threads_kept() -> Iterator[None]:
    """A neural agent takes one of torch's threads; further trainings want them all."""
    torch = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    try:
        yield
    finally:
        if torch:
            torch.set_num_threads(threads)


def describe(
    kind: str, dataset: Dataset, fitted: Fitted, options: TrainOptions, scratch: Path
) -> tuple[Manifest, NDArray[np.float64]]:
    """The manifest of a fitted model and its agent's held-out probabilities.

    All is measured on the agent that will serve, loaded from a bundle in `scratch` that lacks only
    what is measured.
    """
    draft = _draft(kind, dataset, fitted, options)
    agent = _agent(write_bundle(scratch / "draft", draft, fitted.files))
    validation = _logits(agent, dataset, dataset.validation)
    effective = dataset.effective_labels(dataset.validation)
    calibration = calibrate(validation, dataset.validation.rose, effective)
    probabilities = calibration.apply(_logits(agent, dataset, dataset.test))
    first_and_last = dataset.windows(dataset.test.part(slice(None, None, len(dataset.test) - 1)))
    golden = calibration.apply(agent.logits(first_and_last)[0])
    manifest = msgspec.structs.replace(
        draft,
        calibration=calibration,
        held_out=_scores(dataset, probabilities),
        golden=_golden(first_and_last, golden),
    )
    return manifest, probabilities


def _draft(kind: str, dataset: Dataset, fitted: Fitted, options: TrainOptions) -> Manifest:
    """A manifest with everything that is known before the model has been asked."""
    some = dataset.test.part(slice(1))
    ups = int(dataset.train.rose.sum())
    return Manifest(
        bundle_schema=BUNDLE_SCHEMA,
        name=options.name or kind,
        kind=kind,
        feature_set=dataset.feature_set.name,
        columns=dataset.feature_set.columns,
        inputs=fitted.inputs,
        schema_hash=dataset.feature_set.hash,
        window=dataset.feature_set.window,
        horizon_bars=dataset.horizon_bars,
        interval=dataset.interval,
        output="logit",
        calibration=_AS_IT_IS,
        base_rate=dataset.base_rate,
        target=_target(options),
        labels=Labels(ups, len(dataset.train) - ups, dataset.unlabelled),
        normaliser=dataset.normaliser if fitted.normalised else None,
        reference=reference(dataset),
        spans=_spans(dataset),
        venues={s: v for s, v in options.venues.items() if s in dataset.symbols},
        held_out=_scores(dataset, np.full(len(dataset.test), dataset.base_rate)),
        libraries={name: version(name) for name in (*LIBRARIES, *fitted.libraries)}
        | {"python": platform.python_version()},
        golden=_golden(dataset.windows(some), np.array([dataset.base_rate])),
        files={},
    )


def _agent(bundle: Bundle) -> BundledAgent:
    """The agent as the engine loads it."""
    agent = load_agent(bundle)
    if agent.unavailable:
        raise BundleError(f"bundle {bundle.path}: {agent.unavailable}")
    assert isinstance(agent, BundledAgent)
    return agent


def _logits(agent: BundledAgent, dataset: Dataset, samples: Samples) -> NDArray[np.float64]:
    """The agent's raw answers [n] to these samples. Raises `TrainingError` when one is missing."""
    parts = [
        agent.logits(dataset.windows(samples.part(slice(start, start + LARGEST_BATCH))))[0]
        for start in range(0, len(samples), LARGEST_BATCH)
    ]
    answers = np.concatenate(parts)
    if not np.isfinite(answers).all():
        raise TrainingError(
            "the model does not answer the held-out bars with numbers; lower learning_rate"
        )
    return answers


def _target(options: TrainOptions) -> Target:
    ahead = f"ln(close[t + {options.horizon_bars}] / close[t])"
    up, down = f"{options.dead_zone:g}", f"{-options.dead_zone or 0.0:g}"
    return Target(f"1 if {ahead} > {up}, 0 if {ahead} < {down}, else masked", options.dead_zone)


def _spans(dataset: Dataset) -> Spans:
    train_span, validation, test = (
        Span(int(s.close_time[0]), int(s.close_time[-1]), len(s))
        for s in (dataset.train, dataset.validation, dataset.test)
    )
    return Spans(
        train_span, validation, test, dataset.embargo_bars, dataset.symbols, dataset.data_sha256
    )


def _scores(dataset: Dataset, probabilities: NDArray[np.float64]) -> HeldOut:
    return held_out(
        probabilities,
        dataset.test,
        dataset.base_rate,
        dataset.horizon_bars,
        INTERVAL_MS[dataset.interval],
    )


def _golden(windows: NDArray[np.float64], probabilities: NDArray[np.float64]) -> Golden:
    return Golden(
        tuple(tuple(map(tuple, window)) for window in windows.tolist()),
        tuple(probabilities.tolist()),
    )
