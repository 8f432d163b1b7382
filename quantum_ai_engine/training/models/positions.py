"""Codes that tell an encoder where a row stands in its window."""

import math

import torch
from torch import Tensor


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
