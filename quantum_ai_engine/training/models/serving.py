"""What the serving forms of the neural models share: weights packed for the processor at hand.

oneDNN's packed linear layers give a row the same bits however many rows come with it, down to
one, so no batch needs padding; and they are about twice as fast as those on plain weights.
"""

from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional


class Serving(nn.Module):
    """An eval-only twin of a model, with its parameters under their names.

    A file holds the plain parameters; who loads it calls `prepare` once. `forward` works without,
    only slower. Twins read the parameters nowhere but in `pack`.
    """

    packed: list[list[Tensor]]

    def __init__(self) -> None:
        super().__init__()
        self.packed = []

    def pack(self) -> list[list[Tensor]]:
        """The weights as `forward` reads them."""
        raise NotImplementedError

    @torch.jit.export
    def prepare(self) -> None:
        """Pack the weights once and for all; copies, since a frozen module shares no memory."""
        self.packed = [[copied(weight) for weight in part] for part in self.pack()]

    def weights(self) -> list[list[Tensor]]:
        """The packed weights."""
        return self.packed if len(self.packed) > 0 else self.pack()


class Encodes(Protocol):
    """A model that embeds rows, adds positions and encodes them, normalising first."""

    embed: nn.Linear
    positions: Tensor
    encoder: nn.TransformerEncoder
    read_out: nn.Linear


class EncoderServing(Serving):
    """What twins of encoders share."""

    packed: list[list[Tensor]]  # TorchScript reads the annotations of one class only
    positions: Tensor

    def __init__(self, model: Encodes) -> None:
        super().__init__()
        self.embed, self.encoder, self.read_out = model.embed, model.encoder, model.read_out
        self.heads: int = model.encoder.layers[0].self_attn.num_heads
        self.register_buffer("positions", model.positions)

    def pack_encoder(self) -> list[list[Tensor]]:
        """The embedding's weights, then those of each layer, in the order in which they act."""
        packed = [[pack_linear(self.embed.weight), self.embed.bias]]
        for layer in self.encoder.layers:
            packed.append(  # noqa: PERF401 - TorchScript unrolls loops over modules, not lists
                [
                    layer.norm1.weight,
                    layer.norm1.bias,
                    pack_linear(layer.self_attn.in_proj_weight),
                    layer.self_attn.in_proj_bias,
                    pack_linear(layer.self_attn.out_proj.weight),
                    layer.self_attn.out_proj.bias,
                    layer.norm2.weight,
                    layer.norm2.bias,
                    pack_linear(layer.linear1.weight),
                    layer.linear1.bias,
                    pack_linear(layer.linear2.weight),
                    layer.linear2.bias,
                ]
            )
        return packed

    def embedded(self, inputs: Tensor, weights: list[Tensor]) -> Tensor:
        """Inputs [batch, rows, values] as states [batch * rows, width], positions added."""
        states = linear(inputs.flatten(0, 1), weights[0], weights[1])  # [batch * rows, width]
        states = states.view(len(inputs), -1, states.size(1)) + self.positions
        return states.flatten(0, 1)  # [batch * rows, width]


def copied(weight: Tensor) -> Tensor:
    """A weight in memory of its own; packed ones have it."""
    return weight if weight.is_mkldnn else weight.detach().clone()


def pack_linear(weight: Tensor) -> Tensor:
    """A weight [out, in] as the packed layers read it."""
    packed: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach())
    return packed


def linear(rows: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """Rows [n, in] times a packed weight: [n, out]."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "none", [], "")
    return product


def linear_gelu(rows: Tensor, packed: Tensor, bias: Tensor) -> Tensor:
    """GELU of a packed linear layer."""
    product: Tensor = torch.ops.mkldnn._linear_pointwise(rows, packed, bias, "gelu", [], "none")
    return product


def linear_add(rows: Tensor, packed: Tensor, bias: Tensor, other: Tensor) -> Tensor:
    """A packed linear layer plus `other` [n, out]."""
    total: Tensor = torch.ops.mkldnn._linear_pointwise(rows, other, packed, bias, "add")
    return total


def encoder_layer(states: Tensor, weights: list[Tensor], batch: int, heads: int) -> Tensor:
    """States [batch * rows, width] after a layer of `EncoderServing.pack`."""
    width = states.size(1)
    normal = functional.layer_norm(states, [width], weights[0], weights[1])
    projected = linear(normal, weights[2], weights[3]).view(batch, -1, 3, heads, width // heads)
    query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)  # [batch, heads, rows, values]
    seen = functional.scaled_dot_product_attention(query, key, value)
    return after_attention(states, seen, weights)


def after_attention(states: Tensor, seen: Tensor, weights: list[Tensor]) -> Tensor:
    """The rest of a layer, from what was seen [batch, heads, rows, values]."""
    seen = seen.transpose(1, 2).reshape(states.shape)  # [batch * rows, width]
    states = linear_add(seen, weights[4], weights[5], states)
    normal = functional.layer_norm(states, [states.size(1)], weights[6], weights[7])
    hidden = linear_gelu(normal, weights[8], weights[9])  # [batch * rows, feed forward]
    return linear_add(hidden, weights[10], weights[11], states)


def dot(states: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """States [batch, width] read out to [batch]; no matrix product, whose bits depend on batch."""
    return (states * weight).sum(1) + bias
