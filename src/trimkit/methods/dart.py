"""DART's idea after the vision tower: a few pivot patches, and the patches that repeat them least."""

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
from trimkit.methods._choosing import ChoosingMethod, units
from trimkit.methods._images import on_device

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
