"""A patch transformer: attention over stretches of rows instead of single rows."""

from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional

from quantum_ai_engine.training.models.positions import sinusoids
from quantum_ai_engine.training.models.serving import EncoderServing, dot, encoder_layer
from quantum_ai_engine.training.neural import Neural

COLUMNS, PATCH_ROWS, PATCHES = 8, 16, 8
WIDTH, HEADS, LAYERS, FEED_FORWARD = 128, 4, 3, 512


class PatchTst(nn.Module):
    """A transformer encoder over patches of rows; their mean gives the logit of P(up).

    Parameters: `dropout`, the share of activations that training hides.

    Sources: Nie et al. 2023, "A Time Series is Worth 64 Words"; the fixed positions and the
    encoder are those of Vaswani et al. 2017, "Attention Is All You Need". Unlike the paper's, a
    patch holds all columns at once, since they describe one bar together.

    >>> import torch
    >>> PatchTst().eval()(torch.zeros(5, 128, 8)).shape
    torch.Size([5])
    """

    feature_set: ClassVar[str] = "patchtst8"
    positions: Tensor

    def __init__(self, dropout: float = 0.1) -> None:
        super().__init__()
        self.embed = nn.Linear(PATCH_ROWS * COLUMNS, WIDTH)
        self.register_buffer("positions", sinusoids(PATCHES, WIDTH))
        layer = nn.TransformerEncoderLayer(
            WIDTH, HEADS, FEED_FORWARD, dropout, "gelu", batch_first=True, norm_first=True
        )
        # Nested tensors serve padded batches only, and cannot be scripted.
        self.encoder = nn.TransformerEncoder(layer, LAYERS, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(WIDTH)
        self.read_out = nn.Linear(WIDTH, 1)

    def forward(self, windows: Tensor) -> Tensor:
        # TorchScript sees no module constants, but it sees those of a layer.
        patches = windows.reshape(
            len(windows), -1, self.embed.in_features
        )  # [batch, patches, values]
        states = self.encoder(self.embed(patches) + self.positions)  # [batch, patches, width]
        summary = self.norm(states.mean(dim=1))  # [batch, width]
        logits: Tensor = self.read_out(summary).squeeze(1)  # [batch]
        return logits

    def for_serving(self) -> nn.Module:
        """The twin that serves."""
        return PatchTstServing(self)


class PatchTstServing(EncoderServing):
    """The twin: packed weights, and activations and sums fused into the linear layers."""

    def __init__(self, model: PatchTst) -> None:
        super().__init__(model)
        self.norm = model.norm

    def pack(self) -> list[list[Tensor]]:
        """Those of the encoder, and those of the read-out."""
        packed = self.pack_encoder()
        packed.append([self.norm.weight, self.norm.bias, self.read_out.weight, self.read_out.bias])
        return packed

    def forward(self, windows: Tensor) -> Tensor:
        weights, batch = self.weights(), len(windows)
        patches = windows.reshape(batch, -1, self.embed.in_features)  # [batch, patches, values]
        states = self.embedded(patches, weights[0])  # [batch * patches, width]
        for layer in weights[1:-1]:
            states = encoder_layer(states, layer, batch, self.heads)
        summary = states.view(batch, -1, states.size(1)).mean(dim=1)  # [batch, width]
        end = weights[-1]
        summary = functional.layer_norm(summary, [summary.size(1)], end[0], end[1])
        return dot(summary, end[2], end[3])


FAMILY = Neural(PatchTst, PatchTst.feature_set)
