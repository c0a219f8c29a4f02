"""LLaVA-PruMerge: patches with outlying class attention, each merged with the patches most like it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import TokenBatch
from trimkit.methods._base import on_device
from trimkit.methods._choosing import ChoosingMethod, cosines, evenly, marked, signal

__all__ = ["PruMerge", "PruMergePlus"]


class PruMerge(ChoosingMethod):
    """Keeps the outliers of the class token's attention (IQR rule), and adds to each the patches that resemble it.

    A kept patch i becomes ``x_i + sum_j a_j x_j`` over its ``neighbors`` nearest patches j, kept ones included, by the cosine
    of their attention keys; a is the class attention. One more token stands for all that was dropped, weighted by a. Both are
    so in the released code; here sums are divided by their weights, so that a token stays as long as a patch, unless
    ``merge="released"``, which leaves kept tokens undivided. The default budget is the paper's adaptive one.

    Attention and keys are those of the layer that gives the features, mean over heads; the released code reads the layer after
    it, in one head as wide as the model.

    Options:
        neighbors: patches merged into each kept one; the released code has 32.
        merge: ``mean`` divides by the weights, ``released`` does not.
    """

    name: ClassVar[str] = "prumerge"
    summary: ClassVar[str] = "PruMerge: outliers of class attention, merged with their nearest patches by key"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.15388"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention", "keys"})

    aggregate: Literal["mean", "weighted", "none"] = "weighted"
    neighbors: int = Field(default=32, ge=0)
    merge: Literal["mean", "released"] = "mean"

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return F.count_select(scores, on_device(counts, scores), batch.padding)

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        attention = self.quality(image)
        similar = cosines(signal(self, image, "keys")[0])[indices]
        similar.scatter_(1, indices.unsqueeze(1), -torch.inf)
        order = torch.sort(similar, dim=1, descending=True, stable=True).indices
        nearest = order[:, : min(self.neighbors, similar.shape[1] - 1)]
        rows = torch.zeros_like(similar).scatter(1, nearest, attention[nearest].to(similar))
        rows.scatter_(1, indices.unsqueeze(1), 1.0)
        return rows / rows.sum(dim=1, keepdim=True) if self.merge == "mean" else rows


class PruMergePlus(PruMerge):
    """PruMerge+: the outliers, and patches at equal steps over the rest of the picture, all merged as in PruMerge.

    The paper's adaptive budget (``iqr``) keeps three spatial samples for each outlier, up to four times PruMerge's tokens; a
    fixed budget is shared out likewise.

    Options:
        outliers: the share of kept patches that class attention chooses, rounded, at least one.
    """

    name: ClassVar[str] = "prumerge-plus"
    summary: ClassVar[str] = "PruMerge+: the outliers and three spatial samples for each, merged"

    outliers: float = Field(default=0.25, gt=0.0, le=1.0)

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        found = super().counts(scores, batch)
        if self.budget.kind != "iqr":
            return found
        totals = batch.mask.sum(dim=1)
        samples = (found / self.outliers).round().long()
        return torch.minimum(F.limit_counts(samples, max_tokens=self.max_tokens), totals)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        return self._patch_counts(totals) if self.budget.kind in ("ratio", "count") else None

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        best = [max(1, round(count * self.outliers)) for count in counts]
        keep = super().choices(batch, scores, best)
        samples = zip(batch.totals, counts, best, strict=True)
        places = [evenly(total - top, count - top) for total, count, top in samples]
        left = F.places(~keep if batch.padding is None else ~keep & batch.mask)
        return keep | marked(left, places)
