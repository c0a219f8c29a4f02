"""VisionZip: dominant patches by class attention, and contextual tokens merged from the rest by key similarity."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, signal

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

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "cls_attention"))[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        top = self._dominant(scores, count)
        others = (~top).nonzero().squeeze(1)
        contextual = count - int(top.sum())
        starts = others[:: max(1, len(others) // max(contextual, 1))][:contextual]
        return torch.cat([top.nonzero().squeeze(1), starts])

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        top = self._dominant(self.quality(image), len(indices))
        rows = torch.zeros(len(indices), len(top), device=indices.device)
        places = torch.arange(len(indices), device=indices.device)
        rows[places, indices] = 1.0
        starts = places[~top[indices]]
        if len(starts) == 0:
            return rows
        joining = ~top
        joining[indices] = False
        similar = cosines(signal(self, image, "keys")[0])[joining][:, indices[starts]]
        joined = torch.zeros(len(starts), len(top), device=indices.device)
        joined[similar.argmax(dim=1), joining.nonzero().squeeze(1)] = 1.0
        rows[starts] += joined / joined.sum(dim=1, keepdim=True).clamp(min=1.0)
        return rows / rows.sum(dim=1, keepdim=True) if self.merge == "mean" else rows

    def _dominant(self, scores: Tensor, count: int) -> Tensor:
        """``[N]`` bool."""
        return F.count_select(scores.unsqueeze(0), max(1, round(count * self.dominant)))[0]
