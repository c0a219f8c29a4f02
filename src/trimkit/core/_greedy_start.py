"""What greedy loops on a device begin with: a Gram matrix and how much of each token is new, or how far each is from others."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["LEAST_VOLUME", "separation", "start"]

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


def separation(distances: Tensor, broken: Tensor, real: Tensor | None) -> Tensor:
    """``[B, N]``, each token's distance to the nearest other one; -1 of broken tokens, and -inf on padding.

    Args:
        distances: ``[B, N, N]``.
        broken: ``[B, N]`` bool, tokens that are not finite.
        real: ``[B, N]`` bool, false on padding, or None.
    """
    ignored = broken if real is None else broken | ~real
    own = torch.eye(broken.shape[1], dtype=torch.bool, device=distances.device)
    nearest = distances.masked_fill(ignored.unsqueeze(1) | own, torch.inf).amin(dim=2).masked_fill(ignored, -1.0)
    return nearest if real is None else nearest.masked_fill(~real, -torch.inf)
