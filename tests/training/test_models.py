"""The models: their size, their shapes and what they declare."""

import math

import pytest
import torch

from quantum_ai_engine.agents.load import TORCHSCRIPT_KINDS
from quantum_ai_engine.features.schema import feature_set
from quantum_ai_engine.training.models.patchtst import PatchTst, sinusoids
from quantum_ai_engine.training.models.registry import MODELS


@pytest.mark.parametrize(("kind", "parameters"), [("gru", 10_497), ("patchtst", 611_713)])
def test_has_the_designed_size(kind: str, parameters: int) -> None:
    """Each model has exactly the parameters that its design states."""
    assert sum(p.numel() for p in MODELS[kind]().parameters()) == parameters


@pytest.mark.parametrize("kind", MODELS)
def test_reads_what_it_declares(kind: str) -> None:
    """A window of the declared feature set gives one logit, and each window its own."""
    declared = feature_set(MODELS[kind].feature_set)
    windows = torch.randn(3, declared.window, len(declared.columns))
    model = MODELS[kind]().eval()
    together = model(windows)
    assert together.shape == (3,)
    alone = torch.cat([model(window.unsqueeze(0)) for window in windows])
    torch.testing.assert_close(together, alone)


def test_every_kind_can_be_served() -> None:
    """What can be trained can be loaded, and the other way round."""
    assert tuple(MODELS) == TORCHSCRIPT_KINDS


@pytest.mark.parametrize("kind", MODELS)
def test_gradient_reaches_every_parameter(kind: str) -> None:
    """No layer stands beside the path from window to logit."""
    declared = feature_set(MODELS[kind].feature_set)
    model = MODELS[kind]()
    model(torch.randn(4, declared.window, len(declared.columns))).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_order_of_patches_matters() -> None:
    """Positions tell a window from the same patches in another order."""
    windows = torch.randn(1, 128, 8)
    turned = windows.reshape(1, 8, 16, 8).flip(1).reshape(1, 128, 8)
    model = PatchTst().eval()
    assert (model(windows) - model(turned)).abs() > 1e-4


def test_positions_are_fixed_sinusoids() -> None:
    """Positions are those of Vaswani et al. 2017, and training does not move them."""
    codes = sinusoids(8, 128)
    angle = 3 / 10_000 ** (10 / 128)
    assert codes[3, 10:12].tolist() == pytest.approx([math.sin(angle), math.cos(angle)], rel=1e-5)
    assert "positions" not in dict(PatchTst().named_parameters())
