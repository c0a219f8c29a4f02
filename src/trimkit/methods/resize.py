"""Resize: the picture itself is made smaller before the vision tower. The baseline of VTC-Bench."""

from __future__ import annotations

import math
from typing import ClassVar

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.tower_plan import TowerPlan
from trimkit.methods._planned import PlannedMethod

__all__ = ["Resize", "grid_within"]


class Resize(PlannedMethod):
    """Resizes the picture so that the tower gives about as many tokens as the budget has.

    1. The largest grid of patches, square or with one row less than columns, that is not above the budget: 64 tokens are 8 x 8,
       32 are 5 x 6.
    2. The pixels are resized to it (bicubic, with antialiasing), and the tower's position embeddings interpolated, as the stock
       model's own ``interpolate_pos_encoding`` does it. The tower then runs on so many patches, and is faster as well.

    It is no method for picking tokens and reads nothing: what a method has to beat at the same number of tokens. The tower of
    LLaVA-1.5 was trained at one size; families that take pictures of any size are refused, since their processor does the same
    with a smaller picture. In reports, a token stands in the middle of the cell that it sees.
    """

    name: ClassVar[str] = "resize"
    summary: ClassVar[str] = "the picture made smaller before the vision tower (baseline)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2510.07143"

    budget: BudgetField = Budget("count", 64)

    @property
    def tower_plan(self) -> TowerPlan:
        return TowerPlan(f"resize {self.budget}", grid=self._grid)

    def fixed_tokens(self, total: int) -> int:
        tokens = self.budget.tokens(total)
        return total if tokens == total else math.prod(grid_within(tokens))

    def _grid(self, rows: int, columns: int) -> tuple[int, int]:
        tokens = self.budget.tokens(rows * columns)
        return (rows, columns) if tokens == rows * columns else grid_within(tokens)


def grid_within(tokens: int) -> tuple[int, int]:
    """Rows and columns of the largest grid of at most ``tokens`` (1 or more), square or with one row less than columns."""
    side = math.isqrt(tokens)
    return (side, side + 1) if side * (side + 1) <= tokens else (side, side)
