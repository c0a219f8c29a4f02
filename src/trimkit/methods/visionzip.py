"""VisionZip: dominant patches by class attention, and contextual tokens merged from the rest by key similarity."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._base import on_device
from trimkit.methods._choosing import ChoosingMethod, cosines, marked, signal

__all__ = ["VisionZip"]


class VisionZip(ChoosingMethod):
    """Keeps the patches of the highest class attention as they are, and merges all others into a few contextual tokens.

    Contextual tokens start from patches at equal steps among the others; each of the remaining ones joins the start whose
    attention key is nearest (cosine), and the token is the mean of its start and of the mean of those that joined. The released
    code adds the two instead, which gives a token twice as long: ``merge="released"``. It also averages keys over heads before
    it compares them, and keeps the class token, which LLaVA does not hand on. The layer is the released code's, the one that
    gives the features. The default budget is the paper's 54 + 10 = 64 tokens.

    Options:
        dominant: the share of kept tokens that are dominant, rounded, at least one.
        merge: ``mean`` or ``released``.
    """

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "VisionZip: patches of high class attention, the rest merged into contextual tokens by key"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys"})

    budget: BudgetField = Budget("count", 64)
    dominant: float = Field(default=54 / 64, gt=0.0, le=1.0)
    merge: Literal["mean", "released"] = "mean"

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        best = [self._dominant(count) for count in counts]
        top = F.count_select(scores, on_device(best, scores), batch.padding)
        starts = []
        for total, count, most in zip(batch.totals, counts, best, strict=True):
            others, contextual = total - most, count - most
            starts.append(range(others)[:: max(1, others // max(contextual, 1))][:contextual])
        left = F.places(~top if batch.padding is None else ~top & batch.mask)
        return top | marked(left, starts)

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        total, count = image.mask.shape[1], len(indices)
        top = F.count_select(self.quality(image).unsqueeze(0), self._dominant(count))[0]
        rows = torch.zeros(count, total, device=indices.device).scatter_(1, indices.unsqueeze(1), 1.0)
        contextual = count - self._dominant(count)
        if contextual == 0:
            return rows
        starts = F.places(~top.index_select(0, indices), contextual)  # among the kept
        joining = F.places((~top).scatter(0, indices, False), total - count)
        similar = cosines(signal(self, image, "keys")[0]).index_select(0, joining)
        nearest = similar.index_select(1, indices.index_select(0, starts)).argmax(dim=1)
        joined = torch.zeros(contextual, total, device=indices.device)
        joined = joined.flatten().scatter(0, nearest * total + joining, 1.0).view(contextual, total)
        rows = rows.index_add(0, starts, joined / joined.sum(dim=1, keepdim=True).clamp(min=1.0))
        return rows / rows.sum(dim=1, keepdim=True) if self.merge == "mean" else rows

    def _dominant(self, count: int) -> int:
        """How many of ``count`` kept tokens are dominant."""
        return max(1, round(count * self.dominant))
