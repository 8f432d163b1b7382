"""A patch transformer: attention over stretches of rows instead of single rows."""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn

COLUMNS, PATCH_ROWS, PATCHES = 8, 16, 8
WIDTH, HEADS, LAYERS, FEED_FORWARD = 128, 4, 3, 512


class PatchTst(nn.Module):
    """A transformer encoder over patches of rows; their mean gives the logit of P(up).

    Parameters: `dropout`, the share of activations that training hides.

    Sources: Nie et al. 2023, "A Time Series is Worth 64 Words"; the fixed positions and the
    encoder are those of Vaswani et al. 2017, "Attention Is All You Need". Unlike the paper's, a
    patch holds all columns at once, since they describe one bar together.

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


def sinusoids(positions: int, width: int) -> Tensor:
    """Fixed position codes [positions, width]: sines in even columns, cosines in odd ones.

    >>> sinusoids(2, 2)
    tensor([[0.0000, 1.0000],
            [0.8415, 0.5403]])
    """
    frequencies = torch.exp(torch.arange(0, width, 2) * (-math.log(10_000.0) / width))
    angles = torch.arange(positions).unsqueeze(1) * frequencies  # [positions, width / 2]
    pairs = torch.stack([angles.sin(), angles.cos()], dim=2)  # [positions, width / 2, 2]
    return pairs.reshape(positions, width)  # [positions, width]
