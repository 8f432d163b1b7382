"""A transformer over single rows of many columns; its newest state gives the answer."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from quantum_ai_engine.training.models.positions import sinusoids
from quantum_ai_engine.training.models.serving import (
    EncoderServing,
    after_attention,
    dot,
    encoder_layer,
    linear,
    pack_linear,
)
from quantum_ai_engine.training.neural import Neural

COLUMNS, ROWS = 173, 64
WIDTH, HEADS, LAYERS, FEED_FORWARD = 256, 8, 6, 1024


class Transformer(nn.Module):
    """A transformer encoder over the rows of a window; the newest gives the logit of P(up).

    Parameters: `dropout`, the share of activations that training hides.

    Source: Vaswani et al. 2017, "Attention Is All You Need"; layers normalise before rather than
    after they act (Xiong et al. 2020), which trains without a warm-up of the learning rate.

    >>> import torch
    >>> Transformer().eval()(torch.zeros(5, 64, 173)).shape
    torch.Size([5])
    """

    feature_set: ClassVar[str] = "transformer173"
    positions: Tensor

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(COLUMNS, WIDTH)
        self.register_buffer("positions", sinusoids(ROWS, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FEED_FORWARD, dropout, "gelu", batch_first=True, norm_first=True
        )
        # Nested tensors serve padded batches only, and cannot be scripted.
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.read_out = nn.Linear(WIDTH, 1)

    def forward(self, windows: Tensor) -> Tensor:
        states = self.encoder(self.embed(windows) + self.positions)  # [batch, rows, width]
        logits: Tensor = self.read_out(states[:, -1]).squeeze(1)  # [batch]
        return logits

    def for_serving(self) -> nn.Module:
        """The twin that serves."""
        return TransformerServing(self)


class TransformerServing(EncoderServing):
    """The twin: its last layer asks, and feeds forward, for the newest row alone."""

    def __init__(self, model: Transformer) -> None:
        super().__init__(model)
        self.width = WIDTH

    def pack(self) -> list[list[Tensor]]:
        """Those of the encoder; the last layer's queries apart from keys and values; read-out."""
        last = self.encoder.layers[-1].self_attn
        weight, bias = last.in_proj_weight, last.in_proj_bias
        packed = self.pack_encoder()
        packed.append(
            [
                pack_linear(weight[: self.width]),
                bias[: self.width],
                pack_linear(weight[self.width :]),
                bias[self.width :],
                self.read_out.weight,
                self.read_out.bias,
            ]
        )
        return packed

    def forward(self, windows: Tensor) -> Tensor:
        weights, batch = self.weights(), len(windows)
        states = self.embedded(windows, weights[0])  # [batch * rows, width]
        for layer in weights[1:-2]:
            states = encoder_layer(states, layer, batch, self.heads)
        newest = self.newest(states, weights[-2], weights[-1], batch)
        return dot(newest, weights[-1][4], weights[-1][5])

    def newest(self, states: Tensor, layer: list[Tensor], end: list[Tensor], batch: int) -> Tensor:
        """The newest rows' states [batch, width] after the last layer."""
        each = self.width // self.heads
        newest = states.view(batch, -1, self.width)[:, -1].contiguous()  # [batch, width]
        normal = functional.layer_norm(states, [self.width], layer[0], layer[1])
        asking = normal.view(batch, -1, self.width)[:, -1].contiguous()  # [batch, width]
        query = linear(asking, end[0], end[1]).view(batch, 1, self.heads, each).transpose(1, 2)
        pairs = linear(normal, end[2], end[3]).view(batch, -1, 2, self.heads, each)
        key, value = pairs.permute(2, 0, 3, 1, 4).unbind(0)  # [batch, heads, rows, each]
        seen = functional.scaled_dot_product_attention(query, key, value)
        return after_attention(newest, seen, layer)


FAMILY = Neural(Transformer, Transformer.feature_set)
