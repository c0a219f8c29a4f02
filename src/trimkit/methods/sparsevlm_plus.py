"""SparseVLM+: SparseVLM with the decay of rotary embeddings taken out of the attention, and the strongest heads alone."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core.layer_read import TextRows
from trimkit.methods.sparsevlm import SparseVLM

__all__ = ["SparseVLMPlus", "rope_weights", "strongest_heads"]


class SparseVLMPlus(SparseVLM):
    """Cuts where SparseVLM does, by the same raters, with three differences; the released code's version 2.

    1. Every attention value is divided by the weight that the rotary embedding alone gives to its distance.
    2. Only the ``heads`` of the largest sum (raters by image tokens) count.
    3. Nothing is clustered, and tokens keep their positions. The table of counts is another one.

    Options:
        heads: how many heads count; at most all.
        layers, renumber: as in ``sparsevlm``.
    """

    name: ClassVar[str] = "sparsevlm-plus"
    summary: ClassVar[str] = "SparseVLM+: SparseVLM without the decay of rotary embeddings, by the strongest heads"
    paper: ClassVar[str] = "https://github.com/Gumpest/SparseVLMs"
    table: ClassVar[dict[int, tuple[int, ...]]] = {
        64: (66, 34, 20),
        96: (246, 54, 28),
        128: (238, 108, 60),
        192: (300, 200, 118),
    }

    recycle: bool = False
    renumber: bool = False
    heads: int = Field(default=14, ge=1)

    def rated(self, rows: TextRows) -> Tensor:
        distance = rows.queries[:, None] - rows.keys[None, :]
        even = rows.weights / rope_weights(distance.to(rows.weights.device), rows.head_dim, rows.theta)
        return even[strongest_heads(even, self.heads)].mean(dim=0).mean(dim=0)


def rope_weights(distance: Tensor, head_dim: int, theta: float = 10000.0) -> Tensor:
    """Score that a rotary embedding gives to two vectors of ones at a distance: ``2 / sqrt(d) * sum of cos(distance * w_t)``.

    Args:
        distance: query position less key position, of any shape.
        head_dim: d, the width of a head.
        theta: base of the embedding; ``w_t = theta ** (-2 t / d)``, t from 0 to d / 2 - 1.

    Returns:
        Of the same shape, float32. It can be negative.
    """
    waves = theta ** (-2.0 * torch.arange(head_dim // 2, device=distance.device) / head_dim)
    weights: Tensor = torch.cos(distance[..., None] * waves).sum(dim=-1) * (2.0 / head_dim**0.5)
    return weights


def strongest_heads(weights: Tensor, count: int) -> Tensor:
    """``[min(count, heads)]`` int64: the heads of ``[heads, Q, n]`` with the largest sums, falling."""
    return weights.sum(dim=(1, 2)).sort(descending=True, stable=True).indices[:count]
