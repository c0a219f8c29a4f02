"""HoloV: the picture is cut into runs, and each gets tokens by the class attention that it has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import gram
from trimkit.core.transfer import upload
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, signal

__all__ = ["HoloV", "listed_by_runs", "run_scores", "tokens_of_runs"]


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

    lists_in_order: ClassVar[bool] = True

    @property
    def gives_the_count(self) -> bool:
        return self.rest == "fill"

    def qualities(self, batch: TokenBatch) -> Tensor:
        return F.sanitize(signal(self, batch, "cls_attention"))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        totals, most = batch.totals, max(counts)
        projected = signal(self, batch, "projected")
        listed = torch.full((len(totals), most), scores.shape[1], device=scores.device)
        for total in dict.fromkeys(totals):  # runs of one length
            rows = [row for row, each in enumerate(totals) if each == total]
            at, asked = upload(rows, scores.device), upload([counts[row] for row in rows], scores.device)
            own, attention = (each.index_select(0, at)[:, :total] for each in (projected, scores))
            shares = tokens_of_runs(run_scores(attention, own.nan_to_num(0.0), min(self.runs, total)), asked)
            found = listed_by_runs(attention, shares, asked, fill=self.rest == "fill")
            found = found.masked_fill(found == total, scores.shape[1])[:, :most]
            found = torch.nn.functional.pad(found, (0, most - found.shape[1]), value=scores.shape[1])
            listed = listed.index_copy(0, at, found)
        return listed


def run_scores(attention: Tensor, projected: Tensor | None, runs: int) -> Tensor:
    """``[B, runs]`` the score of every run of consecutive tokens.

    Args:
        attention: ``[B, N]`` class attention.
        projected: ``[B, N, H]`` tokens after the projector, for the variance term; None leaves it out.
        runs: how many, at most N.
    """
    lengths = _lengths(attention.shape[1], runs)
    scores = []
    for length in dict.fromkeys(lengths):  # two at most, the longer runs first
        tokens, start = lengths.count(length) * length, sum(each for each in lengths if each > length)
        part, shape = slice(start, start + tokens), (-1, length)
        seen = torch.unflatten(attention[:, part], 1, shape)
        own = None if projected is None else torch.unflatten(projected[:, part].float(), 1, shape)
        scores.append(_run_scores(seen, own))
    return torch.cat(scores, dim=1)


def _lengths(total: int, runs: int) -> list[int]:
    """Of so many runs, as ``torch.tensor_split`` cuts them."""
    return [total // runs + int(run < total % runs) for run in range(runs)]


def _run_scores(attention: Tensor, tokens: Tensor | None) -> Tensor:
    """``[B, R]`` from ``[B, R, L]`` attention, and ``[B, R, L, H]`` tokens or None."""
    count = attention.shape[2]
    if count == 1:
        return attention.mean(dim=2)
    if tokens is None:
        return 1.09 * 1000 * attention.mean(dim=2)
    unit = tokens / (torch.linalg.vector_norm(tokens, dim=-1, keepdim=True) + 1e-6)
    itself = torch.eye(count, dtype=torch.bool, device=tokens.device)
    similar = gram(unit.flatten(0, 1)).masked_fill(itself, 0.0)
    mean = similar.sum(dim=2, keepdim=True) / (count - 1)
    variance = ((similar - mean).square().sum(dim=2) / (count - 1)).view(attention.shape)
    scale = (1000 * attention).abs().mean(dim=2) / (variance.abs().mean(dim=2) + 1e-6)
    score: Tensor = (1000 * attention + 0.09 * scale.unsqueeze(2) * variance).mean(dim=2)
    return score


def tokens_of_runs(scores: Tensor, counts: Tensor) -> Tensor:
    """``[B, runs]`` int64, tokens of each run.

    An image's count ``[B]`` in proportion to the scores, rounded down; what is missing goes to the largest shares, one each.
    """
    shares = scores / (scores.sum(dim=1, keepdim=True) + 1e-6)
    least = (counts.unsqueeze(1) * shares).floor().long()
    missing = counts.unsqueeze(1) - least.sum(dim=1, keepdim=True)
    return least + (_ranks(shares) < missing).long()


def listed_by_runs(attention: Tensor, shares: Tensor, counts: Tensor, *, fill: bool) -> Tensor:
    """``[B, N]`` int64, the kept tokens in order, then N: run by run; in a run that is cut by falling attention.

    Args:
        attention: ``[B, N]``.
        shares: ``[B, runs]`` int64, tokens of each run.
        counts: ``[B]`` int64, tokens of each image.
        fill: whether the highest attention elsewhere, in raster order at the end, takes what runs have no patches for.
    """
    (images, total), runs = attention.shape, shares.shape[1]
    lengths = _lengths(total, runs)
    of_run = upload(np.repeat(np.arange(runs), lengths), attention.device)
    place = torch.arange(total, device=attention.device).expand(images, total)
    # By run, and in it by falling attention: a token's rank there is the rank in its run and all before it.
    falling = attention.sort(dim=1, descending=True, stable=True).indices
    by_run = falling.gather(1, of_run[falling].sort(dim=1, stable=True).indices)
    cut = (shares < upload(lengths, attention.device)).index_select(1, of_run)
    start = upload(np.repeat(np.cumsum([0, *lengths[:-1]]), lengths), attention.device)
    within = by_run.argsort(dim=1) - start
    taken = ~cut | (within < shares.index_select(1, of_run))
    key = start + torch.where(cut, within, place - start)
    order = torch.where(taken, key, total).argsort(dim=1, stable=True)
    asked, found = counts.unsqueeze(1), taken.sum(dim=1, keepdim=True)
    listed = order.masked_fill(place >= torch.minimum(found, asked), total)
    if not fill:
        return listed
    more = _ranks(attention.masked_fill(taken, -torch.inf)) < asked - found
    later = torch.where(more, place, total).sort(dim=1).values  # in raster order, at the end
    return torch.where(place < found, listed, later.gather(1, (place - found).clamp(min=0)))


def _ranks(values: Tensor) -> Tensor:
    """``[B, N]`` int64: 0 of the highest; of equal ones the first is higher."""
    return values.sort(dim=1, descending=True, stable=True).indices.argsort(dim=1)
