"""TorchScript agents: the same bits in any batch and thread, and no model that is not proven."""

import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from torch import Tensor, nn

from quantum_ai_engine.agents.base import LARGEST_BATCH
from quantum_ai_engine.agents.bundle import BundleError, read_bundle
from quantum_ai_engine.agents.load import load_agent
from quantum_ai_engine.agents.torchscript import TorchScriptAgent
from quantum_ai_engine.config import Venue
from quantum_ai_engine.features.kernel import matrix
from quantum_ai_engine.features.sessions import Calendar
from quantum_ai_engine.market.table import BarTable

Floats = NDArray[np.float64]
KINDS = ("gru", "patchtst")
Replace = Callable[[bytes], Path]


class LastRow(nn.Module):
    """The smallest model that reads `gru9`: a linear reading of the newest row."""

    def __init__(self, factor: float = 1.0) -> None:
        super().__init__()
        self.linear = nn.Linear(9, 1)
        self.factor = factor

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.linear(windows[:, -1]).squeeze(1) * self.factor  # [batch]
        return logits


class Dropping(LastRow):
    """Drops half of its answers whatever it is told."""

    def forward(self, windows: Tensor) -> Tensor:
        return nn.functional.dropout(self.linear(windows[:, -1]).squeeze(1), 0.5, True)


class Mixing(LastRow):
    """Reads its neighbours, as batch normalisation in training mode does."""

    def forward(self, windows: Tensor) -> Tensor:
        newest = windows[:, -1]
        logits: Tensor = self.linear(newest - newest.mean(0)).squeeze(1)  # [batch]
        return logits


class Sized(LastRow):
    """Answers otherwise in another batch shape, as some kernels do."""

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.linear(windows[:, -1]).squeeze(1) + 0.01 * len(windows)  # [batch]
        return logits


class Square(LastRow):
    """Gives [batch, 1] where [batch] is wanted."""

    def forward(self, windows: Tensor) -> Tensor:
        logits: Tensor = self.linear(windows[:, -1])  # [batch, 1]
        return logits


def saved(model: nn.Module, attributes: tuple[str, ...] = ("training",)) -> bytes:
    """A model as the exporter saves one."""
    frozen = torch.jit.freeze(torch.jit.script(model.eval()), preserved_attrs=list(attributes))
    buffer = io.BytesIO()
    torch.jit.save(frozen, buffer)
    return buffer.getvalue()


@pytest.fixture
def replace(bundles: Path, tmp_path: Path) -> Replace:
    """Puts another payload, and its hash, into a copy of the `gru` bundle."""

    def put(payload: bytes) -> Path:
        path = Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))
        (path / "model.pt").write_bytes(payload)
        manifest = json.loads((path / "manifest.json").read_text())
        manifest["files"]["model.pt"] = hashlib.sha256(payload).hexdigest()
        (path / "manifest.json").write_text(json.dumps(manifest))
        return path

    return put


@pytest.fixture(scope="module", params=KINDS)
def agent(request: pytest.FixtureRequest, bundles: Path) -> TorchScriptAgent:
    loaded = load_agent(read_bundle(bundles / request.param))
    assert isinstance(loaded, TorchScriptAgent)
    return loaded


@pytest.fixture(scope="module")
def windows(agent: TorchScriptAgent, history: BarTable) -> Floats:
    """As many real windows as fit into one call [256, window, columns]."""
    bars = Calendar(Venue()).rows(*history.of("BTCUSDT"), 60_000)
    rows = matrix(bars)[30:, agent.feature_set.indices]
    views = sliding_window_view(rows, agent.feature_set.window, axis=0)[:LARGEST_BATCH]
    return np.ascontiguousarray(views.transpose(0, 2, 1))


@settings(max_examples=15, deadline=None)
@given(
    cuts=st.lists(st.integers(0, LARGEST_BATCH), max_size=12),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_split_gives_the_same_bits(
    agent: TorchScriptAgent, windows: Floats, cuts: list[int], seed: int
) -> None:
    """An answer depends on its window alone, not on how many came with it or in what order."""
    whole = agent.predict(windows)
    order = np.random.default_rng(seed).permutation(len(windows))
    split = [agent.predict(part) for part in np.split(windows[order], sorted(cuts))]
    assert np.concatenate(split).tobytes() == whole[order].tobytes()


def test_one_at_a_time_gives_the_same_bits(agent: TorchScriptAgent, windows: Floats) -> None:
    """A bar alone and a bar in the largest batch give one probability."""
    alone = [agent.predict(window[np.newaxis])[0] for window in windows]
    assert np.array(alone).tobytes() == agent.predict(windows).tobytes()


def test_a_bad_neighbour_changes_nothing(agent: TorchScriptAgent, windows: Floats) -> None:
    """L02: a window that is not finite has no answer, and spoils none."""
    spoiled = windows.copy()
    spoiled[1::2, 3] = np.nan
    whole, got = agent.predict(windows), agent.predict(spoiled)
    assert got[::2].tobytes() == whole[::2].tobytes()
    assert np.isnan(got[1::2]).all()
    assert agent.predict(windows).tobytes() == whole.tobytes()


def test_threads_give_the_same_bits(agent: TorchScriptAgent, windows: Floats) -> None:
    """Several threads at once, each with its own batch, answer as one alone does."""
    parts = [windows[i : i + 50] for i in range(0, 200, 25)] * 4
    expected = [agent.predict(part).tobytes() for part in parts]
    with ThreadPoolExecutor(4) as threads:
        got = [answer.tobytes() for answer in threads.map(agent.predict, parts)]
    assert got == expected


def test_clamped_values_are_counted(agent: TorchScriptAgent, windows: Floats) -> None:
    """L19: each value that is cut to the clamp is counted, from all threads together."""
    wild, calm = windows[:8].copy(), np.zeros_like(windows[:8])
    wild[:, 0, :2] = 1e9
    mean = read_bundle(agent.source.path).manifest.normaliser.mean
    calm[:] = mean
    calm[2, 5, 1] = -1e9
    before = agent.clamped
    agent.predict(calm)
    assert agent.clamped == before + 1
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(agent.predict, [wild] * 40))
    single = agent.source.manifest.normaliser.apply(wild)[1]
    assert single >= 16
    assert agent.clamped == before + 1 + 40 * single


def test_every_batch_shape_is_proven(agent: TorchScriptAgent) -> None:
    """L26: lone bars and the largest batch have shapes of their own, and warm-up runs each."""
    assert agent.batches[0] == 1
    assert agent.batches[-1] == LARGEST_BATCH
    agent.warm_up()


def test_weights_are_packed_once_at_load(agent: TorchScriptAgent, windows: Floats) -> None:
    """A module's weights are packed when it is loaded, never in a call."""
    with torch.autograd.profiler.profile() as profile:
        agent.predict(windows[:64])
    names = {event.name for event in profile.function_events}
    assert "mkldnn::_linear_pointwise" in names
    assert "mkldnn::_reorder_linear_weight" not in names


def test_shapes_that_answer_otherwise_do_not_serve(replace: Replace) -> None:
    """A batch shape whose answers differ from the largest one's is not used."""
    agent = load_agent(read_bundle(replace(saved(Sized()))))
    assert isinstance(agent, TorchScriptAgent)
    assert agent.batches == (LARGEST_BATCH,)


def test_the_golden_pair_is_replayed(bundles: Path, tmp_path: Path) -> None:
    """L20: a calibration that is not that of the golden pair does not warm up."""
    path = Path(shutil.copytree(bundles / "gru", tmp_path / "gru"))
    manifest = json.loads((path / "manifest.json").read_text())
    for side in ("up", "down"):
        manifest["calibration"][side] *= -1.0  # the order of the classes, swapped
    (path / "manifest.json").write_text(json.dumps(manifest))
    agent = load_agent(read_bundle(path))
    with pytest.raises(BundleError, match="golden input gives probabilities off by"):
        agent.warm_up()


def test_another_model_does_not_warm_up(replace: Replace) -> None:
    """L23: a payload of the right shape and hash with other weights fails the golden pair."""
    agent = load_agent(read_bundle(replace(saved(LastRow(50.0)))))
    with pytest.raises(BundleError, match="the payload is not the model of the manifest"):
        agent.warm_up()


FORK = """
import os
import warnings
import torch

@torch.jit.script
def fork(x: torch.Tensor) -> torch.Tensor:
    return torch.jit.wait(torch.jit.fork(torch.neg, x))

def use() -> list[str]:
    \"\"\"What the import says.\"\"\"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        import quantum_ai_engine.agents.torchscript
    return [str(w.message) for w in said if "threads" in str(w.message)]

within = torch.get_num_threads()
"""


def in_a_process(folder: Path, code: str) -> None:
    (folder / "used.py").write_text(FORK + code)  # torch compiles what it can read in a file
    done = subprocess.run(
        [sys.executable, "-W", "ignore", folder / "used.py"],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_torch_is_bound_before_a_model_can_run(tmp_path: Path) -> None:
    """L46: no model decides how many threads torch has; those of training stay as they are."""
    in_a_process(
        tmp_path,
        """
assert use() == []
assert torch.get_num_interop_threads() == 1
assert torch.get_num_threads() == within
from quantum_ai_engine.agents.budget import bound_loaded
bound_loaded()  # it finds nothing left to set, whatever has run
try:
    torch.set_num_interop_threads(2)
except RuntimeError:
    raise SystemExit(0)
raise SystemExit("torch could still be set otherwise")
""",
    )


def test_threads_that_torch_will_not_give_up_are_said(tmp_path: Path) -> None:
    """L46: in a process that has used them already they stay, idle, with a warning."""
    in_a_process(
        tmp_path,
        """
torch.set_num_interop_threads(3)
fork(torch.ones(1))
said, = use()
assert "torch keeps 3 idle threads beside the agents" in said, said
os._exit(0)  # torch's threads may still be starting, which its own end does not bear
""",
    )


@pytest.mark.parametrize("attributes", [("training",), ()])
def test_training_mode_is_refused(replace: Replace, attributes: tuple[str, ...]) -> None:
    """L22: a module saved in training mode, or that does not say in which, does not load."""
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(LastRow().train()), buffer)
    payload = buffer.getvalue() if attributes else saved(LastRow(), ())
    with pytest.raises(BundleError, match="does not say that it was exported in eval mode"):
        load_agent(read_bundle(replace(payload)))


@pytest.mark.parametrize("payload", [b"", b"\0" * 164, b"PK\x03\x04 torn"])
def test_what_is_no_module_is_refused(replace: Replace, payload: bytes) -> None:
    """L24: even when the manifest vouches for it, a file that is no module does not load."""
    with pytest.raises(BundleError, match="is not a TorchScript module") as refused:
        load_agent(read_bundle(replace(payload)))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("model", [Dropping(), Mixing(), LastRow(float("nan"))])
def test_an_answer_must_depend_on_its_window_alone(replace: Replace, model: nn.Module) -> None:
    """L22: dropout baked in, a look at the neighbours, or NaN for every window is refused."""
    with pytest.raises(BundleError, match="no answer that depends on the window alone"):
        load_agent(read_bundle(replace(saved(model))))


def test_a_model_of_other_inputs_or_outputs_is_refused(replace: Replace) -> None:
    """L12: a module that does not take the set's windows, or gives no logits, does not load."""
    with pytest.raises(BundleError, match="does not answer windows of its feature set"):
        load_agent(read_bundle(replace(saved(Square()))))


def test_the_other_kinds_model_is_refused(replace: Replace, bundles: Path) -> None:
    """L23: the payload of another kind does not load, even with its own hash."""
    path = replace((bundles / "patchtst" / "model.pt").read_bytes())
    with pytest.raises(BundleError, match="does not answer windows of its feature set"):
        load_agent(read_bundle(path))
