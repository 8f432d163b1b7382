"""The contract of an agent, run over every implementation."""

import re
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from quantum_ai_engine.agents.base import LARGEST_BATCH, Agent
from quantum_ai_engine.agents.bundle import read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import TorchScriptAgent
from quantum_ai_engine.events import INTERVAL_MS
from quantum_ai_engine.features.schema import SETS, feature_set
from quantum_ai_engine.market.table import BarTable
from quantum_ai_engine.training.dataset import build
from quantum_ai_engine.training.export import train_bundle
from quantum_ai_engine.training.fit import fit, logits
from quantum_ai_engine.training.models.registry import family
from quantum_ai_engine.training.neural import Neural
from quantum_ai_engine.training.options import TrainOptions

Floats = NDArray[np.float64]
STATM = Path("/proc/self/statm")
PAGE_BYTES = 4096
HOUR_MS = 3_600_000


@dataclass(frozen=True)
class Implementation:
    """One kind: how its bundle is made, how often it is asked, and what it reads.

    `calls` are those of tests that ask many times; `whole_window` is False for kinds that read
    the newest row alone.
    """

    options: TrainOptions
    calls: int = 300
    whole_window: bool = True

    def make(self, kind: str, directory: Path) -> Agent:
        return load_agent(train_bundle(kind, trends(), directory, self.options, print).bundle)


def quick(learning_rate: float, samples: int) -> TrainOptions:
    return TrainOptions(
        epochs=1,
        samples_per_epoch=samples,
        batch=16,
        learning_rate=learning_rate,
        horizon_bars=5,
        device="cpu",
    )


IMPLEMENTATIONS = {
    "gru": Implementation(quick(3e-3, 512)),
    "patchtst": Implementation(quick(1e-3, 512), calls=30),
    "nhits": Implementation(quick(1e-3, 512), calls=30),
    "transformer": Implementation(quick(3e-4, 128), calls=5),
    "xgboost": Implementation(TrainOptions()),
    "lightgbm": Implementation(TrainOptions()),
    "sigor": Implementation(TrainOptions(), whole_window=False),
    "momentum": Implementation(TrainOptions(), whole_window=False),
}


def trends(bars: int = 1_800) -> BarTable:
    """Hourly bars of one symbol whose drift keeps its sign for forty bars: soon learned."""
    rng = np.random.default_rng(5)
    sign = np.repeat(rng.choice([-1.0, 1.0], bars // 40 + 1), 40)[:bars]
    close = 100.0 * np.exp(np.cumsum(0.002 * (rng.standard_normal(bars) + sign)))
    opened = np.append(100.0, close[:-1]) * np.exp(0.0005 * rng.standard_normal(bars))
    stray = np.exp(0.001 * rng.random((2, bars)))
    high, low = np.maximum(opened, close) * stray[0], np.minimum(opened, close) / stray[1]
    volume = np.exp(rng.standard_normal(bars))
    return BarTable(
        ("TREND",),
        np.zeros(bars, dtype=np.int32),
        "1h",
        1_700_000_000_000 // HOUR_MS * HOUR_MS + np.arange(bars) * HOUR_MS,
        np.stack([opened, high, low, close, volume], axis=-1),
    )


@pytest.fixture(scope="module", params=list(IMPLEMENTATIONS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def agent(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Agent:
    """Each implementation, warmed up."""
    made = IMPLEMENTATIONS[kind].make(kind, tmp_path_factory.mktemp(kind))
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


def test_reads_its_whole_window(kind: str, agent: Agent, windows: Floats) -> None:
    """L14: time steps differ: the oldest and the newest row both count, and so does their order."""
    if not IMPLEMENTATIONS[kind].whole_window:
        pytest.skip("reads the newest row alone")
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
    parts = [windows[i : i + 4] for i in range(8)] * 3
    expected = [agent.predict(part).tobytes() for part in parts]
    with ThreadPoolExecutor(3) as threads:
        assert [a.tobytes() for a in threads.map(agent.predict, parts)] == expected


def test_memory_is_bounded(kind: str, agent: Agent, windows: Floats) -> None:
    """Calls leave nothing behind, neither in Python nor in the libraries below it."""
    for _ in range(20):
        agent.predict(windows[:4])
    tracemalloc.start()
    resident = resident_bytes()
    before = tracemalloc.get_traced_memory()[0]
    for _ in range(IMPLEMENTATIONS[kind].calls):
        agent.predict(windows[:4])
    grown = tracemalloc.get_traced_memory()[0] - before
    tracemalloc.stop()
    assert grown < 100_000
    assert resident_bytes() - resident < 16_000_000


def resident_bytes() -> int:
    return int(STATM.read_text().split()[1]) * PAGE_BYTES


def test_random_batches_give_the_same_bits(kind: str, agent: Agent, windows: Floats) -> None:
    """L17: whatever the size and order of a batch, each window gets the bits of the whole."""
    whole = agent.predict(windows)
    rng = np.random.default_rng(2)
    for _ in range(IMPLEMENTATIONS[kind].calls):
        some = rng.permutation(len(windows))[: rng.integers(1, len(windows) + 1)]
        assert agent.predict(windows[some]).tobytes() == whole[some].tobytes()


def test_nothing_is_compiled_after_the_warm_up(agent: Agent, windows: Floats) -> None:
    """L26: in a worker that has warmed up, no call is profiled or specialised any more."""
    if not isinstance(agent, TorchScriptAgent):
        pytest.skip("nothing of it is ever compiled")

    def work() -> list[str]:
        agent.warm_up()
        graphs = []
        for rows in (1, 2, 5, 40):
            agent.predict(windows[:rows])
            graphs.append(str(torch.jit.last_executed_optimized_graph()))
        return graphs

    with ThreadPoolExecutor(1) as worker:
        graphs = worker.submit(work).result()
    assert "prim::profile" not in graphs[0]
    assert len(set(graphs)) == 1


def test_answers_as_the_fitted_model(kind: str, agent: Agent) -> None:
    """L22: the agent answers held-out windows as the fitted model in eager mode."""
    found, implementation = family(kind), IMPLEMENTATIONS[kind]
    if not isinstance(found, Neural):
        pytest.skip("has no eager form")
    data = build(trends(), feature_set(found.feature_set), 5)
    model, _ = fit(found.model, data, implementation.options, print)
    some = data.test.part(slice(40))
    eager = logits(model, data, some, 40)
    expected = read_bundle(agent.source.path).manifest.calibration.apply(eager)  # type: ignore[attr-defined]
    np.testing.assert_allclose(agent.predict(data.windows(some)), expected, rtol=0.0, atol=1e-5)
