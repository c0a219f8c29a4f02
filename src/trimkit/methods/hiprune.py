"""HiPrune: a few anchors of a middle layer with their neighbors, and the patches that the features' layer attends to most."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, signal

__all__ = ["HiPrune", "anchors_and_registers"]

_DEPTH = 0.375  # of the tower: layer 9 of 24


class HiPrune(ChoosingMethod):
    """Ranks patches by the attention that they *receive*: mean over heads and over all queries, the class token's included.

    1. Anchors: of T tokens, the ``round(T * alpha / 5)`` patches that receive most in the layer ``object_layer``.
    2. Buffers: the patches left, right, above and below each anchor. As in the released code the end of a row is not looked
       at (left of the first column is the last column of the row above), and what falls outside the picture becomes the
       first or the last patch.
    3. Registers: the rest of the T tokens, patches that receive most in the layer that gives the features.

    Where anchors and buffers are more than T, the released code fails; here there are fewer anchors. Where the budget decides
    per image, a patch's score is what it receives in the features' layer. Images without a token grid have buffers left and
    right alone.

    Options:
        alpha: the share of the tokens that is anchors and buffers.
        object_layer: layer of the vision tower, counted from 1, that the anchors are ranked in. ``auto`` is the paper's 9 of
            24, or the one at that depth of another tower.
    """

    name: ClassVar[str] = "hiprune"
    summary: ClassVar[str] = (
        "HiPrune: anchors of a middle layer with their neighbors, and registers of the features' layer"
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2508.00553"
    signals: ClassVar[frozenset[str]] = frozenset({"received", f"received@{_DEPTH}"})

    budget: BudgetField = Budget("count", 64)
    alpha: float = Field(default=0.1, ge=0.0, le=1.0)
    object_layer: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"

    @property
    def asked_signals(self) -> frozenset[str]:
        return frozenset() if self.keeps_all else frozenset({"received", self._anchored})

    @property
    def _anchored(self) -> str:
        return f"received@{_DEPTH if self.object_layer == 'auto' else self.object_layer}"

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "received"))[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        grid = image.grids[0]
        columns = 0 if grid is None or grid[0] * grid[1] != len(scores) else grid[1]
        anchored = F.sanitize(signal(self, image, self._anchored))[0]
        return anchors_and_registers(anchored, scores, count, self.alpha, columns)[2]


def anchors_and_registers(
    in_object_layer: Tensor, in_deep_layer: Tensor, count: int, alpha: float, columns: int
) -> tuple[Tensor, Tensor, Tensor]:
    """What HiPrune keeps of one image.

    Args:
        in_object_layer, in_deep_layer: ``[N]`` attention received.
        count: T, 1 to N.
        alpha: share of anchors with their buffers.
        columns: of the token grid; 0 where there is none.

    Returns:
        Anchors and registers by falling attention, and ``[count]`` all that is kept, ascending; int64.
    """
    total = len(in_object_layer)
    ranked = in_object_layer.sort(descending=True, stable=True).indices
    steps = [0, -1, 1, *((-columns, columns) if columns else ())]
    moves = torch.tensor(steps, device=ranked.device)
    for wanted in range(min(round(count * alpha / 5), count), -1, -1):
        anchors = ranked[:wanted]
        near = torch.zeros(total, dtype=torch.bool, device=ranked.device)
        near[(anchors[:, None] + moves).clamp(0, total - 1).flatten()] = True
        if int(near.sum()) <= count:
            break
    order = in_deep_layer.masked_fill(near, -torch.inf).sort(descending=True, stable=True).indices
    registers = order[: count - int(near.sum())]
    near[registers] = True
    return anchors, registers, near.nonzero().squeeze(1)
