"""Loading: the agents of a directory in their declared order, or one sentence."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantum_ai_engine.agents.bundle import Bundle, BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent, load_agents
from quantum_ai_engine.config import Venue

from .again import again


@pytest.fixture(scope="module")
def bundles(tabular: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two bundles of different kinds."""
    directory = tmp_path_factory.mktemp("two")
    for kind in ("sigor", "momentum"):
        again(tabular[kind], directory)
    return directory


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
        ((), ["momentum", "sigor"]),
        (("sigor",), ["sigor", "momentum"]),
        (("sigor", "momentum"), ["sigor", "momentum"]),
    ],
)
def test_the_declared_order_comes_first(
    bundles: Path, order: tuple[str, ...], names: list[str]
) -> None:
    """Agents come as `agents.order` has them, the others after them by name."""
    assert [agent.name for agent in load_agents(bundles, order)] == names


def test_each_agent_is_its_own_bundle(bundles: Path) -> None:
    """L01: two agents are two models: other name, digest, columns and answers' source."""
    momentum, sigor = load_agents(bundles)
    assert momentum.bundle == read_bundle(bundles / "momentum").digest != sigor.bundle
    assert momentum.feature_set != sigor.feature_set


def test_a_name_without_a_bundle_is_refused(bundles: Path) -> None:
    """L09: `agents.order` cannot name an agent that is not there."""
    with pytest.raises(BundleError, match=r"agents\.order names nhits, but .* has no such bundle"):
        load_agents(bundles, ("nhits",))


def test_two_bundles_of_one_name_are_refused(directory: Path) -> None:
    """L01: two agents never vote under one name."""
    shutil.copytree(directory / "momentum", directory / "momentum-copy")
    with pytest.raises(BundleError, match=r"two bundles in .* are named momentum"):
        load_agents(directory)


def test_agents_of_two_horizons_are_refused(directory: Path) -> None:
    """Probabilities of different horizons are never combined."""
    change(directory / "sigor", horizon_bars=7)
    with pytest.raises(BundleError, match="sigor looks 7 bars ahead, momentum 5"):
        load_agents(directory)


def test_one_broken_bundle_refuses_all(directory: Path) -> None:
    """L23: there is no start with the agents that happen to load."""
    (directory / "sigor" / "rule.json").write_bytes(b"")
    with pytest.raises(BundleError, match=r"rule\.json \(0 bytes\)"):
        load_agents(directory)


def test_an_unknown_kind_is_refused(directory: Path) -> None:
    """L03: no other kind stands in for one that this engine does not know."""
    change(directory / "momentum", kind="oracle")
    kinds = "gru, lightgbm, momentum, nhits, patchtst, sigor, transformer, xgboost"
    with pytest.raises(BundleError, match=f"unknown kind 'oracle'; there are {kinds}"):
        load_agent(read_bundle(directory / "momentum"))


@pytest.mark.parametrize("kind", ["xgboost", "lightgbm"])
def test_an_agent_without_its_library_abstains(
    tabular: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """L03: nothing stands in for a library that is missing; the agent is named and says why."""
    monkeypatch.setitem(sys.modules, kind, None)  # as Python has it where it is not installed
    agent = load_agent(tabular[kind])
    agent.warm_up()
    assert agent.name == kind
    assert agent.unavailable == (f"{kind} is not installed: pip install 'quantum-ai-engine[trees]'")
    set_ = agent.feature_set
    assert np.isnan(agent.predict(np.zeros((3, set_.window, len(set_.columns))))).all()


@pytest.mark.parametrize(
    ("kind", "module"),
    [("lightgbm", "lightgbm"), ("xgboost", "xgboost"), ("gru", "torch")],
)
def test_a_missing_shared_library_is_as_visible(
    tabular: dict[str, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    module: str,
) -> None:
    """L03: where libgomp is missing, import raises OSError: the agent abstains and says so."""
    why = "libgomp.so.1: cannot open shared object file: No such file or directory"
    (tmp_path / f"{module}.py").write_text(f"raise OSError({why!r})\n")
    for name in (module, "quantum_ai_engine.agents.torchscript"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    agent = load_agent(again(tabular.get(kind, tabular["xgboost"]), tmp_path, kind=kind))
    assert agent.unavailable == f"{kind} cannot be used here: {why}"


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("raise ImportError('no such processor')", "linear cannot be used here: no such processor"),
        ("raise ModuleNotFoundError('gone')", "linear cannot be used here: gone"),
        ("import nothing_here.at_all", "nothing_here is not installed: install nothing_here"),
        (
            "import quantum_ai_engine.gone",
            "linear does not fit this version of quantum-ai-engine: "
            "No module named 'quantum_ai_engine.gone'",
        ),
    ],
)
def test_every_failed_import_says_what_is_the_matter(
    tabular: dict[str, Bundle],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    line: str,
    why: str,
) -> None:
    """L10: who named no module is named itself, and nobody is told to install the engine."""
    (tmp_path / "site" / "linear-1.dist-info").mkdir(parents=True)
    (tmp_path / "site" / "failing_agents.py").write_text(line)
    (tmp_path / "site" / "linear-1.dist-info" / "METADATA").write_text("Name: linear\n")
    (tmp_path / "site" / "linear-1.dist-info" / "entry_points.txt").write_text(
        "[quantum_ai_engine.agents]\nlinear = failing_agents:load\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "site")
    agent = load_agent(again(tabular["xgboost"], tmp_path, kind="linear"))
    assert agent.unavailable == why


def test_a_directory_in_which_no_agent_can_answer_is_refused(
    tabular: dict[str, Bundle], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """L02: an engine without one agent that can answer does not start."""
    monkeypatch.setitem(sys.modules, "xgboost", None)
    again(tabular["xgboost"], tmp_path)
    with pytest.raises(BundleError, match=r"no agent in .* can answer: xgboost is not installed"):
        load_agents(tmp_path)


def test_agents_of_all_kinds_stand_side_by_side(tabular: dict[str, Bundle], tmp_path: Path) -> None:
    """L01: each of four kinds has its own name, digest and answers."""
    for bundle in tabular.values():
        again(bundle, tmp_path)
    agents = load_agents(tmp_path, ("sigor", "xgboost"))
    assert [agent.name for agent in agents] == ["sigor", "xgboost", "lightgbm", "momentum"]
    assert len({agent.bundle for agent in agents}) == 4
    assert not any(agent.unavailable for agent in agents)


def test_a_model_that_reads_sessions_is_served_with_those_of_its_training(
    tabular: dict[str, Bundle], tmp_path: Path
) -> None:
    """L11: with another venue for a symbol its columns would be others than it was trained on."""
    again(tabular["xgboost"], tmp_path)
    symbol = tabular["xgboost"].manifest.spans.symbols[0]
    assert len(load_agents(tmp_path)) == 1
    with pytest.raises(BundleError) as refused:
        load_agents(tmp_path, (), {symbol: Venue("Asia/Tokyo", "09:00", "15:00")})
    said = f"was trained with {symbol} in sessions of UTC 00:00 24:00, but sessions.venues has it"
    assert said in str(refused.value)
    assert "in Asia/Tokyo 09:00 15:00" in str(refused.value)
    assert len(load_agents(tmp_path, (), {"ELSEWHERE": Venue("Asia/Tokyo", "09:00", "15:00")})) == 1


def test_a_model_without_sessions_is_served_with_any(bundles: Path) -> None:
    """Columns that no venue moves are the same everywhere."""
    assert not read_bundle(bundles / "momentum").feature_set.reads_sessions
