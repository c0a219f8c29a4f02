"""CLS attention (FasterVLM): the patches that the vision tower's class token attends to."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._base import Method
from trimkit.methods._choosing import signal

__all__ = ["ClsAttention"]


class ClsAttention(Method):
    """FasterVLM: ranks a patch by what the class token attends to it, mean over heads.

    The attention is that of the layer whose output the model takes as features (the last but one in LLaVA-1.5), as in the
    released code, which reads ``attentions[-2]`` beside ``hidden_states[-2]``. Kept tokens stay in raster order.
    """

    name: ClassVar[str] = "cls-attention"
    summary: ClassVar[str] = "FasterVLM: patches that the class token attends to"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.01818"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention"})

    budget: BudgetField = Budget("ratio", 0.1)

    def scores(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"), batch.mask)
