"""MMTok: tokens that cover the question's words and the picture's own patches."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod

__all__ = ["MMTok", "coverage_rows", "greedy_cover"]


def coverage_rows(
    text: Tensor, projected: Tensor, features: Tensor, alpha: float, text_temperature: float, image_temperature: float
) -> Tensor:
    """How well each token covers each word and each patch.

    Args:
        text: ``[m, H]`` input embeddings of the question's words; m may be 0.
        projected: ``[N, H]`` tokens after the projector.
        features: ``[N, D]`` the same before it.
        alpha: weight of the patches.
        text_temperature, image_temperature: of the two softmaxes.

    Returns:
        ``[m + N, N]`` float32: rows are to be covered, columns can be chosen.
    """
    words, tokens, patches = (_unit(each) for each in (text, projected, features))
    from_text = torch.softmax(words @ tokens.T / text_temperature, dim=1) / max(len(words), 1)
    from_image = torch.softmax(patches @ patches.T / image_temperature, dim=1) / max(len(patches), 1)
    return torch.cat([from_text, alpha * from_image])


def greedy_cover(rows: Tensor, count: int, allowed: Tensor | None = None) -> Tensor:
    """Columns that raise the sum over rows of the largest chosen value most, one after the other.

    Args:
        rows: ``[R, N]``, not negative.
        count: 1 to N.
        allowed: ``[N]`` bool; the others are chosen only when none of these is left.

    Returns:
        ``[count]`` int64 in the order of choice; equal gains go to the lower index.
    """
    best = rows.new_zeros(len(rows), 1)
    barred = torch.zeros(rows.shape[1], dtype=rows.dtype, device=rows.device)
    if allowed is not None:
        barred = barred.masked_fill(~allowed, -1e9)
    chosen = torch.empty(count, dtype=torch.int64, device=rows.device)
    for turn in range(count):
        gains = (rows - best).clamp(min=0.0).sum(dim=0) + barred
        pick = gains.argmax()
        chosen[turn] = pick
        barred[pick] = -torch.inf
        best = torch.maximum(best, rows[:, pick].unsqueeze(1))
    return chosen


def _unit(vectors: Tensor) -> Tensor:
    wide = vectors.float().nan_to_num(0.0)
    return wide / torch.linalg.vector_norm(wide, dim=-1, keepdim=True).clamp(min=1e-8)
