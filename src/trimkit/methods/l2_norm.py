"""L2 norm: the patches with the longest features. The cheapest score there is."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._base import Method

__all__ = ["L2Norm"]


class L2Norm(Method):
    """Ranks a patch by the L2 norm of its feature.

    The literature knows both directions. In large vision transformers the few patches of the highest norm hold global
    information ("registers", arXiv 2309.16588), and DART starts from the keys of the largest norm. For the keys in a language
    model's cache it is the low norms that are attended to (arXiv 2406.11430). This is a baseline, no paper's method.

    Options:
        keep_norms: ``high``, or ``low``, which scores by the inverse of the norm.
    """

    name: ClassVar[str] = "l2-norm"
    summary: ClassVar[str] = "patches with the longest features (baseline)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2309.16588"

    budget: BudgetField = Budget("ratio", 0.25)
    keep_norms: Literal["high", "low"] = "high"

    def scores(self, batch: TokenBatch) -> Tensor:
        norms = F.sanitize(torch.linalg.vector_norm(batch.features.float(), dim=-1), batch.mask)
        return norms if self.keep_norms == "high" else 1.0 / norms.clamp(min=1e-6)
