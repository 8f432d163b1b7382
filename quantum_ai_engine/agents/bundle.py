"""Bundles: a model, its normaliser, calibration, schema and golden pair, whole or not at all."""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from quantum_ai_engine.agents.manifest import BUNDLE_SCHEMA, Manifest
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import FeatureSet, SchemaError, feature_set

MANIFEST = "manifest.json"
GOLDEN_TOLERANCE = 1e-5  # another processor may round float32 otherwise; more is another model
LARGEST_MANIFEST = 16 << 20  # bytes; golden windows of the widest set take half a million
LARGEST_FILE = 1 << 30  # bytes; the payload is read as a whole
LARGEST_NUMBER = 1e30  # of statistics and golden windows: within it no sum overflows


class BundleError(ValueError):
    """A bundle that must not serve: one sentence that names the bundle and what is wrong."""


class Bundle(msgspec.Struct, frozen=True):
    """A verified bundle: its manifest, where it lies, and its digest (12 hex digits)."""

    manifest: Manifest
    path: Path
    digest: str

    @property
    def feature_set(self) -> FeatureSet:
        return feature_set(self.manifest.feature_set)

    def read(self, name: str) -> bytes:
        """A file of the payload: the very bytes that were verified. Raises `BundleError`.

        A payload is loaded from these bytes, never from its path, which may have changed since.
        """
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.path}: the manifest lists no {name}; export it again")
        data = _read(self.path, name, LARGEST_FILE)
        if hashlib.sha256(data).hexdigest() != self.manifest.files[name]:
            raise BundleError(
                f"bundle {self.path}: {name} ({len(data)} bytes) does not have the SHA-256 of the "
                "manifest"
            )
        return data

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
    text = _read(path, MANIFEST, LARGEST_MANIFEST)
    try:
        manifest = msgspec.json.decode(text, type=Manifest)
        json.loads(text, object_pairs_hook=_unique, parse_int=str, parse_float=str)
    except ValueError as error:  # of either reader: no JSON, no UTF-8, a field amiss
        reason = printable(str(error).lower())
        raise BundleError(f"bundle {path}: {MANIFEST}: {reason}") from error
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
        _sync(temporary)
        temporary.rename(target)
        _sync(directory)  # else the name may be gone after a power cut
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


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)  # readers differ in which of two they take
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"field `{twice}` is given twice")
    return fields


def printable(text: str) -> str:
    """One line that a terminal shows as it is, whatever was in it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _read(path: Path, name: str, limit: int) -> bytes:
    """A plain file of a bundle: no link, no pipe to wait for. Raises `BundleError`."""
    shown = printable(name)
    if (path / name).is_symlink():
        raise BundleError(f"bundle {path}: {shown} is a link; put the file itself there")
    try:
        with open(path / name, "rb", opener=_opener) as file:
            state = os.fstat(file.fileno())
            if not stat.S_ISREG(state.st_mode):
                raise BundleError(f"bundle {path}: {shown} is not a file")
            if state.st_size > limit:
                raise BundleError(
                    f"bundle {path}: {shown} has {state.st_size} bytes, more than the {limit} "
                    "that are read"
                )
            return file.read(state.st_size)
    except OSError as error:
        raise BundleError(f"bundle {path}: cannot read {shown}: {error.strerror}") from error


def _opener(name: str, flags: int) -> int:
    """Opens neither a link nor, waiting for ever, a pipe that took the file's place meanwhile."""
    return os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        name = printable(min(missing))
        raise BundleError(f"bundle {path}: the manifest lists {name}, which is missing")
    if unlisted := present - listed.keys():
        name = printable(min(unlisted))
        raise BundleError(f"bundle {path}: {name} is not in the manifest; remove it")
    for name in listed:
        bundle.read(name)


def _check_schema(bundle: Bundle) -> None:
    manifest = bundle.manifest
    try:
        known = bundle.feature_set
        known.check(manifest.columns, manifest.schema_hash)
    except SchemaError as error:
        raise BundleError(f"bundle {bundle.path}: {printable(str(error))}") from error
    if manifest.window != known.window:
        raise BundleError(
            f"bundle {bundle.path}: window {manifest.window} is not the {known.window} rows of "
            f"{known.name}"
        )
    if manifest.interval not in INTERVAL_MS:
        raise BundleError(f"bundle {bundle.path}: unknown interval {manifest.interval!r}")
    statistics = manifest.normaliser.mean if manifest.normaliser else known.columns
    if len(statistics) != len(known.columns):
        raise BundleError(
            f"bundle {bundle.path}: the normaliser has {len(statistics)} columns, "
            f"{known.name} has {len(known.columns)}"
        )
    _check_reference(bundle, known)
    try:
        windows, probabilities = bundle.golden()
    except ValueError as error:
        raise BundleError(f"bundle {bundle.path}: the golden windows differ in shape") from error
    if windows.shape != (len(probabilities), known.window, len(known.columns)):
        raise BundleError(f"bundle {bundle.path}: the golden input has shape {windows.shape}")
    _check_numbers(bundle, windows)


def _check_reference(bundle: Bundle, known: FeatureSet) -> None:
    """Refuse histograms of columns that the model does not read; each was checked for itself."""
    reference = bundle.manifest.reference
    if reference is None:
        return
    if others := reference.columns.keys() - set(known.columns):
        raise BundleError(
            f"bundle {bundle.path}: the reference has {printable(min(others))}, which is no column "
            f"of {known.name}"
        )
    if not reference.columns:
        raise BundleError(f"bundle {bundle.path}: the reference has no column")


def _check_numbers(bundle: Bundle, windows: NDArray[np.float64]) -> None:
    """Refuse numbers, finite as they are, of which a sum or quotient is not."""
    normaliser = bundle.manifest.normaliser
    statistics = [*normaliser.mean, *normaliser.scale, normaliser.clamp] if normaliser else []
    largest = max(np.abs(windows).max(), np.abs([0.0, *statistics]).max())
    if largest > LARGEST_NUMBER or (normaliser and min(normaliser.scale) < 1.0 / LARGEST_NUMBER):
        raise BundleError(
            f"bundle {bundle.path}: a statistic or golden value is beyond {LARGEST_NUMBER:g}, or "
            f"a scale is below {1.0 / LARGEST_NUMBER:g}"
        )
