"""Methods whose work is done inside the vision tower: what has come through is what is kept."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method
from trimkit.methods._choosing import signal

__all__ = ["PlannedMethod"]


class PlannedMethod(Method):
    """Base of methods with a ``tower_plan``, a fixed budget for each image, and no aggregated token."""

    fixed_budget: ClassVar[bool] = True
    aggregates: ClassVar[bool] = False
    signals: ClassVar[frozenset[str]] = frozenset({"alive"})

    def model_post_init(self, context: object) -> None:
        """Refuse what these methods do not do."""
        if self.share != "image":
            raise ConfigError(f"method {self.name!r} works on each picture alone: leave share= at 'image'")

    def scores(self, batch: TokenBatch) -> Tensor:
        return signal(self, batch, "alive").float()

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        totals = batch.mask.sum(dim=1).tolist()
        alive = (scores * batch.mask).sum(dim=1).tolist()
        counts = [min(self.fixed_tokens(total), int(there)) for total, there in zip(totals, alive, strict=True)]
        return F.count_select(scores, torch.tensor(counts, device=scores.device), batch.mask)
