"""N-HiTS: residual blocks that read the window at falling coarseness and answer in few knots."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantum_ai_engine.training.models.serving import Serving, linear, pack_linear
from quantum_ai_engine.training.neural import Neural

COLUMNS, ROWS, STEPS, WIDTH = 8, 128, 8, 128
POOLS = (16, 4, 1)  # rows in one pooled row, stack by stack
FORECAST_KNOTS = (1, 2, 8)  # of STEPS, stack by stack


class Block(nn.Module):
    """A stack of one block: pooled rows in; knots of a backcast and of a forecast out.

    The last stack has no backcast, since nobody reads its residual.
    """

    def __init__(self, pool: int, forecast_knots: int, backcasts: bool, dropout: float) -> None:
        super().__init__()
        knots = ROWS // pool
        self.pool, self.forecast_knots = pool, forecast_knots
        self.backcast_knots = knots if backcasts else 0
        self.hidden = nn.Sequential(
            nn.Linear(knots * COLUMNS, WIDTH),
            nn.ReLU(),
            nn.Dropout(dropout),
            nn.Linear(WIDTH, WIDTH),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        self.knots = nn.Linear(WIDTH, self.backcast_knots * COLUMNS + forecast_knots)

    def forward(self, residual: Tensor) -> tuple[Tensor, Tensor]:
        """What is left of a residual [batch, columns, rows], and a forecast [batch, steps]."""
        pooled = functional.max_pool1d(residual, self.pool).flatten(1)  # [batch, columns * knots]
        knots = self.knots(self.hidden(pooled))
        return interpolated(residual, knots, self.forecast_knots)


class NHits(nn.Module):
    """Stacks from coarse to fine; each explains a part of the window and adds to the forecast.

    The paper forecasts a path of values and is fitted to that path. Here only one bit is known of
    the future, whether the close is higher at the horizon, so nothing ties a step of the path to a
    bar: the path is of evidence, and its mean is the logit of P(up). What remains of the paper is
    how the window is read: pooling at several rates, knots that are interpolated, and residuals of
    the backcasts.

    Parameters: `dropout`, the share of activations that training hides.

    Source: Challu et al. 2023, "N-HiTS: Neural Hierarchical Interpolation for Time Series
    Forecasting".

    >>> NHits().eval()(torch.zeros(5, 128, 8)).shape
    torch.Size([5])
    """

    feature_set: ClassVar[str] = "patchtst8"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            Block(pool, knots, pool != POOLS[-1], dropout)
            for pool, knots in zip(POOLS, FORECAST_KNOTS, strict=True)
        )

    def forward(self, windows: Tensor) -> Tensor:
        residual = windows.transpose(1, 2)  # [batch, columns, rows]
        forecast = torch.zeros([len(windows), 1], device=windows.device)
        for block in self.blocks:
            residual, more = block(residual)
            forecast = forecast + more  # [batch, steps]
        return forecast.mean(dim=1)  # [batch]

    def for_serving(self) -> nn.Module:
        """The twin that serves."""
        return NHitsServing(self)


class NHitsServing(Serving):
    """The twin: packed weights."""

    def __init__(self, model: NHits) -> None:
        super().__init__()
        self.blocks: Any = model.blocks
        self.pools, self.forecast_knots = list(POOLS), list(FORECAST_KNOTS)

    def pack(self) -> list[list[Tensor]]:
        """Of each block: both hidden layers and the knots."""
        packed: list[list[Tensor]] = []
        for block in self.blocks:
            first, second, knots = block.hidden[0], block.hidden[3], block.knots
            packed.append(
                [
                    pack_linear(first.weight),
                    first.bias,
                    pack_linear(second.weight),
                    second.bias,
                    pack_linear(knots.weight),
                    knots.bias,
                ]
            )
        return packed

    def forward(self, windows: Tensor) -> Tensor:
        residual = windows.transpose(1, 2)  # [batch, columns, rows]
        forecast = torch.zeros([len(windows), 1])
        for index, weights in enumerate(self.weights()):
            pooled = functional.max_pool1d(residual, self.pools[index]).flatten(1)
            hidden = linear(pooled, weights[0], weights[1]).relu_()  # [batch, width]
            hidden = linear(hidden, weights[2], weights[3]).relu_()  # [batch, width]
            knots = linear(hidden, weights[4], weights[5])
            residual, more = interpolated(residual, knots, self.forecast_knots[index])
            forecast = forecast + more  # [batch, steps]
        return forecast.mean(dim=1)  # [batch]


def interpolated(residual: Tensor, knots: Tensor, forecast_knots: int) -> tuple[Tensor, Tensor]:
    """The residual less its backcast, and the forecast [batch, steps], each from its knots."""
    ahead = knots[:, -forecast_knots:].unsqueeze(1)  # [batch, 1, forecast knots]
    forecast = functional.interpolate(ahead, 8, mode="linear").squeeze(1)
    if knots.size(1) > forecast_knots:
        back = knots[:, :-forecast_knots].reshape(len(knots), residual.size(1), -1)
        back = functional.interpolate(back, residual.size(2), mode="linear")
        residual = residual - back  # [batch, columns, rows]
    return residual, forecast


FAMILY = Neural(NHits, NHits.feature_set)
