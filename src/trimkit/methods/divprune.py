"""DivPrune: the patches that are farthest from each other."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines

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

    def quality(self, image: TokenBatch) -> Tensor:
        features = torch.nn.functional.normalize(image.features[0].float(), dim=-1).nan_to_num(0.0)
        mean = torch.nn.functional.normalize(features.mean(dim=0), dim=0)
        return (1.0 - features @ mean).clamp(min=0.0)

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        distances = 1.0 - cosines(image.features[0])
        # Far from everything, and nothing that one would want to keep.
        broken = ~image.features[0].isfinite().all(dim=1)
        nearest = (
            distances.masked_fill(broken, torch.inf).fill_diagonal_(torch.inf).amin(dim=1).masked_fill(broken, -1.0)
        )
        picked = torch.empty(count, dtype=torch.int64, device=scores.device)
        for turn in range(count):
            picked[turn] = nearest.argmax()
            seen = distances[picked[turn]].masked_fill(broken, -1.0)
            nearest = seen.clone() if turn == 0 else torch.minimum(nearest, seen)
            nearest[picked[: turn + 1]] = -torch.inf
        return picked
