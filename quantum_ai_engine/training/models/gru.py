"""A small recurrent model: two gated recurrent layers and one linear read-out."""

from typing import ClassVar

from torch import Tensor, nn

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
