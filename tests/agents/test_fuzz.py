"""Hundreds of damaged bundles, made by seeds from a real one: all are refused.

A manifest's own scores cannot be told from others: its digest, on every vote, is what names them.
"""

import hashlib
import json
import os
import random
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from .fuzzer import Change, Fuzzer


@pytest.fixture(scope="module")
def fuzzer(bundles: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    """Of the `gru`; it tells at the end how many there were (`pytest -s`)."""
    made = Fuzzer(bundles / "gru", tmp_path_factory.mktemp("fuzz"))
    yield made
    print(f"\n{made.count} damaged bundles, all refused")


def cuts(size: int) -> list[int]:
    """Sizes at every scale: near nothing, near everything, and all halvings between."""
    halves = [size >> k for k in range(1, size.bit_length() + 1)]
    return sorted({0, 1, 164, *halves, *(size - half for half in halves if half)} - {size})


@pytest.mark.parametrize("name", ["model.pt", "manifest.json"])
def test_truncations(fuzzer: Fuzzer, name: str) -> None:
    """L24: a file cut anywhere does not load."""
    data = fuzzer.payload if name == "model.pt" else fuzzer.manifest.rstrip()
    for size in cuts(len(data)):
        fuzzer.refused(lambda path, size=size: (path / name).write_bytes(data[:size]))


def test_flipped_bytes_of_the_payload(fuzzer: Fuzzer) -> None:
    """L24: one changed byte anywhere is enough."""
    draw = random.Random(1)
    for _ in range(150):
        data = bytearray(fuzzer.payload)
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        said = fuzzer.refused(lambda path, data=data: (path / "model.pt").write_bytes(data))
        assert "does not have the SHA-256 of the manifest" in said


def test_flipped_bytes_of_the_manifest(fuzzer: Fuzzer) -> None:
    """L24: one changed byte is refused, or it makes another bundle, whose golden pair holds."""
    draw = random.Random(2)
    refused = 0
    whole = hashlib.sha256(fuzzer.manifest).hexdigest()[:12]
    for _ in range(200):
        data = bytearray(fuzzer.manifest)
        data[draw.randrange(len(data))] ^= draw.randrange(1, 256)
        bundle = fuzzer.allowed(lambda path, data=data: (path / "manifest.json").write_bytes(data))
        assert bundle is None or bundle.digest != whole
        refused += bundle is None
    assert refused > 100


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every place in a JSON value, of a list only the first and last."""
    if path:
        yield path
    if isinstance(value, dict):
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and value:
        for at in {0, len(value) - 1}:
            yield from places(value[at], (*path, at))


def holder(manifest: Any, path: tuple[str | int, ...]) -> Any:
    for key in path[:-1]:
        manifest = manifest[key]
    return manifest


def test_wrong_types(fuzzer: Fuzzer) -> None:
    """L20: every field, at every depth, is refused when it is of another type."""
    for path in places(json.loads(fuzzer.manifest)):
        for wrong in (None, {"a": 1}, [[[1]]], True):
            if path in {("normaliser",), ("reference",)} and wrong is None:
                continue  # trees have none; a neural model without one is tested beside the types
            if path in {("files",), ("venues",), ("libraries",)} and wrong == {"a": 1}:
                continue
            manifest = json.loads(fuzzer.manifest)
            holder(manifest, path)[path[-1]] = wrong
            fuzzer.refused_text(json.dumps(manifest).encode())


def test_missing_and_unknown_fields(fuzzer: Fuzzer) -> None:
    """L20: a field too few or too many, in any part, is refused by its name."""
    free = {("files",), ("venues",), ("libraries",), ("reference", "columns")}
    for path in places(json.loads(fuzzer.manifest)):
        if isinstance(path[-1], str) and path[:-1] not in free:
            manifest = json.loads(fuzzer.manifest)
            holder(manifest, path).pop(path[-1])
            assert path[-1] in fuzzer.refused_text(json.dumps(manifest).encode())
        manifest = json.loads(fuzzer.manifest)
        part = holder(manifest, (*path, "any"))
        if isinstance(part, dict) and path not in free:
            part["more\n\x1b[31m"] = 1
            assert "unknown field `more\\n\\x1b[31m`" in fuzzer.refused_text(
                json.dumps(manifest).encode()
            )


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.update(schema_hash="0" * 16),
        lambda m: m.update(schema_hash=m["schema_hash"][:-1]),
        lambda m: m["columns"].reverse(),
        lambda m: m["columns"].append("\x1b[2J\n"),
        lambda m: m.update(feature_set="\nno set"),
        lambda m: m.update(kind="os:system"),
        lambda m: m.update(kind="gru\n"),
        lambda m: m.update(name="gru\n"),
        lambda m: m.update(name=""),
        lambda m: m.update(interval="\n"),
        lambda m: m.update(horizon_bars=2**62),
        lambda m: m.update(window=2**31),
        lambda m: m.update(normaliser=None),
        lambda m: m["normaliser"]["mean"].__setitem__(0, 1e308),
        lambda m: m["normaliser"]["scale"].__setitem__(0, 5e-324),
        lambda m: m["normaliser"].update(clamp=1e300),
        lambda m: m["calibration"].update(up=1e308),
        lambda m: m["calibration"].update(intercept=-1e308),
        lambda m: m["golden"]["windows"][0][0].__setitem__(0, -1e308),
        lambda m: m["golden"].update(windows=[], probabilities=[]),
        lambda m: m["golden"]["windows"].extend([[[0.0] * 9] * 32] * 5_000),
        lambda m: m["golden"]["probabilities"].extend([0.5] * 1_000_000),
        lambda m: m["spans"].update(symbols=["X"] * 3_000_000 + [1]),
        lambda m: m["normaliser"]["mean"].extend([0.0] * 1_000_000),
    ],
)
def test_wrong_values(fuzzer: Fuzzer, change: Change) -> None:
    """L12: names, sizes and numbers that no bundle of ours has, some of them enormous."""
    fuzzer.refused_manifest(change)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400])
def test_numbers_that_are_none(fuzzer: Fuzzer, number: str) -> None:
    """L24: what JSON or a double cannot hold is refused wherever it stands."""
    for path in places(json.loads(fuzzer.manifest)):
        if isinstance(holder(json.loads(fuzzer.manifest), path)[path[-1]], float):
            text = json.loads(fuzzer.manifest)
            holder(text, path)[path[-1]] = "@"
            broken = json.dumps(text).replace('"@"', number)
            fuzzer.refused_text(broken.encode())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"\0",
        b"null",
        b"[]" * 10,
        b"[" * 1_000_000,
        b'{"golden":{"windows":' + b"[" * 1_000_000,
        b'{"a":' * 100_000,
        b'{"\xff":1}',
        b'{"name":"\xff\xfe"}',
        b'{"name":"\\ud800"}',
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b'{"horizon_bars":' + b"9" * 5_000 + b"}",
        b" " * (20 << 20),
    ],
)
def test_manifests_that_are_none(fuzzer: Fuzzer, text: bytes) -> None:
    """L24: deep, torn, foreign, too large or not UTF-8."""
    fuzzer.refused_text(text)


def test_fields_given_twice(fuzzer: Fuzzer) -> None:
    """L25: of two calibrations, readers would differ in which they take."""
    for name, value in json.loads(fuzzer.manifest).items():
        twice = fuzzer.manifest.strip()[:-1] + f', "{name}": {json.dumps(value)}}}'.encode()
        assert f"field `{name}` is given twice" in fuzzer.refused_text(twice)


@pytest.mark.parametrize(
    "name",
    ["../gru/model.pt", "/etc/passwd", "a/b", "", ".", "..", "manifest.json", "x\0y", "x\ny", "é"],
)
def test_files_elsewhere(fuzzer: Fuzzer, name: str) -> None:
    """L23: a manifest names files of its own directory, and no other."""
    digest = hashlib.sha256(fuzzer.payload).hexdigest()
    said = fuzzer.refused_manifest(lambda m: m["files"].update({name: digest}))
    assert "which is missing" in said
    fuzzer.refused_manifest(lambda m: m.update(files={name: digest}))


def bind(path: Path, _: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the name of a socket may not be long
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


def hole(path: Path, _: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 40)


@pytest.mark.parametrize("name", ["model.pt", "manifest.json"])
@pytest.mark.parametrize(
    "place",
    [
        lambda file, _: file.unlink(missing_ok=True),
        lambda file, _: file.mkdir(),
        lambda file, _: os.mkfifo(file),
        bind,
        hole,
        lambda file, elsewhere: file.symlink_to(elsewhere),
        lambda file, _: file.symlink_to("/dev/zero"),
        lambda file, _: file.symlink_to(file),
    ],
    ids=["nothing", "directory", "pipe", "socket", "hole", "link", "device", "loop"],
)
def test_what_is_no_file(
    fuzzer: Fuzzer, name: str, place: Callable[[Path, Path], object], tmp_path: Path
) -> None:
    """L23: what stands in a file's place is neither followed, waited for nor read whole."""

    def damage(path: Path) -> None:
        shutil.move(path / name, tmp_path / name)
        place(path / name, tmp_path / name)

    fuzzer.refused(damage)


@pytest.mark.parametrize(
    "name", ["scaler.pkl", "model.pt.bak", ".hidden", "a\nb", "[red]", b"\xff"]
)
def test_files_too_many(fuzzer: Fuzzer, name: str | bytes) -> None:
    """L23: a file that the manifest does not list is refused, whatever its name."""
    said = fuzzer.refused(lambda path: (path / os.fsdecode(name)).write_bytes(b"x"))
    assert "is not in the manifest; remove it" in said
