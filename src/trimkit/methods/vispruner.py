"""VisPruner: patches of high class attention, and of the rest those that repeat each other least."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, signal, wide_dtype

__all__ = ["VisPruner", "least_repeated"]

_AT_ONCE = 8  # the released code's: so many are dropped between two comparisons


class VisPruner(ChoosingMethod):
    """Keeps a share of the tokens by class attention, and thins out the rest until the others are left.

    1. Important: the ``int(T * important)`` patches of the highest class attention.
    2. The rest, by falling attention, is split into every other patch and those between. The eight of the first half whose
       nearest neighbor (cosine) in the second half is closest are dropped; what is left of the first half by falling
       closeness, and then the second half, is the next list. Repeat until T - important are left.

    The released code fails where the rest is odd in number; here the first half then has one more. The layer is the one that
    gives the features.

    Options:
        important: share of the kept tokens that is taken by attention alone.
    """

    name: ClassVar[str] = "vispruner"
    summary: ClassVar[str] = "VisPruner: patches of high class attention, and the least repeated of the rest"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.01818"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention"})

    budget: BudgetField = Budget("count", 64)
    important: float = Field(default=0.5, ge=0.0, le=1.0)

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "cls_attention"))[0]

    @property
    def gives_the_count(self) -> bool:
        return True

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        order = scores.sort(descending=True, stable=True).indices
        important = int(count * self.important)
        if important == count:
            return order[:count]
        return torch.cat([order[:important], least_repeated(image.features[0], order[important:], count - important)])


def least_repeated(features: Tensor, order: Tensor, count: int) -> Tensor:
    """Thin a list out until ``count`` are left.

    Args:
        features: ``[N, D]``.
        order: ``[n]`` int64, the list.
        count: 1 to n.

    Returns:
        ``[count]`` int64, the list as it stands in the end.
    """
    unit = torch.nn.functional.normalize(features.to(wide_dtype(features.device)), dim=-1).nan_to_num(0.0)
    while len(order) > count:
        first, second = order[::2], order[1::2]
        nearest = (unit[first] @ unit[second].T).amax(dim=1)
        by_closeness = nearest.sort(descending=True, stable=True).indices
        dropped = min(_AT_ONCE, len(order) - count)
        order = torch.cat([first[by_closeness[dropped:]], second])
    return order
