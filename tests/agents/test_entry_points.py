"""Agents of other packages: the template in docs/agents.md works as it stands."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quantum_ai_engine.agents.load import LOADERS

DOCUMENT = Path(__file__).parents[2] / "docs" / "agents.md"

SERVING = """
import pathlib, sys
import numpy as np
from quantum_ai_engine.agents.load import load_agents

agent, = load_agents(pathlib.Path(sys.argv[1]))
agent.warm_up()
windows = np.repeat(agent.source.golden()[0], 20, axis=0)
windows[0, -1, 0] = np.nan
answers = agent.predict(windows)
alone = [agent.predict(windows[i : i + 1])[0] for i in range(len(windows))]
assert np.array_equal(answers, alone, equal_nan=True)
print(agent.name, *answers[[0, 1, -1]])
"""


@pytest.fixture(scope="module")
def document() -> str:
    return DOCUMENT.read_text()


@pytest.fixture(scope="module")
def package(document: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The template's files as a reader would save them, installed beside them."""
    directory = tmp_path_factory.mktemp("my-agents")
    for name, code in re.findall(r"```\w+\n# (\S+)\n(.*?)```", document, re.DOTALL):
        (directory / name).write_text(code)
    run(directory, "-m", "pip", "install", "--no-deps", "--no-build-isolation", "--no-index",
        "--disable-pip-version-check", "--quiet", "--target", "site", ".")  # fmt: skip
    return directory


def run(directory: Path, *arguments: str) -> str:
    """A Python process in that directory, with what is installed there."""
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=os.environ | {"PYTHONPATH": str(directory / "site")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_template_trains_and_serves(package: Path) -> None:
    """L02: an agent of another package is verified, answers as all do, and abstains as all do."""
    assert run(package, "train_linear.py", "bundles") == "bundles/linear\n"
    name, holed, second, last = run(package, "-c", SERVING, "bundles").split()
    assert name == "linear"
    assert np.isnan(float(holed))
    assert 0.0 < float(second) < 1.0
    assert float(second) != float(last)


def test_a_kind_without_its_package_is_refused(package: Path, tmp_path: Path) -> None:
    """L03: where the package is not installed, its kind is unknown, and nothing stands in."""
    run(package, "train_linear.py", "others")
    (package / "others").rename(tmp_path / "bundles")
    asked = (
        "import pathlib\n"
        "from quantum_ai_engine.agents.load import load_agents\n"
        "try: load_agents(pathlib.Path('bundles'))\n"
        "except ValueError as error: print(error)"
    )
    assert "unknown kind 'linear'" in run(tmp_path, "-c", asked)


def test_the_document_names_all_kinds(document: str) -> None:
    """The document's list of kinds is the engine's."""
    for kind in LOADERS:
        assert f"`{kind}`" in document
