"""A small recurrent model: two gated recurrent layers and one linear read-out."""

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quantum_ai_engine.training.models.serving import Serving, dot, linear, pack_linear
from quantum_ai_engine.training.neural import Neural

HIDDEN, LAYERS, COLUMNS = 32, 2, 9


class Gru(nn.Module):
    """Gated recurrent units over the window; the last state gives the logit of P(up).

    Parameters: `dropout`, the share of the first layer's outputs that training hides.

    Source: Cho et al. 2014, "Learning Phrase Representations using RNN Encoder-Decoder".

    >>> import torch
    >>> Gru()(torch.zeros(5, 32, 9)).shape
    torch.Size([5])
    """

    feature_set: ClassVar[str] = "gru9"

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.gru = nn.GRU(COLUMNS, HIDDEN, LAYERS, batch_first=True, dropout=dropout)
        self.read_out = nn.Linear(HIDDEN, 1)

    def forward(self, windows: Tensor) -> Tensor:
        states, _ = self.gru(windows)  # [batch, window, hidden]
        logits: Tensor = self.read_out(states[:, -1]).squeeze(1)  # [batch]
        return logits

    def for_serving(self) -> nn.Module:
        """The twin that serves."""
        return GruServing(self)


class GruServing(Serving):
    """The twin: both layers in one wavefront, the second a bar behind the first.

    A step is one matrix product of [inputs, states of both layers, ½] and four passes over gates.
    A state h is kept as (h + 1) / 2 and tanh(x) taken as 2σ(2x) − 1: σ is several times faster.
    """

    def __init__(self, model: Gru) -> None:
        super().__init__()
        self.gru: Any = model.gru
        self.read_out = model.read_out
        self.least_rows = 4  # of a product: MKL rounds fewer otherwise
        self.many_rows = 32  # above, the packed product is faster; both give the same bits

    def pack(self) -> list[list[Tensor]]:
        """The step's matrix [inputs + states + 1, gates], plain and packed; the read-out."""
        gru = self.gru
        first, own, bias = gates(gru.weight_ih_l0, gru.weight_hh_l0, gru.bias_ih_l0, gru.bias_hh_l0)
        none, half = torch.zeros_like(own), 2 * (bias - own.sum(2, True))
        upper = torch.cat([first, 2 * own, none, half], dim=2)  # [gates, hidden, columns]
        second, own, bias = gates(
            gru.weight_ih_l1, gru.weight_hh_l1, gru.bias_ih_l1, gru.bias_hh_l1
        )
        half = 2 * (bias - own.sum(2, True) - second.sum(2, True))
        lower = torch.cat([torch.zeros_like(first), 2 * second, 2 * own, half], dim=2)
        step = torch.cat([upper, lower], dim=1).flatten(0, 1)  # [gates * both, columns]
        weight = self.read_out.weight
        read_out = [2 * weight, self.read_out.bias - weight.sum()]
        return [[step.t().contiguous(), pack_linear(step)], read_out]

    def forward(self, windows: Tensor) -> Tensor:
        weights, batch, window = self.weights(), len(windows), windows.size(1)
        columns, both = windows.size(2), 2 * self.gru.hidden_size
        matrix, packed = weights[0][0], weights[0][1]
        inputs = torch.full([window + 1, max(batch, self.least_rows), len(matrix)], 0.5)
        inputs[:-1, :batch, :columns] = windows.transpose(0, 1)
        steps = inputs.unbind(0)  # [batch, inputs + states + 1] each
        states = inputs[:, :batch, columns:-1].unbind(0)  # [batch, both] each
        product = torch.empty([inputs.size(1), 4 * both])
        hidden, reset, new, update = product[:batch].chunk(4, dim=1)  # [batch, both] each
        new_and_update = product[:batch, 2 * both :]
        for step in range(window + 1):
            if batch > self.many_rows:
                product.copy_(linear(steps[step], packed, None))
            else:
                torch.mm(steps[step], matrix, out=product)
            reset.sigmoid_()
            new.addcmul_(reset, hidden)
            new_and_update.sigmoid_()
            if step < window:
                torch.lerp(states[step], new, update, out=states[step + 1])
            if step == 0:  # the second layer begins with the next step
                states[1][:, both // 2 :] = 0.5
        last = torch.lerp(states[window], new, update)[:, both // 2 :]  # [batch, hidden]
        return dot(last, weights[1][0], weights[1][1])


def gates(
    weight_in: Tensor, weight_own: Tensor, bias_in: Tensor, bias_own: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A layer's weights [4, hidden, inputs], [4, hidden, hidden] and biases [4, hidden, 1].

    In the order of the twin's product: what reset scales, reset, the rest of new, update; scaled
    so that σ of each is what a step needs.
    """
    inputs, own = weight_in.detach().chunk(3), weight_own.detach().chunk(3)
    bias, other = bias_in.detach().chunk(3), bias_own.detach().chunk(3)
    none_in, none = torch.zeros_like(inputs[2]), torch.zeros_like(own[2])
    return (
        torch.stack([none_in, inputs[0], 2 * inputs[2], -inputs[1]]),
        torch.stack([2 * own[2], own[0], none, -own[1]]),
        torch.stack([2 * other[2], bias[0] + other[0], 2 * bias[2], -bias[1] - other[1]]).unsqueeze(
            2
        ),
    )


FAMILY = Neural(Gru, Gru.feature_set, one_thread=True)
