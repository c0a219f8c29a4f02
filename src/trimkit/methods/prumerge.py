"""LLaVA-PruMerge: patches with outlying class attention, each merged with the patches most like it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.transfer import upload
from trimkit.core.types import Selection, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, cosines, evenly, signal
from trimkit.methods._images import on_device

__all__ = ["PruMerge", "PruMergePlus"]


class PruMerge(ChoosingMethod):
    """Keeps the outliers of the class token's attention (IQR rule), and adds to each the patches that resemble it.

    1. a: what the class token attends to, in the last layer of the tower (LLaVA's features are what that layer reads), by one
       head as wide as the tower.
    2. Keep the outliers, a > Q3 + 1.5 IQR.
    3. A kept patch i becomes ``x_i + sum_j a_j x_j`` over its ``neighbors`` nearest patches j, kept ones included, by the
       cosine of their attention keys in that layer.
    4. One more token is the sum of ``a_j x_j`` over all that was dropped.
    5. The language model gets the kept patches by falling a, then that token.

    All of this is the published code's (github.com/42Shawn/LLaVA-PruMerge). Its fixed ``reduction_ratio`` r is a fraction as
    budget: it keeps ``int(r N)`` patches and the last token on top; a whole number counts every token. An image without
    outliers has one patch here, and none there.

    Options:
        neighbors: patches merged into each kept one.
        merge: ``released`` sums as above; ``mean`` divides each sum by its weights, so that tokens stay as long as patches.
        attention: ``released``; or ``features``, the layer that gives the features, mean over heads, as other methods read it.
    """

    name: ClassVar[str] = "prumerge"
    summary: ClassVar[str] = "PruMerge: outliers of class attention, merged with their nearest patches by key"
    paper: ClassVar[str] = "https://arxiv.org/abs/2403.15388"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention_wide@-1", "keys@-1"})

    aggregate: Literal["mean", "weighted", "none"] = "weighted"
    neighbors: int = Field(default=32, ge=0)
    merge: Literal["released", "mean"] = "released"
    attention: Literal["released", "features"] = "released"

    @property
    def asked_signals(self) -> frozenset[str]:
        return frozenset() if self.keeps_all else frozenset(self._names)

    @property
    def _names(self) -> tuple[str, str]:
        return ("cls_attention_wide@-1", "keys@-1") if self.attention == "released" else ("cls_attention", "keys")

    def fixed_tokens(self, total: int) -> int:
        on_top = self.budget.kind == "ratio" and self.aggregate != "none"
        return min(super().fixed_tokens(total) + int(on_top), total)

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, self._names[0]))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return F.count_select(scores, on_device(counts, scores), batch.padding)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        return self._patch_counts(totals) if self.budget.kind in ("ratio", "count") else None

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        found = super().counts(scores, batch)
        if self.budget.kind != "iqr":
            return found
        totals = upload(batch.totals, scores.device)
        share = found.double() / totals.clamp(min=1)  # the published count goes through this quotient and its rounding
        floor = torch.minimum(found, totals.clamp(max=self.min_tokens))
        return torch.maximum((totals * share).long(), floor)

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        attention = self.quality(image)
        given = self.listed(attention, len(selection.indices))
        indices, place = given.sort(stable=True)
        order = place.argsort()
        rows = self._merged(image, attention, given)[place]
        if selection.aggregated and self.aggregate == "weighted" and self.merge == "released":
            rows = torch.cat([rows, self._left(attention, given)[None].to(rows)])
        return replace(selection, indices=indices, order=order, mixing=rows)

    def listed(self, attention: Tensor, count: int) -> Tensor:
        """The kept patches in the order of the language model, one as often as it is given."""
        return _highest(attention, count)

    def _left(self, attention: Tensor, given: Tensor) -> Tensor:
        """``[N]`` the attention of what was dropped, 0 elsewhere.

        Where patches are given twice, as many of the first dropped ones are lost, as the published code loses them.
        """
        dropped = torch.ones_like(attention, dtype=torch.bool).scatter(0, given, False)
        twice = len(given) - (len(attention) - dropped.sum())
        return torch.where(dropped & (dropped.cumsum(0) > twice), attention, 0.0)

    def _merged(self, image: TokenBatch, attention: Tensor, given: Tensor) -> Tensor:
        """``[k, N]`` rows of the given patches."""
        others = F.places(self._left(torch.ones_like(attention), given) > 0, len(attention) - len(given))
        listed = torch.cat([given, others])
        similar = cosines(signal(self, image, self._names[1])[0]).index_select(0, given).index_select(1, listed)
        similar.fill_diagonal_(-torch.inf)  # a patch is given before all others: its own place
        order = torch.sort(similar, dim=1, descending=True, stable=True).indices
        nearest = listed[order[:, : min(self.neighbors, len(listed) - 1)]]
        rows = torch.zeros(len(given), len(attention), dtype=similar.dtype, device=similar.device)
        rows.scatter_add_(1, nearest, attention[nearest].to(rows))
        rows.scatter_add_(1, given.unsqueeze(1), torch.ones_like(rows[:, :1]))
        return rows / rows.sum(dim=1, keepdim=True) if self.merge == "mean" else rows


class PruMergePlus(PruMerge):
    """PruMerge+: the outliers, and patches at equal steps over the picture, all merged as in PruMerge.

    With the adaptive budget (``iqr``), r being the share of outliers, every ``int(int(1 / r) / 3)``-th patch is kept that is no
    outlier; the last patch never is. The language model gets the outliers by falling attention, then the samples in raster
    order. So the published code (there the picture has 576 patches).

    For training it has a fixed r and steps of ``int(1 / r)``, beginning in the middle of the first; a sample that is an outlier
    is given twice. That is ``samples="training"``, with r a fraction as budget: about 2 r N tokens.

    It has no other fixed budget. Here one is shared out: ``outliers`` of the patches by attention, the others at equal steps
    over the rest.

    Options:
        samples: ``adaptive`` or ``training``.
        outliers: the share of kept patches that class attention chooses with a fixed budget, rounded, at least one.
    """

    name: ClassVar[str] = "prumerge-plus"
    summary: ClassVar[str] = "PruMerge+: the outliers and spatial samples around them, merged"

    samples: Literal["adaptive", "training"] = "adaptive"
    outliers: float = Field(default=0.25, gt=0.0, le=1.0)

    def model_post_init(self, context: object) -> None:
        """Refuse training samples that no fraction places."""
        if self.samples == "training" and self.budget.kind != "ratio":
            raise ConfigError(
                f"samples='training' stand at steps of a fraction, not {self.budget}: give one such as 0.125"
            )

    def fixed_tokens(self, total: int) -> int:
        if self.samples == "adaptive":
            return min(self.budget.tokens(total), total)
        patches = int(total * self.budget.value) + len(self._steps(total))
        return min(max(patches, 1) + int(self.aggregate != "none"), total)

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        if self.budget.kind != "iqr":
            return super().counts(scores, batch)
        found = (self._adaptive(scores, batch.totals) < scores.shape[1]).sum(dim=1)
        return F.limit_counts(found, max_tokens=self.max_tokens)

    @property
    def gives_the_count(self) -> bool:
        return self.samples == "adaptive"

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return self.listed(scores, count)

    def listed(self, attention: Tensor, count: int) -> Tensor:
        if self.samples == "training":
            steps = self._steps(len(attention)).to(attention.device)
            return torch.cat([_highest(attention, int(len(attention) * self.budget.value)), steps])
        if self.budget.kind == "iqr":
            return self._adaptive(attention[None], [len(attention)])[0].sort(stable=True).indices[:count]
        top = _highest(attention, max(1, round(count * self.outliers)))
        left = torch.ones_like(attention, dtype=torch.bool).scatter(0, top, False)
        places = evenly(len(attention) - len(top), count - len(top))
        return torch.cat([top, F.places(left, int(left.numel()) - len(top))[upload(places, left.device)]])

    def _adaptive(self, attention: Tensor, totals: Sequence[int]) -> Tensor:
        """``[B, N]`` int64, the place of each patch in the order of the language model; N of what is dropped."""
        place = torch.arange(attention.shape[1], device=attention.device)
        given = upload([[total, max(total, 1), min(self.min_tokens, total)] for total in totals], attention.device)
        total, some, least = torch.split(given, 1, dim=1)
        real = place < total
        # Shares and steps in float64: the published code computes them so, on the host.
        share = torch.maximum(F.iqr_count(attention, real).unsqueeze(1), least).double() / some
        top = (total * share).long().clamp(min=1)
        ranked = attention.masked_fill(~real, -torch.inf).sort(dim=1, descending=True, stable=True)
        rank = ranked.indices.argsort(dim=1)
        step = ((1.0 / share).long() // 3).clamp(min=1)
        outlier = (rank < top) & real
        sampled = (place % step == 0) & (place < total - 1) & ~outlier
        behind = top + sampled.cumsum(dim=1) - 1
        return torch.where(outlier, rank, torch.where(sampled, behind, len(place)))

    def _steps(self, total: int) -> Tensor:
        step = int(1 / self.budget.value)
        return torch.arange(int(step / 2), max(total - 1, int(step / 2)), step)


def _highest(scores: Tensor, count: int) -> Tensor:
    """``[count]`` places of the highest scores, falling; of equal ones the first."""
    return torch.sort(scores, descending=True, stable=True).indices[:count]
