"""DivPrune: the patches that are farthest from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import gram, kept, most_different
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, units

__all__ = ["DivPrune"]


class DivPrune(ChoosingMethod):
    """Chooses greedily so that the smallest cosine distance among kept patches is as large as can be (max-min diversity).

    First comes the patch that is farthest from its nearest other one, then always the one that is farthest from all that are
    kept. No text, no attention. The released code compares tokens after the projector; here they are compared as the family
    gives them, in LLaVA-1.5 before it. The default budget is the released code's.

    Where the budget decides per image, a patch's score is its cosine distance from the mean patch.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "DivPrune: the most different patches (max-min cosine distance)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"

    budget: BudgetField = Budget("ratio", 0.098)

    def qualities(self, batch: TokenBatch) -> Tensor:
        features = units(batch.features)
        mean = torch.nn.functional.normalize(features.mean(dim=1, keepdim=True), dim=2)
        return (1.0 - gram(features, mean).squeeze(2)).clamp(min=0.0)

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        broken = ~batch.features.isfinite().all(dim=2)
        return kept(most_different(1.0 - cosines(batch.features), counts, batch.totals, broken), scores.shape[1])
