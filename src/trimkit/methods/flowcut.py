"""FlowCut: patches leave the vision tower layer by layer, by what flows from and to its class token."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.tower_plan import TowerPlan, TowerRead
from trimkit.methods._planned import PlannedMethod

__all__ = ["FlowCut", "flow_scores", "flow_step"]


class FlowCut(PlannedMethod):
    """Drops patches behind every other layer of the tower, until at the last but one layer that is used the budget is left.

    1. A patch's score in a layer: class attention (mean over heads, a share of the patches' sum), plus the share that it has in
       a softmax of the class token's value times the patches' values; times the L1 norm of its value (mean over heads).
    2. Scores add up: half of what there was, half of the new one.
    3. With n patches left, r used layers before the last but one, and T to be kept: behind a layer with even r, drop
       ``round((n - T) / sqrt(r) * (1 - e ** 2))`` patches of the lowest scores, e the entropy of the class attention divided by
       ``log n``; at r = 0 (or where a single layer is used) all but T.

    The tower is really shortened, and faster for it. In a batch the released code drops from every image as many as the largest
    number; here each is on its own, so that a batch gives what its images give. Only for CLIP towers of one picture size.
    """

    name: ClassVar[str] = "flowcut"
    summary: ClassVar[str] = "FlowCut: patches leave the vision tower layer by layer, by what flows to its class token"
    paper: ClassVar[str] = "https://github.com/TungChintao/FlowCut"

    budget: BudgetField = Budget("count", 64)

    @property
    def tower_plan(self) -> TowerPlan:
        return TowerPlan(f"flowcut {self.budget}", step=self._step)

    def _step(self, read: TowerRead) -> tuple[Tensor | None, Tensor | None]:
        return flow_step(read, self.budget.tokens(read.total))


def flow_step(read: TowerRead, target: int) -> tuple[Tensor | None, Tensor | None]:
    """What a layer leaves: ``[k]`` int64 patches, ascending, or None for all; and their cumulative scores ``[k]``.

    Args:
        read: of the layer.
        target: T, tokens to be kept in the end, 1 or more.
    """
    patches = len(read.attention)
    if patches <= target:
        return None, None
    scores = flow_scores(read.attention, read.values)
    if read.carried is not None:
        scores = 0.5 * read.carried + 0.5 * scores
    ahead = read.last - 2 - read.layer
    if ahead % 2 != 0 and ahead > 0:
        return None, scores
    kept = max(patches - _dropped(read.attention, target, ahead), target)
    going = scores.sort(descending=True, stable=True).indices[:kept].sort().values
    return going, scores[going]


def flow_scores(attention: Tensor, values: Tensor) -> Tensor:
    """``[n]`` scores of one layer.

    Args:
        attention: ``[n]`` class attention, mean over heads.
        values: ``[1 + n, heads, head_dim]``, those of the class token first.
    """
    values = values.float()
    flow = torch.einsum("hd,thd->ht", values[0], values).softmax(dim=1).mean(dim=0)[1:]
    norms = values.mean(dim=1)[1:].abs().sum(dim=1)
    return (attention / attention.sum() + flow / flow.sum()) * norms


def _dropped(attention: Tensor, target: int, ahead: int) -> int:
    """How many patches leave."""
    patches = len(attention)
    if ahead <= 0:
        return patches - target
    shares = attention / attention.sum()
    entropy = -float(torch.special.xlogy(shares, shares).sum()) / math.log(patches)
    return round((patches - target) / math.sqrt(ahead) * (1 - entropy**2))
