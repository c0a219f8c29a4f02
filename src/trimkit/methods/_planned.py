"""Methods whose work is done inside the vision tower: what has come through is what is kept."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method
from trimkit.methods._choosing import signal
from trimkit.methods._images import on_device
from trimkit.methods._kept import Kept

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
        return self._kept(scores, batch).keep

    def _kept(self, scores: Tensor, batch: TokenBatch) -> Kept:
        """What is alive, and no more than the budget. The device is asked for its number where the family does not say it."""
        alive = batch.alive_counts
        if alive is None:
            alive = tuple((scores * batch.mask).sum(dim=1).long().tolist())
        pairs = zip(batch.totals, alive, strict=True)
        counts = [min(self.fixed_tokens(total), there) for total, there in pairs]
        return Kept(F.count_select(scores, on_device(counts, scores), batch.padding), counts)
