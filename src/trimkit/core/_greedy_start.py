"""What the greedy loops of Focus and CDPruner begin with on a device: a Gram matrix, and how much of each token is new."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEAST_VOLUME", "start"]

LEAST_VOLUME = 1e-9
"""Of the largest variance: what is left beyond the rank of the kernel is rounding."""


def start(features: Tensor, wide: torch.dtype, quality: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """``[B, N, N]`` cosines of ``[B, N, D]`` features, and ``[B, N, 1]``, the cosine of each with itself; both of ``wide``.

    Args:
        features: any length; one that is not finite, or 0, is similar to nothing.
        wide: dtype of the arithmetic.
        quality: ``[B, N, 1]`` that scales the cosines on both sides, or None.
    """
    unit = torch.nn.functional.normalize(features.to(wide), dim=-1).nan_to_num(0.0)
    length = unit.square().sum(dim=2, keepdim=True)
    variance = torch.where(length > 0.5, 1.0, length)  # exactly 1: rounding must not rank equal tokens
    if quality is not None:
        unit, variance = unit * quality, variance * quality.square()
    return torch.bmm(unit, unit.transpose(1, 2)), variance
