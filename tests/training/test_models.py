"""The neural models: their size, their shapes, what they declare, and their serving twins."""

import io
import math
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from quantum_ai_engine.agents.load import LOADERS
from quantum_ai_engine.agents.torchscript import ready
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.training.models.gru import Gru
from quantum_ai_engine.training.models.nhits import NHits
from quantum_ai_engine.training.models.patchtst import PatchTst
from quantum_ai_engine.training.models.positions import sinusoids
from quantum_ai_engine.training.models.registry import FAMILIES, family
from quantum_ai_engine.training.models.transformer import Transformer
from quantum_ai_engine.training.neural import TOLERANCE, Neural, scripted
from quantum_ai_engine.training.options import TrainingError

MODELS: dict[str, type[nn.Module]] = {
    "gru": Gru,
    "transformer": Transformer,
    "patchtst": PatchTst,
    "nhits": NHits,
}


@pytest.fixture(autouse=True)
def seeded() -> Iterator[None]:
    """Each test draws its weights and windows from one seed, and computes as a worker does."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        yield
    torch.set_num_threads(threads)


def some_windows(kind: str, count: int) -> Tensor:
    declared = feature_set(family(kind).feature_set)
    return torch.randn(count, declared.window, len(declared.columns))


def twin(model: nn.Module) -> torch.jit.ScriptModule:
    """The serving form of a model, saved and loaded."""
    return torch.jit.load(io.BytesIO(scripted(model.for_serving().eval())))


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("gru", 10_497), ("transformer", 4_783_361), ("patchtst", 611_713), ("nhits", 264_651)],
)
def test_has_the_designed_size(kind: str, parameters: int) -> None:
    """Each model has exactly the parameters that its design states."""
    assert sum(p.numel() for p in MODELS[kind]().parameters()) == parameters


@pytest.mark.parametrize("kind", MODELS)
def test_is_the_model_of_its_kind(kind: str) -> None:
    """A family fits the model of its name for the set that the model declares."""
    found = family(kind)
    assert isinstance(found, Neural)
    assert found.model is MODELS[kind]
    assert found.feature_set == MODELS[kind].feature_set


@pytest.mark.parametrize("kind", MODELS)
def test_reads_what_it_declares(kind: str) -> None:
    """A window of the declared feature set gives one logit, and each window its own."""
    windows, model = some_windows(kind, 3), MODELS[kind]().eval()
    together = model(windows)
    assert together.shape == (3,)
    alone = torch.cat([model(window.unsqueeze(0)) for window in windows])
    torch.testing.assert_close(together, alone)


def test_every_kind_can_be_served() -> None:
    """What can be trained can be loaded, and the other way round."""
    assert set(FAMILIES) == set(LOADERS)


def test_an_unknown_kind_names_those_that_exist() -> None:
    """L03: another kind is not replaced by a known one."""
    with pytest.raises(TrainingError, match="no kind 'lstm' can be trained; there are gru, trans"):
        family("lstm")


@pytest.mark.parametrize("kind", MODELS)
def test_gradient_reaches_every_parameter(kind: str) -> None:
    """No layer stands beside the path from window to logit."""
    model = MODELS[kind]()
    model(some_windows(kind, 4)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("count", [1, 3, 40])
def test_the_twin_answers_as_the_model(kind: str, count: int) -> None:
    """L22: the serving form, prepared or not, gives the model's logits for any batch."""
    windows, model = some_windows(kind, count), MODELS[kind]().eval()
    plain, prepared = torch.jit.freeze(twin(model)), ready(twin(model))
    with torch.inference_mode():
        for got in (plain(windows), prepared(windows), model.for_serving()(windows)):
            assert got.shape == (count,)
            assert (got - model(windows)).abs().max() <= TOLERANCE
        assert torch.equal(plain(windows), prepared(windows))


def test_a_payload_has_the_same_bytes_in_each_process() -> None:
    """L23: a digest names a model, so that no order of hashes may go into it."""
    program = (
        "import hashlib, torch\n"
        "from quantum_ai_engine.training.models.registry import family\n"
        "from quantum_ai_engine.training.neural import scripted\n"
        "for kind in ('gru', 'nhits', 'patchtst'):\n"
        "    torch.manual_seed(0)\n"
        "    model = family(kind).model().eval()\n"
        "    print(hashlib.sha256(scripted(model.for_serving().eval())).hexdigest())\n"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("0", "1")
    )
    assert len(first.split()) == 3
    assert first == second


@pytest.mark.parametrize("kind", MODELS)
def test_the_twin_has_the_models_parameters(kind: str) -> None:
    """L23: what a bundle holds loads into the model, name by name, and gives its answers."""
    model, other = MODELS[kind]().eval(), MODELS[kind]().eval()
    other.load_state_dict(twin(model).state_dict())
    windows = some_windows(kind, 2)
    assert torch.equal(model(windows), other(windows))


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("row", [0, -1])
def test_the_twin_answers_nothing_to_what_is_unknown(kind: str, row: int) -> None:
    """L02: a value that is no number, in whatever row, gives no number, and spoils no other."""
    windows, prepared = some_windows(kind, 3), ready(twin(MODELS[kind]().eval()))
    holed = windows.clone()
    holed[1, row, 2] = math.nan
    with torch.inference_mode():
        expected, got = prepared(windows), prepared(holed)
    assert got[1].isnan()
    assert torch.equal(got[::2], expected[::2])


@pytest.mark.parametrize("kind", MODELS)
def test_the_twin_does_not_depend_on_the_batch(kind: str) -> None:
    """A window alone gives the bits that it gives among others."""
    windows, prepared = some_windows(kind, 40), ready(twin(MODELS[kind]().eval()))
    with torch.inference_mode():
        whole = prepared(windows)
        for size in (1, 2, 4, 16):
            assert torch.equal(torch.cat([prepared(p) for p in windows.split(size)]), whole), size


def test_the_order_of_patches_matters() -> None:
    """Positions tell a window from the same patches in another order."""
    windows = torch.randn(1, 128, 8)
    turned = windows.reshape(1, 8, 16, 8).flip(1).reshape(1, 128, 8)
    model = PatchTst().eval()
    assert (model(windows) - model(turned)).abs() > 1e-4


def test_every_row_reaches_the_newest() -> None:
    """The transformer's answer, read off the newest row, depends on the oldest."""
    windows, model = torch.randn(1, 64, 173), Transformer().eval()
    changed = windows.clone()
    changed[:, 0] += 1.0
    assert (model(windows) - model(changed)).abs() > 1e-5


def test_later_stacks_read_what_earlier_ones_left() -> None:
    """N-HiTS is doubly residual: the backcast of the first block changes what the last reads."""
    windows, model = torch.randn(1, 128, 8), NHits().eval()
    before = model(windows)
    knots = model.blocks[0].backcast_knots * 8
    with torch.no_grad():  # of the backcast alone: the first block's own forecast stays
        model.blocks[0].knots.bias[:knots] += 1.0
    assert (model(windows) - before).abs() > 1e-4


def test_positions_are_fixed_sinusoids() -> None:
    """Positions are those of Vaswani et al. 2017, and training does not move them."""
    codes = sinusoids(8, 128)
    angle = 3 / 10_000 ** (10 / 128)
    assert codes[3, 10:12].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], rel=1e-5)
    for model in (PatchTst(), Transformer()):
        assert "positions" not in dict(model.named_parameters())
