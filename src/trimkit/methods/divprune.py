"""DivPrune: the patches that are farthest from each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import gram, most_different
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, Compared, compared, cosines, units
from trimkit.methods._published import RERUNS, PublishedAccuracy

__all__ = ["DivPrune"]


class DivPrune(ChoosingMethod):
    """Chooses greedily so that the smallest cosine distance among kept tokens is as large as can be (max-min diversity).

    First comes the token that is farthest from its nearest other one, then always the one that is farthest from all that are
    kept. No text, no attention. As in the published code (github.com/vbdi/divprune), tokens are compared behind the
    projector, a fraction r keeps ``round(r N)`` of them, and where only copies of kept tokens are left, one token is given
    again and again. The default budget is that code's.

    Where the budget decides per image, a patch's score is its cosine distance from the mean one.

    Options:
        compare: ``projected``; or ``features``, as the family gives them (in LLaVA-1.5 before the projector, which then runs
            on kept tokens alone).
        repeats: whether a token may be given again where only copies are left; else copies are kept. Where images share a
            budget, each token is kept once.
    """

    name: ClassVar[str] = "divprune"
    summary: ClassVar[str] = "DivPrune: the most different patches (max-min cosine distance)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2503.02175"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (PublishedAccuracy({128: 96.7, 64: 93.7}, RERUNS),)
    signals: ClassVar[frozenset[str]] = frozenset({"projected"})

    budget: BudgetField = Budget("ratio", 0.098)
    compare: Compared = "projected"
    repeats: bool = True

    @property
    def asked_signals(self) -> frozenset[str]:
        return self.signals if self.compare == "projected" and not self.keeps_all else frozenset()

    def fixed_tokens(self, total: int) -> int:
        if self.budget.kind == "ratio":
            return min(max(round(self.budget.value * total), 1), total)
        return super().fixed_tokens(total)

    def qualities(self, batch: TokenBatch) -> Tensor:
        features = units(compared(self, batch))
        mean = torch.nn.functional.normalize(features.mean(dim=1, keepdim=True), dim=2)
        return (1.0 - gram(features, mean).squeeze(2)).clamp(min=0.0)

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        broken = ~compared(self, batch).isfinite().all(dim=2)
        return most_different(self._distances(batch), counts, batch.totals, broken)

    def _distances(self, batch: TokenBatch) -> Tensor:
        """``[B, N, N]`` cosine distances: -1 to what is not finite, which is far from everything and not to be wanted.

        On the diagonal a token's distance to itself, 0 but for rounding, or -inf where it is never given again.
        """
        vectors = compared(self, batch)
        distances = 1.0 - cosines(vectors)
        own = distances.diagonal(dim1=1, dim2=2).clone()
        distances = distances.masked_fill(~vectors.isfinite().all(dim=2).unsqueeze(1), -1.0)
        direction = own.abs() < 0.5 if self.repeats else torch.zeros_like(own, dtype=torch.bool)
        return distances.diagonal_scatter(own.masked_fill(~direction, -torch.inf), dim1=1, dim2=2)
