"""The contract of an agent, run over every implementation."""

import re
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent
from quantum_ai_engine.agents.bundle import read_bundle, write_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import PAYLOAD
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import SETS
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.export import describe, script
from quantum_ai_engine.training.fit import TrainOptions, Windows, logits, train

Floats = NDArray[np.float64]
Make = Callable[[Path], Agent]
STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096


def from_bundle(kind: str) -> Make:
    return lambda bundles: load_agent(read_bundle(bundles / kind))


IMPLEMENTATIONS: dict[str, Make] = {"gru": from_bundle("gru"), "patchtst": from_bundle("patchtst")}
NEURAL = ("gru", "patchtst")


@pytest.fixture(scope="module", params=list(IMPLEMENTATIONS))
def agent(request: pytest.FixtureRequest, bundles: Path) -> Agent:
    """Each implementation, warmed up."""
    made = IMPLEMENTATIONS[request.param](bundles)
    made.warm_up()
    return made


@pytest.fixture(scope="module")
def windows(agent: Agent) -> Floats:
    """Rough windows [40, window, columns] of about the size that rows have; read-only."""
    shape = (40, agent.feature_set.window, len(agent.feature_set.columns))
    made = 0.01 * np.random.default_rng(1).standard_normal(shape)
    made.setflags(write=False)
    return made


def test_says_what_it_is(agent: Agent) -> None:
    """L01: an agent has a name and a digest of its own, and says what it reads."""
    assert re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", agent.name)
    assert re.fullmatch(r"[0-9a-f]{12}", agent.bundle)
    assert agent.feature_set in SETS.values()
    assert agent.horizon_bars >= 1
    assert agent.interval in INTERVAL_MS
    assert agent.clamped >= 0


def test_is_pure(agent: Agent, windows: Floats) -> None:
    """L17: the same windows give the same bits, and are left as they were."""
    before = windows.tobytes()
    first = agent.predict(windows)
    agent.predict(windows[::-1])
    assert agent.predict(windows).tobytes() == first.tobytes()
    assert windows.tobytes() == before


def test_an_answer_is_kept(agent: Agent, windows: Floats) -> None:
    """A later call does not write into an earlier answer."""
    first = agent.predict(windows[:3])
    kept = first.copy()
    agent.predict(windows[3:6])
    assert first.tobytes() == kept.tobytes()


@pytest.mark.parametrize("size", [1, 3, 7, 16, 39])
def test_does_not_depend_on_the_batch(agent: Agent, windows: Floats, size: int) -> None:
    """Any batch gives the bits of the whole."""
    parts = [agent.predict(windows[i : i + size]) for i in range(0, len(windows), size)]
    assert np.concatenate(parts).tobytes() == agent.predict(windows).tobytes()


@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6, 1e300])
def test_answers_are_probabilities(agent: Agent, windows: Floats, scale: float) -> None:
    """L20: however wild the rows, an answer is a float64 from 0 to 1."""
    answers = agent.predict(windows * scale)
    assert answers.shape == (len(windows),)
    assert answers.dtype == np.float64
    assert np.all((answers >= 0.0) & (answers <= 1.0))


def test_what_is_unknown_gives_no_number(agent: Agent, windows: Floats) -> None:
    """L02: a window with NaN in it has no finite answer: NaN never turns to 0 or to 0.5."""
    holed = windows.copy()
    holed[5, -1, 0] = np.nan
    answers = agent.predict(holed)
    assert not np.isfinite(answers[5])
    assert np.isfinite(np.delete(answers, 5)).all()


def test_reads_its_whole_window(agent: Agent, windows: Floats) -> None:
    """L14: time steps differ: the oldest and the newest row both count, and so does their order."""
    base = agent.predict(windows)
    for row in (0, -1):
        changed = windows.copy()
        changed[:, row] += 0.5
        assert not np.array_equal(agent.predict(changed), base)
    assert not np.array_equal(agent.predict(windows[:, ::-1]), base)


def test_any_number_of_rows_up_to_the_largest(agent: Agent, windows: Floats) -> None:
    """None, one and the largest batch are answered."""
    many = np.resize(windows, (LARGEST_BATCH, *windows.shape[1:]))
    for rows in (0, 1, LARGEST_BATCH):
        assert agent.predict(many[:rows]).shape == (rows,)


def test_serves_several_threads(agent: Agent, windows: Floats) -> None:
    """Threads at once get what one alone gets."""
    parts = [windows[i : i + 9] for i in range(30)] * 3
    expected = [agent.predict(part).tobytes() for part in parts]
    with ThreadPoolExecutor(3) as threads:
        assert [a.tobytes() for a in threads.map(agent.predict, parts)] == expected


def test_memory_is_bounded(agent: Agent, windows: Floats) -> None:
    """Calls leave nothing behind, neither in Python nor in the libraries below it."""
    for _ in range(20):
        agent.predict(windows[:4])
    tracemalloc.start()
    resident = resident_bytes()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(300):
        agent.predict(windows[:4])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    assert resident_bytes() - resident < 16_000_000


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * PAGE_BYTES


@pytest.mark.parametrize("kind", NEURAL)
def test_answers_as_the_eager_model(kind: str, history: BarTable, tmp_path: Path) -> None:
    """L22: the agent's TorchScript answers held-out windows as the trained model in eager mode."""
    trained = train(kind, history, TrainOptions(epochs=1, samples_per_epoch=256), lambda _: None)
    payload = script(trained.model, trained.dataset)
    bundle = write_bundle(tmp_path, describe(trained, payload), {PAYLOAD: payload})
    test = trained.dataset.test
    eager = logits(trained.model, Windows(trained.dataset), test, LARGEST_BATCH)[:LARGEST_BATCH]
    answers = load_agent(bundle).predict(trained.dataset.windows(test)[:LARGEST_BATCH])
    expected = bundle.manifest.calibration.apply(eager)
    np.testing.assert_allclose(answers, expected, rtol=0.0, atol=1e-5)
