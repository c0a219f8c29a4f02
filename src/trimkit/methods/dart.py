"""DART's idea after the vision tower: a few pivot patches, and the patches that repeat them least."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines

__all__ = ["DartTower"]


class DartTower(ChoosingMethod):
    """Keeps pivots, the tokens of the largest L1 norm, and for each pivot in turn the tokens least similar to it (cosine).

    The published method, ``dart``, does this inside the language model, with pivots of the text, too. This is a form of it
    *after the vision tower*, where nothing goes through the first layers: norms and similarities are of the features, and
    there are no text pivots. No paper has measured it. The default budget is that of ``dart``.

    Options:
        pivots: how many (at most a half of what is kept, at least one).
    """

    name: ClassVar[str] = "dart-tower"
    summary: ClassVar[str] = "DART's idea after the tower: pivots of large norm and the patches that repeat them least"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"

    budget: BudgetField = Budget("count", 64)
    pivots: int = Field(default=8, ge=1)

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(image.features.float().abs().sum(dim=-1))[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        pivots = min(self.pivots, max(1, count // 2))
        kept = F.count_select(scores.unsqueeze(0), pivots)[0]
        leads = kept.nonzero().squeeze(1).tolist()
        broken = ~image.features[0].isfinite().all(dim=1)
        similar = cosines(image.features[0]).masked_fill(broken, 2.0)  # more than any: what is broken comes last
        for turn, lead in enumerate(leads):
            share = (turn + 1) * (count - pivots) // pivots - turn * (count - pivots) // pivots
            kept = kept | F.count_select((-similar[lead]).masked_fill(kept, -torch.inf).unsqueeze(0), share)[0]
        return kept.nonzero().squeeze(1)
