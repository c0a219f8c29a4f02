"""FastV: inside the language model, after its first layers, keep what the last prompt token attends to."""

from __future__ import annotations

from typing import ClassVar, Literal

from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method

__all__ = ["FastV"]

_PAPER_LAYER = 2


class FastV(Method):
    """Image tokens go through the first ``layer`` layers; those with the least attention go no further.

    A token's score is what the last token of the prompt attends to it, mean over heads, in the last layer that sees all. What
    is dropped is really gone: hidden states and key-value cache of the later layers are shorter. Kept tokens keep their
    positions. The question is read by the language model itself, not through ``relevance``. As in the authors' code
    (``fastv_forward.py`` of github.com/pkunlp-icler/FastV), the layer at index ``layer`` is the first to see fewer tokens, and
    ``layer - 1`` ranks.

    Options:
        layer: how many layers see all tokens; ``auto`` is the paper's 2, or all but the last where the model has no more.
        budget: the paper's default keeps one half.
        aggregate: a mean is that of hidden states, and stands where the middle one of the dropped tokens stood.
    """

    name: ClassVar[str] = "fastv"
    summary: ClassVar[str] = "inside the language model: what the last prompt token attends to after layer 2"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.06764"
    stage: ClassVar[Literal["tower", "llm"]] = "llm"

    budget: BudgetField = Budget("ratio", 0.5)
    layer: Literal["auto"] | int = "auto"

    def model_post_init(self, context: object) -> None:
        """Refuse a layer that cannot be."""
        if self.layer != "auto" and (isinstance(self.layer, bool) or self.layer < 1):
            raise ConfigError(
                f"layer {self.layer!r} is not possible: one layer at least sees all tokens, give 1 or more"
            )

    def first_short_layer(self, layers: int) -> int:
        if self.layer == "auto":
            return max(1, min(_PAPER_LAYER, layers - 1))
        return self.layer

    def scores(self, batch: TokenBatch) -> Tensor:
        if batch.attention is None:
            raise ConfigError(
                f"method {self.name!r} ranks by the language model's attention: call the model within trimkit.reduce"
            )
        return F.sanitize(batch.attention, batch.mask)
