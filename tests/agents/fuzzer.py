"""Damages copies of a real bundle, and sees that each is refused."""

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.agents.bundle import Bundle, BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent

Damage = Callable[[Path], object]
Change = Callable[[dict[str, Any]], object]


class Fuzzer:
    """Damages copies of one bundle and sees that each is refused in one sentence that names it."""

    def __init__(self, whole: Path, folder: Path) -> None:
        self.manifest = (whole / "manifest.json").read_bytes()
        (name,) = json.loads(self.manifest)["files"]
        self.payload = (whole / name).read_bytes()
        self.marker = folder / "code-ran"
        self.count = 0
        self._whole, self._folder, self._copies = whole, folder, 0

    def refused(self, damage: Damage) -> str:
        """The sentence with which a damaged copy is refused; nothing of it was run."""
        path = self._copy(damage)
        with pytest.raises(BundleError) as refusal:
            load_agent(read_bundle(path)).warm_up()
        self._judge(path, refusal.value)
        return str(refusal.value).removeprefix(f"bundle {path}: ")

    def allowed(self, damage: Damage) -> Bundle | None:
        """The damaged copy when it serves all the same, else None."""
        path = self._copy(damage)
        try:
            bundle = read_bundle(path)
            load_agent(bundle).warm_up()
        except BundleError as refusal:
            self._judge(path, refusal)
            return None
        return bundle

    def refused_manifest(self, change: Change) -> str:
        """The sentence for a copy whose manifest is changed as JSON."""
        manifest = json.loads(self.manifest)
        change(manifest)
        return self.refused_text(json.dumps(manifest).encode())

    def refused_text(self, manifest: bytes) -> str:
        """The sentence for a copy with another manifest."""
        return self.refused(lambda path: (path / "manifest.json").write_bytes(manifest))

    def refused_payload(self, payload: bytes) -> str:
        """The sentence for a copy with another payload, for which its manifest vouches."""
        return self.refused(lambda path: vouch(path, payload))

    def _copy(self, damage: Damage) -> Path:
        self._copies += 1
        path = Path(shutil.copytree(self._whole, self._folder / str(self._copies)))
        damage(path)
        return path

    def _judge(self, path: Path, refusal: BundleError) -> None:
        assert str(path) in str(refusal)
        assert str(refusal).isprintable(), "one line, without control characters"
        assert not self.marker.exists()
        self.count += 1


def vouch(path: Path, payload: bytes) -> None:
    """Put a payload into a bundle, and its hash into the manifest."""
    manifest = json.loads((path / "manifest.json").read_text())
    (name,) = manifest["files"]
    (path / name).write_bytes(payload)
    manifest["files"][name] = hashlib.sha256(payload).hexdigest()
    (path / "manifest.json").write_text(json.dumps(manifest))


def rewritten(
    archive: bytes, change: Callable[[str, bytes], bytes | None], method: int = zipfile.ZIP_STORED
) -> bytes:
    """An archive with each record changed, or left out where the change gives None."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(archive)) as old, zipfile.ZipFile(out, "w", method) as new:
        for name in old.namelist():
            data = change(name, old.read(name))
            if data is not None:
                new.writestr(name, data)
    return out.getvalue()
