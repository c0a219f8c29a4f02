"""VisionZip: the class token, dominant patches by class attention, and contextual tokens merged from the rest by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, marked, signal
from trimkit.methods._images import on_device
from trimkit.methods._published import RERUNS, PublishedAccuracy

__all__ = ["VisionZip"]


class VisionZip(ChoosingMethod):
    """Keeps the patches of the highest class attention as they are, and merges all others into a few contextual tokens.

    1. Of T tokens, ``dominant`` x T are dominant: the class token's own state, and the patches of the highest class attention.
    2. The others, in raster order, are cut into equal steps; the first patch of each step starts a contextual token.
    3. Each patch that is left joins the start whose attention key is nearest (cosine of keys averaged over heads). A
       contextual token is its start plus the mean of those that joined.
    4. The language model gets the class token, the dominant patches in raster order, the contextual tokens in that of starts.

    All of this, the layer (the one that gives the features) and the default budget, 54 + 10 = 64 tokens, are the published
    code's (github.com/dvlab-research/VisionZip). There a token that nothing joined is its start alone, too.

    Options:
        dominant: the share of tokens that are dominant, rounded, at least one.
        merge: ``released`` adds start and mean, which gives a token about twice as long; ``mean`` halves the sum.
        keys: ``mean`` compares keys averaged over heads, ``heads`` keys with heads side by side.
        class_token: whether the class token is kept; without it, its place is a patch's.
    """

    name: ClassVar[str] = "visionzip"
    summary: ClassVar[str] = "VisionZip: patches of high class attention, the rest merged into contextual tokens by key"
    paper: ClassVar[str] = "https://arxiv.org/abs/2412.04467"
    published: ClassVar[tuple[PublishedAccuracy, ...]] = (PublishedAccuracy({192: 97.7, 128: 96.8, 64: 93.0}, RERUNS),)
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys_mean", "cls_state"})

    budget: BudgetField = Budget("count", 64)
    dominant: float = Field(default=54 / 64, gt=0.0, le=1.0)
    merge: Literal["released", "mean"] = "released"
    keys: Literal["mean", "heads"] = "mean"
    class_token: bool = True

    @property
    def keeps_class_token(self) -> bool:
        return self.class_token

    @property
    def asked_signals(self) -> frozenset[str]:
        own = {"cls_attention", self._keys} | ({"cls_state"} if self.class_token else set())
        return frozenset() if self.keeps_all else frozenset(own)

    @property
    def _keys(self) -> str:
        return "keys_mean" if self.keys == "mean" else "keys"

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        best = [self._dominant_count(count) for count in counts]
        top = F.count_select(scores, on_device(best, scores), batch.padding)
        starts = []
        for total, count, most in zip(batch.totals, counts, best, strict=True):
            others, contextual = total - most, count - most
            starts.append(range(others)[:: max(1, others // max(contextual, 1))][:contextual])
        left = F.places(~top if batch.padding is None else ~top & batch.mask)
        return top | marked(left, starts)

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        indices = selection.indices
        most = self._dominant_count(len(indices))
        top = F.count_select(self.quality(image).unsqueeze(0), most)[0]
        # In raster order among the dominant ones, and among the starts, which come behind.
        order = torch.sort((~top.index_select(0, indices)).to(torch.int8), stable=True).indices
        return replace(selection, mixing=self._rows(image, indices, top, order[most:]), order=order)

    def _rows(self, image: TokenBatch, indices: Tensor, top: Tensor, starts: Tensor) -> Tensor:
        """``[k, N]``, see ``Selection.mixing``; ``starts`` are places among the kept."""
        total, count, contextual = len(top), len(indices), len(starts)
        rows = torch.zeros(count, total, device=indices.device).scatter_(1, indices.unsqueeze(1), 1.0)
        if contextual == 0:
            return rows
        joining = F.places((~top).scatter(0, indices, False), total - count)
        similar = cosines(signal(self, image, self._keys)[0]).index_select(0, joining)
        nearest = similar.index_select(1, indices.index_select(0, starts)).argmax(dim=1)
        joined = torch.zeros(contextual * total, device=indices.device)
        joined = joined.scatter(0, nearest * total + joining, 1.0).view(contextual, total)
        rows = rows.index_add(0, starts, joined / joined.sum(dim=1, keepdim=True).clamp(min=1.0))
        return rows / rows.sum(dim=1, keepdim=True) if self.merge == "mean" else rows

    def _dominant_count(self, count: int) -> int:
        """Of ``count`` patches; the class token is one of the dominant tokens."""
        own = int(self.class_token)
        return min(max(round((count + own) * self.dominant), 1) - own, count)
