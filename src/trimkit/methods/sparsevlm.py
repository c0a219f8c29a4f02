"""SparseVLM: image tokens leave the language model in stages, by what the relevant words of the question attend to."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.layer_read import TextRows
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._raters import scheduled, text_raters
from trimkit.methods._stages import StagedMethod

__all__ = ["SparseVLM", "density_peaks"]

_RECYCLED, _CLUSTER = 0.3, 10  # the released code's share of the dropped that is recycled, and tokens to a cluster


class SparseVLM(StagedMethod):
    """Cuts behind three layers, each time keeping what the question's relevant words attend to most.

    1. Raters, once: input embeddings of the text behind the image that the image's own agree with (softmax over the text of
       their dot products, mean over the image) more than the mean text token.
    2. Behind each layer of ``layers``, a token's score is what the raters attend to at it, mean over heads, then over raters.
    3. The highest scores stay, as many as the published table says for that layer and budget, at most all but one.
    4. Of the dropped, the ``int(0.3 * dropped) + 1`` of highest score are put into ``int(that / 10) + 1`` clusters around
       density peaks. The mean of each stands behind the kept tokens, and is an image token like any other from there on.

    The budget is the paper's count, a *mean over layers*; its table is for 576 tokens and 192, 128, 96 and 64 of them, and is
    scaled and interpolated for others. As in the released code, what is left is numbered anew (models with 3-D positions keep
    theirs). The released clusters depend on unseeded noise of 1e-6 that parts equal densities; here the first goes first.

    Options:
        layers: the three layers, counted from 0, that are each the first to see fewer tokens. ``auto``: 3, 7 and 16, or those
            at the same depth of a language model with fewer than 32 layers.
        recycle: whether dropped tokens are clustered (step 4).
        renumber: whether what is left is numbered anew; else tokens keep their positions, and a cluster has its first token's.
    """

    name: ClassVar[str] = "sparsevlm"
    summary: ClassVar[str] = (
        "SparseVLM: in three stages inside the language model, by attention of the question's words"
    )
    paper: ClassVar[str] = "https://arxiv.org/abs/2410.04417"
    asks_raters: ClassVar[bool] = True
    published_layers: ClassVar[tuple[int, ...]] = (3, 7, 16)
    table: ClassVar[dict[int, tuple[int, ...]]] = {
        64: (66, 30, 17),
        96: (238, 48, 26),
        128: (303, 110, 36),
        192: (300, 200, 110),
    }

    budget: BudgetField = Budget("count", 64)
    recycle: bool = True
    renumber: bool = True

    def raters(self, image: Tensor, text: Tensor) -> Tensor:
        return text_raters(image, text)

    def left(self, stage: int, total: int, now: int) -> int:
        wanted = self.budget.tokens(total)
        if wanted >= total:
            return now
        return max(1, min(scheduled(self.table, stage, wanted, total), now - 1))

    def after(self, stage: int, total: int, now: int) -> int:
        left = self.left(stage, total, now)
        return left + (_clusters(now - left)[1] if self.recycle else 0)

    def scores(self, batch: TokenBatch) -> Tensor:
        if batch.layer is None or not batch.layer.rows:
            raise self.outside()
        rows = [self.rated(rows) for rows in batch.layer.rows]
        return F.sanitize(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True), batch.mask)

    def rated(self, rows: TextRows) -> Tensor:
        """``[n]`` the scores of one image's tokens."""
        return rows.weights.mean(dim=0).mean(dim=0)

    def select(self, batch: TokenBatch) -> list[Selection]:
        chosen = super().select(batch)
        if not self.recycle:
            return chosen
        return [self._recycled(each, features) for each, features in zip(chosen, batch.features, strict=True)]

    def _recycled(self, chosen: Selection, features: Tensor) -> Selection:
        """With clusters of what was dropped."""
        rest = torch.ones(chosen.total, dtype=torch.bool, device=chosen.indices.device)
        rest[chosen.indices] = False
        taken, clusters = _clusters(int(rest.sum()))
        if clusters == 0 or chosen.scores is None:
            return chosen
        ranked = chosen.scores.masked_fill(~rest, -torch.inf).sort(descending=True, stable=True).indices
        members = ranked[:taken].sort().values
        group = density_peaks(features[members], clusters)
        rows = torch.zeros(len(chosen.indices) + clusters, chosen.total, device=members.device)
        rows[torch.arange(len(chosen.indices), device=members.device), chosen.indices] = 1.0
        rows[len(chosen.indices) + group, members] = 1.0
        rows = rows / rows.sum(dim=1, keepdim=True)
        stands = rows.argmax(dim=1)
        return replace(chosen, indices=stands.sort().values, mixing=rows if self.renumber else rows[stands.argsort()])


def _clusters(dropped: int) -> tuple[int, int]:
    """How many of the dropped tokens are recycled, and into how many clusters."""
    if dropped == 0:
        return 0, 0
    taken = int(_RECYCLED * dropped) + 1
    return taken, int(taken / _CLUSTER) + 1


def density_peaks(features: Tensor, clusters: int) -> Tensor:
    """Clusters around density peaks with the nearest neighbors (Du, Ding, Jia 2016), every one of them with a member.

    A token's density is ``exp(-mean squared distance)`` to its nearest ``clusters`` tokens (itself among them), distances
    divided by the root of the width. It ranks by density times the distance to the nearest token that is denser; the highest
    ranks are the centers, and each token goes to the nearest.

    Args:
        features: ``[n, D]``.
        clusters: 1 to n.

    Returns:
        ``[n]`` int64, the cluster of each.
    """
    wide = features.float().nan_to_num(0.0)
    distance = torch.cdist(wide, wide, compute_mode="donot_use_mm_for_euclid_dist") / wide.shape[1] ** 0.5
    nearest = distance.topk(clusters, largest=False).values
    density = (-nearest.square().mean(dim=1)).exp()
    order = density.sort(descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device)
    denser = rank[None, :] < rank[:, None]
    gap = distance.masked_fill(~denser, torch.inf).amin(dim=1)
    gap = torch.where(gap.isinf(), distance.amax(), gap)
    centers = (gap * density).sort(descending=True, stable=True).indices[:clusters]
    group: Tensor = distance[:, centers].argmin(dim=1)
    group[centers] = torch.arange(clusters, device=group.device)
    return group
