"""Which code runs: the version, and a digest of the source that was really loaded."""

import hashlib
from functools import cache
from importlib.metadata import version as package_version
from pathlib import Path

import quantum_ai_engine


def version() -> str:
    """The installed version."""
    return package_version("quantum-ai-engine")


@cache
def build_id() -> str:
    """12 hex digits over every source file of the package, wherever it lies."""
    root = Path(quantum_ai_engine.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*.py")):
        digest.update(str(path.relative_to(root)).encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]
