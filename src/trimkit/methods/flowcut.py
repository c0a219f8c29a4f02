"""FlowCut: patches leave the vision tower layer by layer, by what flows from and to its class token."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.tower_plan import TowerPlan, TowerRead
from trimkit.methods._planned import PlannedMethod

__all__ = ["FlowCut", "flow_scores", "flow_steps"]


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

    def _step(self, reads: Sequence[TowerRead]) -> list[tuple[Tensor | None, Tensor | None]]:
        return flow_steps(reads, [self.budget.tokens(read.total) for read in reads])


def flow_steps(reads: Sequence[TowerRead], targets: Sequence[int]) -> list[tuple[Tensor | None, Tensor | None]]:
    """What a layer leaves of each picture: ``[k]`` int64 patches, ascending, or None for all, and their cumulative scores.

    How many patches leave depends on the attention. So the host waits once for all pictures, at a layer where patches leave
    and that is not the last such one.

    Args:
        reads: of the layer.
        targets: T of each, tokens to be kept in the end, 1 or more.
    """
    cut = [i for i, (read, target) in enumerate(zip(reads, targets, strict=True)) if len(read.attention) > target]
    asked = [i for i in cut if _ahead(reads[i]) > 0 and _ahead(reads[i]) % 2 == 0]
    entropies = dict(
        zip(asked, torch.stack([_entropy(reads[i]) for i in asked]).tolist() if asked else [], strict=True)
    )
    found: list[tuple[Tensor | None, Tensor | None]] = [(None, None)] * len(reads)
    for i in cut:
        scores = flow_scores(reads[i].attention, reads[i].values)
        carried = reads[i].carried
        if carried is not None:
            scores = 0.5 * carried + 0.5 * scores
        found[i] = (None, scores)
        if _ahead(reads[i]) <= 0 or i in entropies:
            going = _going(scores, _kept(reads[i], targets[i], entropies.get(i)))
            found[i] = (going, scores[going])
    return found


def _ahead(read: TowerRead) -> int:
    return read.last - 2 - read.layer


def _going(scores: Tensor, count: int) -> Tensor:
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


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


def _entropy(read: TowerRead) -> Tensor:
    shares = read.attention / read.attention.sum()
    entropy: Tensor = -torch.special.xlogy(shares, shares).sum()
    return entropy


def _kept(read: TowerRead, target: int, entropy: float | None) -> int:
    """How many patches go on; ``entropy`` is None where only the target may."""
    patches = len(read.attention)
    if entropy is None:
        return target
    share = 1 - (entropy / math.log(patches)) ** 2
    return max(patches - round((patches - target) / math.sqrt(_ahead(read)) * share), target)
