"""CDPruner: patches that are relevant to the question and different from each other, by a determinantal point process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import kept, largest_volume
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, Compared, compared_rows
from trimkit.methods._published import RERUNS, PublishedAccuracy

__all__ = ["CDPruner"]

_LEAST = 1e-6  # the released code's: the least relevant patch can still be kept


class CDPruner(ChoosingMethod):
    """Maximises the determinant of ``diag(r) S diag(r)`` over the kept patches, greedily.

    S is the cosine similarity of the tokens behind the projector, r their cosine to the question, scaled to 0 to 1 within the
    picture. As in the published code (github.com/Theia-4869/CDPruner), r takes the encoder's sign (negative for CLIP), and a
    question longer than the text tower takes is cut into segments, whose cosines are averaged. There r is scaled within a
    batch, which is one picture in its evaluations. Where all relevances are equal, diversity alone decides. The default
    budget is one of the paper's.

    Options:
        compare: ``projected``; or ``features``, as the family gives them (in LLaVA-1.5 before the projector, which then runs
            on kept tokens alone).
        text: of a long question ``segments`` as above, where the scorer is a CLIP; ``chunks`` is TRIM's way, even parts with
            start and end tokens of their own.
    """

    name: ClassVar[str] = "cdpruner"
    summary: ClassVar[str] = "CDPruner: relevant and different patches (conditional determinantal point process)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (PublishedAccuracy({128: 97.4, 64: 95.4}, RERUNS),)
    uses_text: ClassVar[bool] = True
    signals: ClassVar[frozenset[str]] = frozenset({"projected"})

    budget: BudgetField = Budget("count", 64)
    compare: Compared = "projected"
    text: Literal["segments", "chunks"] = "segments"

    @property
    def asked_signals(self) -> frozenset[str]:
        return self.signals if self.compare == "projected" and not self.keeps_all else frozenset()

    @property
    def cuts_text(self) -> bool:
        return self.text == "segments"

    def normalize_relevance(self, profile: EncoderProfile) -> bool:
        return True

    def qualities(self, batch: TokenBatch) -> Tensor:
        if batch.relevance is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        signed = F.sanitize(batch.relevance * batch.profile.sign)
        if signed.shape[1] == 0:
            return signed
        low, high = signed.amin(dim=1, keepdim=True), signed.amax(dim=1, keepdim=True)
        return torch.where(high == low, 1.0, (signed - low + _LEAST) / (high - low))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return kept(largest_volume(scores, compared_rows(self, batch), counts, batch.totals), scores.shape[1])
