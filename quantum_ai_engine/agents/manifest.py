"""The manifest of a bundle: all that is needed to serve a model and to judge it."""

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from quantum_ai_engine.agents.normaliser import Normaliser
from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.histograms import Reference

BUNDLE_SCHEMA = 3

Probability = Annotated[float, Meta(ge=0, le=1)]
Coefficient = Annotated[float, Meta(ge=-1e9, le=1e9)]


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest; unknown fields are refused."""


class Calibration(_Part, frozen=True):
    """From a logit z to P(up) = sigmoid(up · ln σ(z) − down · ln(1 − σ(z)) + intercept).

    That is beta calibration (Kull, Silva Filho and Flach 2017); with `up` = `down` it is Platt
    scaling (Platt 1999) of the logit.
    """

    method: Literal["platt", "beta"]
    up: Coefficient
    down: Coefficient
    intercept: Coefficient

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of raw logits.

        >>> Calibration("platt", 1.0, 1.0, 0.0).apply(np.array([0.0, -800.0]))
        array([0.5, 0. ])
        """
        # ln(1 + exp(±z)) without exp of a positive number: no overflow for any finite logit.
        tail = np.log1p(np.exp(-np.abs(logits)))
        rise, fall = np.maximum(logits, 0.0) + tail, np.maximum(-logits, 0.0) + tail
        z = self.down * rise - self.up * fall + self.intercept
        small = np.exp(-np.abs(z))
        return np.where(z >= 0.0, 1.0, small) / (1.0 + small)


class Target(_Part, frozen=True):
    """What the probability is of; moves of at most `dead_zone` in |ln| were masked in training."""

    definition: str
    dead_zone: float


class Span(_Part, frozen=True):
    """A chronological span of training data: first and last close time and labelled windows."""

    from_ms: int
    to_ms: int
    samples: int


class Spans(_Part, frozen=True):
    """How the data was split, with `embargo_bars` left out between neighbours."""

    train: Span
    validation: Span
    test: Span
    embargo_bars: int
    symbols: tuple[str, ...]
    data_sha256: str


class ReliabilityBin(_Part, frozen=True):
    """Held-out forecasts between two probabilities: how many, their mean, the share that rose."""

    low: float
    high: float
    count: int
    mean_probability: float
    rose: float


class Blocks(_Part, frozen=True):
    """How the scores of blocks of held-out forecasts spread: what a supervisor compares with.

    A block is `bars` bars of all symbols; the next begins `embargo_bars` later, so that no outcome
    belongs to two. The quantiles at `levels` are of the blocks' mean Brier score, bias and paired
    score.
    """

    bars: int
    embargo_bars: int
    count: int
    levels: tuple[float, ...]
    brier: tuple[float, ...]
    bias: tuple[float, ...]
    paired: tuple[float, ...]


class HeldOut(_Part, frozen=True):
    """Scores on the test span.

    `auc` is the area under the ROC curve, `calibration_error` the mean distance between forecast
    and frequency over the bins of `reliability`, weighted by their counts; `paired` is the mean of
    (p − y)² − (base rate − y)²; below 0 is skill.

    `paired_stderr` is robust to overlapping horizons (Newey and West 1987).
    """

    samples: int
    brier: float
    brier_base_rate: float
    bias: float
    paired: float
    paired_stderr: float
    auc: float
    calibration_error: float
    reliability: tuple[ReliabilityBin, ...]
    blocks: Blocks


class Labels(_Part, frozen=True):
    """How the outcomes of the train span were balanced, and how many windows were masked."""

    rose: int
    fell: int
    masked: int


class Golden(_Part, frozen=True):
    """Raw windows [n, window, columns] and the probabilities [n] that they must give."""

    windows: tuple[tuple[tuple[float, ...], ...], ...]
    probabilities: tuple[Probability, ...]


class Manifest(_Part, frozen=True):
    """All that is needed to serve a model and to judge it; the contract of a bundle.

    `inputs` names what a tabular model reads of a window, in order: `column` of the newest row, or
    `column@k` of the row k bars before; it is empty for models that read windows. Without a
    `normaliser` a model reads raw rows. `reference` is what live rows are compared with; None where
    the train span was too short for it. `venues` says of the symbols it was trained on which did
    not trade 24 hours UTC.
    """

    bundle_schema: int
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}\Z")]  # $ lets a newline pass
    kind: str
    feature_set: str
    columns: tuple[str, ...]
    inputs: tuple[str, ...]
    schema_hash: str
    window: int
    horizon_bars: Annotated[int, Meta(ge=1, le=1_000_000)]
    interval: str
    output: Literal["logit"]
    calibration: Calibration
    base_rate: Probability
    target: Target
    labels: Labels
    normaliser: Normaliser | None
    reference: Reference | None
    spans: Spans
    venues: dict[str, Venue]
    held_out: HeldOut
    libraries: dict[str, str]
    golden: Golden
    files: dict[str, str]

    def other_versions(self) -> Iterator[str]:
        """The libraries that are not here as they were in training; the golden pair decides."""
        for name, trained in sorted(self.libraries.items()):
            try:
                here = platform.python_version() if name == "python" else version(name)
            except (PackageNotFoundError, ValueError):
                here = "not installed"
            if here != trained:
                yield f"{name} was {trained} in training, here {here}"
