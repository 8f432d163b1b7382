"""A bundle once more, with something changed and all hashes right."""

from pathlib import Path
from typing import Any

import msgspec

from quantum_ai_engine.agents.bundle import Bundle, write_bundle


def again(
    bundle: Bundle, directory: Path, files: dict[str, bytes] | None = None, **changes: Any
) -> Bundle:
    """The bundle in another directory, with other files or other fields of its manifest."""
    if files is None:
        files = {name: (bundle.path / name).read_bytes() for name in bundle.manifest.files}
    return write_bundle(directory, msgspec.structs.replace(bundle.manifest, **changes), files)
