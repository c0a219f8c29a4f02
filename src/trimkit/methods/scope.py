"""SCOPE: patches that are salient and cover what the others show."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
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

    def quality(self, image: TokenBatch) -> Tensor:
        return self._saliency(image) * cosines(image.features[0]).clamp(min=0.0).sum(dim=0)

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return cover(self._saliency(image), cosines(image.features[0]), count)

    def _saliency(self, image: TokenBatch) -> Tensor:
        attention: Tensor = F.sanitize(signal(self, image, "cls_attention"))[0].clamp(min=0.0)
        return attention**self.alpha


def cover(saliency: Tensor, similarity: Tensor, count: int) -> Tensor:
    """Greedy saliency x coverage gain; a step looks again only at patches that the last choice has covered better.

    Args:
        saliency: ``[N]``, not negative.
        similarity: ``[N, N]``.
        count: how many to choose, at most N.

    Returns:
        ``[count]`` int64 in the order of choice.
    """
    wide = torch.float32 if saliency.device.type == "mps" else torch.float64
    saliency, similarity = saliency.to(wide), similarity.to(wide)
    covered = torch.zeros_like(saliency)
    gains = similarity.clamp(min=0.0).sum(dim=0)
    picked = torch.empty(count, dtype=torch.int64, device=saliency.device)
    left = torch.ones_like(saliency, dtype=torch.bool)
    for turn in range(count):
        best = (gains.clamp(min=0.0) * saliency).masked_fill(~left, -1.0).argmax()
        picked[turn] = best
        left[best] = False
        better = similarity[:, best] > covered
        rows, before, after = similarity[better], covered[better].unsqueeze(1), similarity[better, best].unsqueeze(1)
        gains = gains - ((rows - before).clamp(min=0.0) - (rows - after).clamp(min=0.0)).sum(dim=0)
        covered = torch.maximum(covered, similarity[:, best])
    return picked
