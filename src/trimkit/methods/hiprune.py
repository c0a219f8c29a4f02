"""HiPrune: a few anchors of a middle layer with their neighbors, and the patches that the features' layer attends to most."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.transfer import upload
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

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "received"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        grids = zip(batch.grids, batch.totals, strict=True)
        columns = [grid[1] if grid is not None and grid[0] * grid[1] == total else 0 for grid, total in grids]
        anchored, padding = F.sanitize(signal(self, batch, self._anchored), batch.padding), batch.padding
        if padding is not None:
            anchored, scores = (each.masked_fill(~padding, -torch.inf) for each in (anchored, scores))
        return anchors_and_registers(anchored, scores, counts, self.alpha, columns)[2]


def anchors_and_registers(
    in_object_layer: Tensor, in_deep_layer: Tensor, counts: Sequence[int], alpha: float, columns: Sequence[int]
) -> tuple[Tensor, Tensor, Tensor]:
    """What HiPrune keeps, without a wait for the device.

    Args:
        in_object_layer, in_deep_layer: ``[B, N]`` attention received; -inf on padding.
        counts: T of each image, less than its tokens.
        alpha: share of anchors with their buffers.
        columns: of each image's token grid; 0 where there is none.

    Returns:
        ``[B, N]`` bool: anchors, registers, and all that is kept.
    """
    device, (images, total) = in_object_layer.device, in_object_layer.shape
    place = torch.arange(total, device=device)
    rank = _ranks(in_object_layer)
    steps = upload([[0, -1, 1, -each, each] for each in columns], device)
    last = (in_object_layer > -torch.inf).sum(dim=1, keepdim=True) - 1
    targets = torch.minimum((place + steps.unsqueeze(2)).flatten(1).clamp(min=0), last)
    # With w anchors a patch is near one where the best rank that reaches it is below w.
    reached = torch.full((images, total), total, device=device).scatter_reduce(
        1, targets, rank.repeat(1, 5), "amin", include_self=True
    )
    numbers = upload([[count, round(count * alpha / 5)] for count in counts], device)
    kept, wanted = torch.split(numbers, 1, dim=1)
    most = reached.sort(dim=1).values.gather(1, kept)  # with more anchors than that, more than T patches are near one
    wanted = torch.minimum(wanted, most)
    near_one, anchors = reached < wanted, rank < wanted
    keep = _ranks(in_deep_layer.masked_fill(near_one, torch.inf)) < kept
    return anchors, keep & ~near_one, keep


def _ranks(values: Tensor) -> Tensor:
    """``[B, N]`` int64: 0 of the highest; of equal ones the first is higher."""
    return values.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
