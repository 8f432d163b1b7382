"""Releases: one environment each, made of a wheel and never changed once complete."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

NAME = "quantum-ai-engine"
PACKAGE = "quantum_ai_engine"
SHARE = f"share/{NAME}"
STAMP = "release.json"
NEEDED_BYTES = {True: 3_000_000_000, False: 1_000_000_000}  # with torch (1.3 GB), and without


class Failed(Exception):  # noqa: N818 (what happened)
    """One sentence that says what is wrong and what to do."""


class Wheel(NamedTuple):
    """A wheel that was looked into: whole, ours, and with what an installation needs."""

    path: Path
    version: str
    build: str
    sha256: str


def read_wheel(path: Path) -> Wheel:
    """Look into a wheel. Raises `Failed` when it is damaged or not ours."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
            names = archive.namelist()
            sources = {name: archive.read(name) for name in names if name.endswith(".py")}
    except (OSError, zipfile.BadZipFile, EOFError) as error:
        raise Failed(f"{path} is no wheel that can be read: {error}") from error
    if damaged:
        raise Failed(f"{path} is damaged ({damaged}): copy or build it again")
    about, *_ = [name for name in names if name.endswith(".dist-info/METADATA")] or [""]
    name, _, version = about.removesuffix(".dist-info/METADATA").partition("-")
    if name != PACKAGE or not any(n.endswith(f"{SHARE}/systemd/{NAME}.service") for n in names):
        raise Failed(f"{path} is no wheel of {NAME} with its units: build it with `make wheel`")
    return Wheel(path, version, build_of(sources), hashlib.sha256(path.read_bytes()).hexdigest())


def build_of(sources: dict[str, bytes]) -> str:
    """The build that the engine will name: 12 hex digits over the package's sources."""
    digest = hashlib.sha256()
    own = {Path(name).relative_to(PACKAGE): text for name, text in sources.items()
           if name.startswith(f"{PACKAGE}/")}  # fmt: skip
    for path in sorted(own):
        digest.update(str(path).encode())
        digest.update(own[path])
    return digest.hexdigest()[:12]


def build(releases: Path, wheel: Wheel, extras: str, own: Path) -> Path:
    """The complete release of a wheel; one that is there already is taken as it is.

    `own` is a list of requirements, if it is there: packages of agents of the operator's own.
    """
    own_text = own.read_text() if own.exists() else ""
    inputs = "\n".join([wheel.sha256, extras, own_text, sys.version])
    digest = hashlib.sha256(inputs.encode()).hexdigest()[:6]
    release = releases / f"{wheel.version}+{wheel.build}.{digest}"
    if (release / STAMP).exists():
        say(f"{release.name} is there already")
        return release
    need_space(releases, "torch" in extras)
    remove(release)  # what an interrupted installation has left
    try:
        fill(release, wheel, extras, own if own_text else None)
    except BaseException:
        remove(release)
        raise
    stamp = {"version": wheel.version, "build": wheel.build, "extras": extras}
    (release / STAMP).write_text(json.dumps(stamp) + "\n")
    return release


def fill(release: Path, wheel: Wheel, extras: str, own: Path | None) -> None:
    """An environment with the wheel, its extras, and the operator's own packages."""
    say(f"installing {release.name} with {extras or 'no extras'}; this may take minutes")
    environment(release)
    pip = (release / "bin/python", "-m", "pip", "install", "--quiet")
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_bytes(member(wheel.path, "constraints.txt"))
        wanted: list[str | Path] = [f"{NAME}[{extras}] @ {wheel.path.resolve().as_uri()}"]
        if own is not None:
            wanted += ["--requirement", own]
        asked = [*pip, "--constraint", constraints, *wanted]
        run(asked, f"pip could not install {wheel.path.name}")


def environment(path: Path) -> None:
    """A Python environment of its own."""
    made = [sys.executable, "-m", "venv", path]
    run(made, "no environment could be made (Debian: apt install python3-venv)")


def member(wheel: Path, name: str) -> bytes:
    """A file of the wheel's share."""
    with zipfile.ZipFile(wheel) as archive:
        found = next(n for n in archive.namelist() if n.endswith(f"{SHARE}/{name}"))
        return archive.read(found)


def need_space(path: Path, has_torch: bool) -> None:
    """Raise `Failed` when the disk has too little left for a release."""
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    free, needed = shutil.disk_usage(there).free, NEEDED_BYTES[has_torch]
    if free < needed:
        raise Failed(
            f"{there} has {free / 1e9:.1f} GB left, and a release needs {needed / 1e9:.0f} GB: "
            "make room, nothing was changed"
        )


def run(words: Sequence[object], wrong: str, environ: dict[str, str] | None = None) -> str:
    """What a command prints. Raises `Failed` with its last line."""
    asked = [str(word) for word in words]
    done = subprocess.run(
        asked, env=os.environ | (environ or {}), capture_output=True, text=True, check=False
    )
    if done.returncode:
        lines = (done.stdout + done.stderr).strip().splitlines() or ["it said nothing"]
        bad = [line for line in lines if line.startswith("bad ") or "ERROR" in line] or lines
        raise Failed(f"{wrong}: {bad[-1].strip()}")
    return done.stdout


def remove(*paths: Path) -> None:
    """Links themselves, directories with what is in them; what is not there is no error."""
    for path in paths:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def say(text: str) -> None:
    """A line for who is watching."""
    print(f"install: {text}", flush=True)
