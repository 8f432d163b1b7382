"""Agents of boosted trees: what they read, in how many threads, and what they refuse."""

import gc
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import Bundle, BundleError
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.trees import PAYLOADS, TreesAgent, load, places
from quantum_ai_engine.features.schema import feature_set

from .again import again

Floats = NDArray[np.float64]


@pytest.fixture(scope="module", params=list(PAYLOADS))
def bundle(request: pytest.FixtureRequest, tabular: dict[str, Bundle]) -> Bundle:
    return tabular[request.param]


@pytest.fixture(scope="module")
def agent(bundle: Bundle) -> TreesAgent:
    made = load(bundle)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def windows(agent: TreesAgent) -> Floats:
    """The largest batch of windows, noise around real ones."""
    golden, _ = agent.source.golden()
    full = np.resize(golden, (LARGEST_BATCH, *golden.shape[1:]))
    return full * (1.0 + 0.5 * np.random.default_rng(0).standard_normal(full.shape))


def test_it_is_no_constant(agent: TreesAgent, windows: Floats) -> None:
    """L01: windows that differ are answered differently."""
    assert len(np.unique(agent.predict(windows))) > LARGEST_BATCH // 4


def test_a_row_does_not_depend_on_its_batch(agent: TreesAgent, windows: Floats) -> None:
    """Any batch, at any place, gives each row the bits that it gets alone."""
    alone = np.concatenate([agent.predict(windows[i : i + 1]) for i in range(LARGEST_BATCH)])
    draw = np.random.default_rng(1)
    for size in (2, 3, 8, 17, 63, 64, 65, 128, 200, LARGEST_BATCH):
        some = draw.choice(LARGEST_BATCH, size, replace=False)
        assert agent.predict(windows[some]).tobytes() == alone[some].tobytes()


def test_no_windows_are_no_answers(agent: TreesAgent, windows: Floats) -> None:
    """An empty batch is answered without the library."""
    assert agent.predict(windows[:0]).shape == (0,)


@pytest.mark.parametrize("hole", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("row", [0, 2, 5])
def test_what_is_unknown_is_not_sent_down_a_branch(
    agent: TreesAgent, windows: Floats, hole: float, row: int
) -> None:
    """L02: a window with a hole has no answer, wherever it is; its neighbours keep theirs."""
    holed = windows[:9].copy()
    holed[4, row, 7] = hole
    answers, before = agent.predict(holed), agent.predict(windows[:9])
    assert np.isnan(answers[4])
    assert np.delete(answers, 4).tobytes() == np.delete(before, 4).tobytes()


def test_values_beyond_float32_are_clamped_and_counted(bundle: Bundle, windows: Floats) -> None:
    """L19: a value that float32 cannot hold is clamped, and each one is counted."""
    agent, wild = load(bundle), windows[:3].copy()
    wild[1, -1, :2] = 1e300, -1e300
    assert np.isfinite(agent.predict(wild)).all()
    assert agent.clamped == 2


def test_inputs_are_found_by_name() -> None:
    """L14: `column@k` is the column of the row k bars before the newest."""
    columns = feature_set("tree173").columns
    back, column = places(("clv", "svr_10@5", "ret_1"), feature_set("tree173"))
    assert back.tolist() == [0, 5, 0]
    assert column.tolist() == [columns.index(name) for name in ("clv", "svr_10", "ret_1")]


def test_each_input_stands_where_its_name_says(agent: TreesAgent, windows: Floats) -> None:
    """L13: only the values that are named count: all others may change."""
    back, column = places(agent.source.manifest.inputs, agent.feature_set)
    other = np.ones(windows.shape[1:], dtype=bool)
    other[agent.feature_set.window - 1 - back, column] = False
    changed = windows.copy()
    changed[:, other] += 1.0
    assert agent.predict(changed).tobytes() == agent.predict(windows).tobytes()
    newest = windows.copy()
    newest[:, -1] = -newest[:, -1]
    assert agent.predict(newest).tobytes() != agent.predict(windows).tobytes()


@pytest.mark.parametrize("name", ["oracle", "clv@6", "clv@0", "clv@-1", "clv@", "@1", ""])
def test_unknown_inputs_are_refused(bundle: Bundle, tmp_path: Path, name: str) -> None:
    """L12: an input that the feature set does not have is named, and nothing is filled in."""
    inputs = (name, *bundle.manifest.inputs[1:])
    with pytest.raises(BundleError, match=f"tree173 has no input '{name}'"):
        load_agent(again(bundle, tmp_path, inputs=inputs))


def test_no_inputs_are_refused(bundle: Bundle, tmp_path: Path) -> None:
    """L12: a model of trees says what it reads."""
    with pytest.raises(ValueError, match="the manifest names no inputs"):
        places((), bundle.feature_set)
    with pytest.raises(BundleError, match="inputs"):
        load_agent(again(bundle, tmp_path, inputs=()))


@pytest.mark.parametrize("payload", [b"", b"\x00" * 164, b"tree\nversion=v4\n", b"{}"])
def test_a_hostile_payload_is_refused(bundle: Bundle, tmp_path: Path, payload: bytes) -> None:
    """L24: a file that is no model is one sentence, not the end of the process."""
    name = PAYLOADS[bundle.manifest.kind]
    with pytest.raises(BundleError, match=f"{name}: "):
        load_agent(again(bundle, tmp_path, files={name: payload}))


def test_what_the_library_itself_refuses_is_one_sentence(
    tabular: dict[str, Bundle], tmp_path: Path
) -> None:
    """L24: what passes our reading and not XGBoost's is refused in the same way."""
    file = (tabular["xgboost"].path / "model.json").read_bytes()
    changed = re.sub(rb'"base_score":"[^"]*"', b'"base_score":"[+.5]"', file)
    with pytest.raises(BundleError, match=r"model\.json: .*Unknown construct"):
        load_agent(again(tabular["xgboost"], tmp_path, files={"model.json": changed}))


def test_a_call_leaves_no_rubbish(agent: TreesAgent, windows: Floats) -> None:
    """L46: predictions make no cycles, so that no collection stops a worker because of them."""
    agent.predict(windows[:8])
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            agent.predict(windows[:8])
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_payload_under_another_name_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """L24: the file that the kind needs has to be there."""
    name = PAYLOADS[bundle.manifest.kind]
    with pytest.raises(BundleError, match=f"the manifest lists no {name}"):
        load_agent(again(bundle, tmp_path, files={"model.bin": b"x"}))


PREDICTING = """
import os, pathlib, sys, threading
import numpy as np
from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.agents.load import load_agent

agent = load_agent(read_bundle(pathlib.Path(sys.argv[1])))
windows = np.random.default_rng(0).standard_normal((256, 6, 173))

def work():  # OpenMP keeps the helpers of each thread that asks for some
    threads = len(os.listdir("/proc/self/task"))
    for rows in (1, 64, 256):
        agent.predict(windows[:rows])
    print(len(os.listdir("/proc/self/task")) - threads)

worker = threading.Thread(target=work)
worker.start()
worker.join()
"""


def test_it_predicts_in_the_workers_thread(bundle: Bundle) -> None:
    """L46: inference starts no thread, whatever the environment says of OpenMP."""
    done = subprocess.run(
        [sys.executable, "-c", PREDICTING, str(bundle.path)],
        env={"OMP_NUM_THREADS": "4", "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "0\n"
