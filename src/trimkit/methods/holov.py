"""HoloV: the picture is cut into runs, and each gets tokens by the class attention that it has."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._choosing import ChoosingMethod, signal

__all__ = ["HoloV", "run_scores", "runs_in_order", "tokens_of_runs"]


class HoloV(ChoosingMethod):
    """Cuts the picture into runs of consecutive patches, gives each a share of the tokens, and keeps the best of each.

    1. Raster order is cut into ``runs`` runs of equal length (of 576 tokens one and a half rows: not squares).
    2. A run's score is the mean over its patches of ``1000 * class attention``, and of the variance of their cosines to the
       others of the run (behind the projector), scaled to 9% of the attention's mean. So the attention decides alone.
    3. Tokens go to the runs in proportion to their scores, rounded down; what is missing goes to the largest shares, one each.
    4. A run keeps its patches of highest class attention, or all.

    The order in the language model is the released code's: run by run, in each by falling attention. Where a run has fewer
    patches than its share, the released code adds rows of zeros; here the places go to the highest attention elsewhere, in
    raster order at the end, or with ``rest="empty"`` to nothing. The layer is the one that gives the features.

    Options:
        runs: how many; at most one a token.
        rest: ``fill`` or ``empty``.
    """

    name: ClassVar[str] = "holov"
    summary: ClassVar[str] = (
        "HoloV: shares of the tokens for runs of the picture, and in each the highest class attention"
    )
    paper: ClassVar[str] = "https://github.com/obananas/HoloV"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_attention", "projected"})

    budget: BudgetField = Budget("count", 64)
    runs: int = Field(default=16, ge=1)
    rest: Literal["fill", "empty"] = "fill"

    def quality(self, image: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, image, "cls_attention"))[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        runs, projected = min(self.runs, len(scores)), signal(self, image, "projected")[0].nan_to_num(0.0)
        kept = runs_in_order(scores, tokens_of_runs(run_scores(scores, projected, runs), count), count)
        if self.rest == "empty" or len(kept) == count:
            return kept
        others = scores.clone()
        others[kept] = -torch.inf
        more = others.sort(descending=True, stable=True).indices[: count - len(kept)]
        return torch.cat([kept, more.sort().values])

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        scores = self.quality(image)
        listed = self.choose(image, scores, int(self.counts(scores[None], image)[0]))  # not what was found for them
        return replace(selection, order=torch.searchsorted(selection.indices, listed))


def run_scores(attention: Tensor, projected: Tensor | None, runs: int) -> Tensor:
    """``[runs]`` the score of every run of consecutive tokens.

    Args:
        attention: ``[N]`` class attention.
        projected: ``[N, H]`` tokens after the projector, for the variance term; None leaves it out.
        runs: how many, at most N.
    """
    lengths = [len(part) for part in torch.tensor_split(attention, runs)]
    tokens = [None] * runs if projected is None else torch.split(projected.float(), lengths)
    scores = [_run_score(part, own) for part, own in zip(torch.split(attention, lengths), tokens, strict=True)]
    return torch.stack(scores)


def _run_score(attention: Tensor, tokens: Tensor | None) -> Tensor:
    count = len(attention)
    if count == 1:
        return attention.mean()
    if tokens is None:
        return 1.09 * 1000 * attention.mean()
    unit = tokens / (torch.linalg.vector_norm(tokens, dim=-1, keepdim=True) + 1e-6)
    similar = (unit @ unit.T).fill_diagonal_(0.0)
    mean = similar.sum(dim=1, keepdim=True) / (count - 1)
    variance = (similar - mean).square().sum(dim=1) / (count - 1)
    scale = (1000 * attention).abs().mean() / (variance.abs().mean() + 1e-6)
    score: Tensor = (1000 * attention + 0.09 * scale * variance).mean()
    return score


def tokens_of_runs(scores: Tensor, total: int) -> list[int]:
    """Tokens of each run: ``total`` in proportion to the scores, rounded down; what is missing goes to the largest shares."""
    shares = scores / (scores.sum() + 1e-6)
    counts = (total * shares).floor().long().tolist()
    for run in shares.sort(descending=True, stable=True).indices.tolist()[: total - sum(counts)]:
        counts[run] += 1
    return counts


def runs_in_order(attention: Tensor, counts: list[int], total: int) -> Tensor:
    """``[k]`` int64, k at most ``total``: run by run; in one that is cut by falling attention, else in raster order."""
    kept, start = [], 0
    for part, count in zip(torch.tensor_split(attention, len(counts)), counts, strict=True):
        own = torch.arange(len(part), device=attention.device)
        if count < len(part):
            own = part.sort(descending=True, stable=True).indices[:count]
        kept.append(own + start)
        start += len(part)
    return torch.cat(kept)[:total]
