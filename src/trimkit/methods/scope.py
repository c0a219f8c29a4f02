"""SCOPE: patches that are salient and cover what the others show."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import cover, kept
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, signal
from trimkit.methods._published import RERUNS, PublishedAccuracy

__all__ = ["Scope"]


class Scope(ChoosingMethod):
    """Chooses greedily the patch of the largest class attention x gain in coverage.

    Coverage is the sum over all patches of their largest cosine similarity to a kept one (none below 0); a patch's gain is what
    it would add. The class attention is that of the layer that gives the features, as in the released code. The default
    budget is one of the paper's.

    Where the budget decides per image, a patch's score is its gain when nothing is kept yet.

    Options:
        alpha: power of the class attention; 0 leaves coverage alone.
    """

    name: ClassVar[str] = "scope"
    summary: ClassVar[str] = "SCOPE: patches with high class attention that cover the others"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.24214"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (PublishedAccuracy({192: 98.3, 128: 97.8, 64: 96.0}, RERUNS),)
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention"})

    budget: BudgetField = Budget("count", 64)
    alpha: float = Field(default=1.0, ge=0.0)

    def qualities(self, batch: TokenBatch) -> Tensor:
        return self._saliency(batch) * cosines(batch.features).clamp(min=0.0).sum(dim=1)

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return kept(cover(self._saliency(batch), cosines(batch.features), counts, batch.totals), scores.shape[1])

    def _saliency(self, batch: TokenBatch) -> Tensor:
        attention: Tensor = F.sanitize(signal(self, batch, "cls_attention"), batch.padding).clamp(min=0.0)
        return attention**self.alpha
