"""DART: a few pivot tokens, and the tokens that repeat them least."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import gram
from trimkit.core.types import TokenBatch
from trimkit.methods._base import on_device
from trimkit.methods._choosing import ChoosingMethod, units

__all__ = ["Dart"]


class Dart(ChoosingMethod):
    """Keeps pivots, the tokens of the largest L1 norm, and for each pivot in turn the tokens least similar to it (cosine).

    The paper does this inside the language model, at the second layer, with pivots by the norm of its keys, four of the
    picture and four of the text. This is its form *after the vision tower*: norms and similarities are of the features, and
    there are no text pivots. What the text adds is therefore missing, and so is the cost of the first layers. The default
    budget is the paper's 88.9 % pruned of 576.

    Options:
        pivots: how many (at most a half of what is kept, at least one).
    """

    name: ClassVar[str] = "dart"
    summary: ClassVar[str] = "DART, after the tower: pivots of large norm and the patches that repeat them least"
    paper: ClassVar[str] = "https://arxiv.org/abs/2502.11494"

    budget: BudgetField = Budget("count", 64)
    pivots: int = Field(default=8, ge=1)

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(batch.features.float().abs().sum(dim=-1))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        pivots = [min(self.pivots, max(1, count // 2)) for count in counts]
        kept = F.count_select(scores, on_device(pivots, scores), batch.padding)
        leads = F.places(kept, max(pivots))
        unit = units(batch.features)
        similar = gram(unit.gather(1, leads.unsqueeze(2).expand(-1, -1, unit.shape[2])), unit)
        broken = ~batch.features.isfinite().all(dim=2)
        similar = similar.masked_fill(broken.unsqueeze(1), 2.0)  # more than any: what is broken comes last
        for turn in range(max(pivots)):
            shares = [
                (turn + 1) * (count - mine) // mine - turn * (count - mine) // mine if turn < mine else 0
                for count, mine in zip(counts, pivots, strict=True)
            ]
            unlike = (-similar[:, turn]).masked_fill(kept, -torch.inf)
            kept = kept | F.count_select(unlike, on_device(shares, scores), batch.padding)
        return kept
