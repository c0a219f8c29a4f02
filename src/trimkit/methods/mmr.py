"""MMR: maximal marginal relevance, important patches that are not like one already chosen."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import marginal_relevance
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, cosines, signal

__all__ = ["MMR"]


class MMR(ChoosingMethod):
    """Chooses the most important token, then always the one of the best trade between importance and novelty.

    1. Importance, scaled to 0 to 1 within the picture: relevance to the question, or class attention.
    2. First the largest importance; then, one after the other, the largest ``balance * importance - (1 - balance) * largest
       cosine to a chosen token``. Cosines are of tokens behind the projector.

    The rule is IDPruner's, as in AngelSlim; its importance is its own, and ours is one of these two. Where all are equally
    important, novelty alone decides.

    Options:
        importance: ``relevance`` (reads the question) or ``cls_attention``.
        balance: the weight of importance; 1 leaves novelty out.
    """

    name: ClassVar[str] = "mmr"
    summary: ClassVar[str] = (
        "maximal marginal relevance (IDPruner's rule): important tokens unlike those already chosen"
    )
    paper: ClassVar[str] = "https://github.com/Tencent/AngelSlim"
    uses_text: ClassVar[bool] = True
    signals: ClassVar[frozenset[str]] = frozenset({"projected"})

    budget: BudgetField = Budget("count", 64)
    importance: Literal["relevance", "cls_attention"] = "relevance"
    balance: float = Field(default=0.5, ge=0.0, le=1.0)

    @property
    def needs_relevance(self) -> bool:
        return self.importance == "relevance" and super().needs_relevance

    @property
    def needs_question(self) -> bool:
        return self.needs_relevance

    @property
    def asked_signals(self) -> frozenset[str]:
        more = {"cls_attention"} if self.importance == "cls_attention" else set()
        return frozenset() if self.keeps_all else self.signals | more

    def quality(self, image: TokenBatch) -> Tensor:
        if self.importance == "cls_attention":
            values = F.sanitize(signal(self, image, "cls_attention"))[0]
        elif image.relevance is None:
            raise ConfigError(
                f"method {self.name!r} needs text relevance: attach a scorer, or give importance='cls_attention'"
            )
        else:
            values = F.sanitize(image.relevance * image.profile.sign)[0]
        if len(values) == 0:
            return values
        low, high = values.amin(), values.amax()
        return torch.where(high == low, 1.0, (values - low) / (high - low))

    @property
    def gives_the_count(self) -> bool:
        return True

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        similar = cosines(signal(self, image, "projected"))
        return marginal_relevance(scores[None], similar, count, self.balance)[0]
