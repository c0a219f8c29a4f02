"""No reduction: every image token stays. The arm that all others are compared with."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._base import Method

__all__ = ["KeepAll"]


class KeepAll(Method):
    """Keeps every token, whatever the budget, through the same path as any other method: the stock model's logits."""

    name: ClassVar[str] = "none"
    summary: ClassVar[str] = "keep every image token (the full model)"

    budget: BudgetField = Budget("ratio", 1.0)

    @property
    def keeps_all(self) -> bool:
        return True

    def scores(self, batch: TokenBatch) -> Tensor:
        return batch.mask.float()
