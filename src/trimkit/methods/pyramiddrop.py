"""PyramidDrop: image tokens leave the language model in stages, by what the last prompt token attends to."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._stages import StagedMethod

__all__ = ["PyramidDrop"]


class PyramidDrop(StagedMethod):
    """Cuts before three layers, each time keeping what the last prompt token attends to most in the layer that comes next.

    1. Before a layer of ``layers``, that layer's own norm, queries and keys give the attention of the prompt's last token;
       a token's score is its mean over heads.
    2. The highest scores stay: behind the first cut ``int(N * r)`` of an image's N tokens, then ``int(N * r ** 2)`` and so on.

    The budget is what the last stage keeps, r its root by the number of stages: the default 0.125 gives the paper's 1/2, 1/4
    and 1/8. The layers before the first cut see all tokens, so that the mean over layers is larger. As in the released code,
    what is left is numbered anew (models with 3-D positions keep them). In training, the last token before the answer ranks;
    the released code takes the mean over all tokens before it.

    Options:
        layers: the layers, one or more, counted from 0, that are each the first to see fewer tokens. ``auto``: 8, 16 and 24, or
            those at the same depth of a language model with fewer than 32 layers.
        ratios: what each cut leaves, as a share of N, in place of the budget.
        renumber: whether what is left is numbered anew; else tokens keep their positions.
    """

    name: ClassVar[str] = "pyramiddrop"
    summary: ClassVar[str] = (
        "PyramidDrop: in three stages inside the language model, by the last prompt token's attention"
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.17247"
    asks_next: ClassVar[bool] = True
    published_layers: ClassVar[tuple[int, ...]] = (8, 16, 24)

    budget: BudgetField = Budget("ratio", 0.125)
    ratios: Literal["auto"] | tuple[float, ...] = "auto"
    renumber: bool = True

    def model_post_init(self, context: object) -> None:
        """Refuse ratios that cannot be."""
        super().model_post_init(context)
        if self.ratios == "auto":
            return
        if "budget" in self.model_fields_set:
            raise ConfigError(f"method {self.name!r} takes budget= or ratios=, not both: leave one out")
        if len(self.ratios) != self.stages:
            raise ConfigError(
                f"{len(self.ratios)} ratios for {self.stages} layers: give one for each, for example 0.5, 0.25, 0.125"
            )
        if not all(0.0 < low <= high <= 1.0 for high, low in zip((1.0, *self.ratios), self.ratios, strict=False)):
            raise ConfigError(
                f"ratios {list(self.ratios)} are not falling shares in (0, 1]: give for example 0.5, 0.25, 0.125"
            )

    @property
    def possible(self) -> range:
        return range(1, 1000)

    def left(self, stage: int, total: int, now: int) -> int:
        if self.ratios != "auto":
            wanted = int(total * self.ratios[stage])
        elif stage == self.stages - 1:
            wanted = self.budget.tokens(total)
        else:
            last = self.budget.value if self.budget.kind == "ratio" else self.budget.tokens(total) / max(total, 1)
            wanted = int(total * last ** ((stage + 1) / self.stages))
        return min(max(wanted, 1), now)

    def scores(self, batch: TokenBatch) -> Tensor:
        if batch.attention is None:
            raise self.outside()
        return F.sanitize(batch.attention, batch.mask)
