"""What the tests of page and report share: axe, patience, and a place for what was seen."""

import os
from pathlib import Path

AXE = Path(__file__).parent / "axe.min.js"
PATIENCE_MS = 30_000


def kept_at(name: str) -> Path | None:
    """Where to keep what was seen, if `SCREENSHOTS` names a directory."""
    directory = os.environ.get("SCREENSHOTS")
    return Path(directory) / name if directory else None
