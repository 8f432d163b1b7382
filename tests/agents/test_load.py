"""Loading: the agents of a directory in their declared order, or one sentence."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from quantum_ai_engine.agents.bundle import BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent, load_agents


@pytest.fixture
def directory(bundles: Path, tmp_path: Path) -> Path:
    """A copy of the bundles, free to be changed."""
    return Path(shutil.copytree(bundles, tmp_path / "bundles"))


def change(path: Path, **values: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | values))


@pytest.mark.parametrize(
    ("order", "names"),
    [
        ((), ["gru", "patchtst"]),
        (("patchtst",), ["patchtst", "gru"]),
        (("patchtst", "gru"), ["patchtst", "gru"]),
    ],
)
def test_the_declared_order_comes_first(
    bundles: Path, order: tuple[str, ...], names: list[str]
) -> None:
    """Agents come as `agents.order` has them, the others after them by name."""
    assert [agent.name for agent in load_agents(bundles, order)] == names


def test_each_agent_is_its_own_bundle(bundles: Path) -> None:
    """L01: two agents are two models: other name, digest, columns and answers' source."""
    gru, patchtst = load_agents(bundles)
    assert gru.bundle == read_bundle(bundles / "gru").digest != patchtst.bundle
    assert gru.feature_set != patchtst.feature_set


def test_a_name_without_a_bundle_is_refused(bundles: Path) -> None:
    """L09: `agents.order` cannot name an agent that is not there."""
    with pytest.raises(BundleError, match=r"agents\.order names nhits, but .* has no such bundle"):
        load_agents(bundles, ("nhits",))


def test_two_bundles_of_one_name_are_refused(directory: Path) -> None:
    """L01: two agents never vote under one name."""
    shutil.copytree(directory / "gru", directory / "gru-copy")
    with pytest.raises(BundleError, match=r"two bundles in .* are named gru"):
        load_agents(directory)


def test_agents_of_two_horizons_are_refused(directory: Path) -> None:
    """Probabilities of different horizons are never combined."""
    change(directory / "patchtst", horizon_bars=7)
    with pytest.raises(BundleError, match="patchtst looks 7 bars ahead, gru 5"):
        load_agents(directory)


def test_one_broken_bundle_refuses_all(directory: Path) -> None:
    """L23: there is no start with the agents that happen to load."""
    (directory / "patchtst" / "model.pt").write_bytes(b"")
    with pytest.raises(BundleError, match=r"model\.pt \(0 bytes\)"):
        load_agents(directory)


def test_an_unknown_kind_is_refused(directory: Path) -> None:
    """L03: no other kind stands in for one that this engine does not know."""
    change(directory / "gru", kind="oracle")
    with pytest.raises(BundleError, match="unknown kind 'oracle'; there are gru, patchtst"):
        load_agent(read_bundle(directory / "gru"))
