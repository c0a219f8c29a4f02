"""Uniform sampling: patches at equal distances over the picture. A baseline that many methods fail to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.transfer import upload
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, trim_counts
from trimkit.methods._grid import centres

__all__ = ["Uniform"]


class Uniform(ChoosingMethod):
    """Cuts the token grid into as many equal cells as tokens may stay, and keeps the patch in the middle of each.

    Where the tokens are not one grid (videos, tiles), they are sampled at equal steps in their order. With ``budget="iqr"`` it
    keeps as many patches as TRIM would on that image and question, as ``random`` does: only then it reads the text. All scores
    are equal. VTC-Bench and UniPruneBench report how strong such baselines are.
    """

    name: ClassVar[str] = "uniform"
    summary: ClassVar[str] = "patches at equal distances over the picture (baseline)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.07143"

    budget: BudgetField = Budget("ratio", 0.25)

    @property
    def needs_relevance(self) -> bool:
        return self.budget.kind == "iqr"

    def qualities(self, batch: TokenBatch) -> Tensor:
        return torch.ones(batch.mask.shape, device=batch.mask.device)

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        return trim_counts(self, batch) if self.budget.kind == "iqr" else super().counts(scores, batch)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        return self._patch_counts(totals) if self.budget.kind in ("ratio", "count") else None

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        keep = np.zeros(scores.shape, dtype=bool)
        for row, (total, grid, count) in enumerate(zip(batch.totals, batch.grids, counts, strict=True)):
            keep[row, centres(total, grid, count).numpy()] = True
        return upload(keep, scores.device)
