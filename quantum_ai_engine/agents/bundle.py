"""Bundles: a model, its normaliser, calibration, schema and golden pair, whole or not at all."""

import hashlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from quantum_ai_engine.agents.normaliser import Normaliser
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import FeatureSet, SchemaError, feature_set

BUNDLE_SCHEMA = 1
MANIFEST = "manifest.json"
GOLDEN_TOLERANCE = 1e-5  # another processor may round float32 otherwise; more is another model

Probability = Annotated[float, Meta(ge=0, le=1)]


class BundleError(ValueError):
    """A bundle that must not serve: one sentence that names the bundle and what is wrong."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A part of the manifest; unknown fields are refused."""


class Calibration(_Part, frozen=True):
    """Platt scaling: P(up) = sigmoid(slope · logit + intercept) (Platt 1999)."""

    slope: float
    intercept: float

    def apply(self, logits: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities of raw logits.

        >>> Calibration(1.0, 0.0).apply(np.array([0.0, -800.0]))
        array([0.5, 0. ])
        """
        z = self.slope * logits + self.intercept
        # Both branches take exp of a non-positive number: no overflow for any finite logit.
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


class HeldOut(_Part, frozen=True):
    """Scores on the test span.

    `paired` is the mean of (p − y)² − (base rate − y)²; below 0 is skill.

    `paired_stderr` is robust to overlapping horizons (Newey and West 1987).
    """

    samples: int
    brier: float
    brier_base_rate: float
    bias: float
    paired: float
    paired_stderr: float
    reliability: tuple[ReliabilityBin, ...]


class Golden(_Part, frozen=True):
    """Raw windows [n, window, columns] and the probabilities [n] that they must give."""

    windows: tuple[tuple[tuple[float, ...], ...], ...]
    probabilities: tuple[Probability, ...]


class Manifest(_Part, frozen=True):
    """All that is needed to serve a model and to judge it; the contract of a bundle."""

    bundle_schema: int
    name: Annotated[str, Meta(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
    kind: str
    feature_set: str
    columns: tuple[str, ...]
    schema_hash: str
    window: int
    horizon_bars: Annotated[int, Meta(ge=1)]
    interval: str
    output: Literal["logit"]
    calibration: Calibration
    base_rate: Probability
    target: Target
    normaliser: Normaliser
    spans: Spans
    held_out: HeldOut
    libraries: dict[str, str]
    golden: Golden
    files: dict[str, str]


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle: its manifest, where it lies, and its digest (12 hex digits)."""

    manifest: Manifest
    path: Path
    digest: str

    @property
    def feature_set(self) -> FeatureSet:
        return feature_set(self.manifest.feature_set)

    def golden(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Golden windows [n, window, columns] and probabilities [n]."""
        golden = self.manifest.golden
        return np.array(golden.windows), np.array(golden.probabilities)

    def check_golden(self, got: NDArray[np.float64]) -> None:
        """Refuse a model whose answers [n] to the golden windows, repeated, are not golden."""
        wanted = np.resize(np.array(self.manifest.golden.probabilities), got.shape)
        worst = float(np.max(np.abs(got - wanted)))
        if not worst <= GOLDEN_TOLERANCE:
            raise BundleError(
                f"bundle {self.path}: the golden input gives probabilities off by {worst:.2g} "
                f"(allowed {GOLDEN_TOLERANCE:g}); the payload is not the model of the manifest"
            )


def read_bundle(path: Path) -> Bundle:
    """Verify everything but the model's own answers. Raises `BundleError`."""
    try:
        text = (path / MANIFEST).read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot read {MANIFEST}: {error.strerror}") from error
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise BundleError(f"bundle {path}: {MANIFEST}: {str(error).lower()}") from error
    bundle = Bundle(manifest, path, hashlib.sha256(text).hexdigest()[:12])
    _check_files(bundle)
    _check_schema(bundle)
    return bundle


def write_bundle(directory: Path, manifest: Manifest, files: dict[str, bytes]) -> Bundle:
    """Write a new bundle `directory/<name>` in one rename, then read it back."""
    target = directory / manifest.name
    if target.exists():
        raise BundleError(f"bundle {target} exists; remove it or choose another --name")
    directory.mkdir(parents=True, exist_ok=True)
    manifest = msgspec.structs.replace(
        manifest, files={name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    )
    text = msgspec.json.format(msgspec.json.encode(manifest), indent=1)
    temporary = Path(tempfile.mkdtemp(prefix=f".{manifest.name}-", dir=directory))
    try:
        for name, data in {**files, MANIFEST: text}.items():
            _write_durably(temporary / name, data)
        temporary.chmod(0o755)
        read_bundle(temporary)  # what would be refused must not appear under its name
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    return read_bundle(target)


def bundle_paths(directory: Path) -> list[Path]:
    """The bundles in a directory, by name. Raises `BundleError` when there is none.

    The directory may itself be one bundle. Hidden entries (a bundle being written) are skipped.
    """
    if (directory / MANIFEST).exists():
        return [directory]
    if not directory.is_dir():
        raise BundleError(f"there is no bundle directory {directory}; make one with `qae train`")
    paths = sorted(p for p in directory.iterdir() if p.is_dir() and not p.name.startswith("."))
    if not paths:
        raise BundleError(f"no bundle in {directory}; make one with `qae train`")
    return paths


def _write_durably(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _check_files(bundle: Bundle) -> None:
    listed, path = bundle.manifest.files, bundle.path
    present = {p.name for p in path.iterdir()} - {MANIFEST}
    if bundle.manifest.bundle_schema != BUNDLE_SCHEMA:
        raise BundleError(
            f"bundle {path}: bundle schema {bundle.manifest.bundle_schema} is not the "
            f"{BUNDLE_SCHEMA} that this engine reads; train it again"
        )
    if missing := listed.keys() - present:
        raise BundleError(f"bundle {path}: the manifest lists {min(missing)}, which is missing")
    if unlisted := present - listed.keys():
        raise BundleError(f"bundle {path}: {min(unlisted)} is not in the manifest; remove it")
    for name, expected in listed.items():
        try:
            actual = hashlib.sha256((path / name).read_bytes()).hexdigest()
        except OSError as error:
            raise BundleError(f"bundle {path}: cannot read {name}: {error.strerror}") from error
        if actual != expected:
            size = (path / name).stat().st_size
            raise BundleError(
                f"bundle {path}: {name} ({size} bytes) does not have the SHA-256 of the manifest"
            )


def _check_schema(bundle: Bundle) -> None:
    manifest = bundle.manifest
    try:
        known = bundle.feature_set
        known.check(manifest.columns, manifest.schema_hash)
    except SchemaError as error:
        raise BundleError(f"bundle {bundle.path}: {error}") from error
    if manifest.window != known.window:
        raise BundleError(
            f"bundle {bundle.path}: window {manifest.window} is not the {known.window} rows of "
            f"{known.name}"
        )
    if manifest.interval not in INTERVAL_MS:
        raise BundleError(f"bundle {bundle.path}: unknown interval {manifest.interval!r}")
    if len(manifest.normaliser.mean) != len(known.columns):
        raise BundleError(
            f"bundle {bundle.path}: the normaliser has {len(manifest.normaliser.mean)} columns, "
            f"{known.name} has {len(known.columns)}"
        )
    try:
        windows, probabilities = bundle.golden()
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: the golden windows differ in shape") from error
    if windows.shape != (len(probabilities), known.window, len(known.columns)):
        raise BundleError(f"bundle {bundle.path}: the golden input has shape {windows.shape}")
