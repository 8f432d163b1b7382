"""Tests of what others wrote: it is what its npm package holds, and it is in the wheel."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from quantum_ai_engine.daemon.page.render import HERE, STATIC

VENDORED = [STATIC / "vendor" / "VENDORED", Path(__file__).parents[2] / "browser" / "VENDORED"]


@pytest.mark.parametrize("listing", VENDORED)
def test_vendored_files_are_as_they_were_published(listing: Path) -> None:
    """Each is listed with package, version, licence and hash; none is there that is not listed."""
    lines = [line.split() for line in listing.read_text().splitlines() if line[:1] not in ("", "#")]
    for _, _, _, file, digest in lines:
        assert hashlib.sha256((listing.parent / file).read_bytes()).hexdigest() == digest, file
    listed = {file for _, _, _, file, _ in lines}
    others = {one.name for one in listing.parent.iterdir() if one.suffix not in (".py", ".pyc", "")}
    assert others == listed
    for package in {package for package, *_ in lines}:
        files = [file for name, _, _, file, _ in lines if name == package]
        assert any(file.endswith("LICENSE") for file in files), f"{package} has no licence"


def test_the_wheel_has_all_that_the_page_needs(tmp_path: Path) -> None:
    """L49: an installed engine serves the same page as a checkout."""
    root = Path(__file__).parents[3]
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (wheel,) = tmp_path.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    for folder in ("static", "templates"):
        for file in (HERE / folder).rglob("*"):
            if file.is_file():
                assert f"quantum_ai_engine/daemon/page/{file.relative_to(HERE)}" in packed
