"""Focus, ours: relevance where the question points somewhere, coverage where it does not, and nothing twice."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit import functional as F
from trimkit.budget import Budget, BudgetField
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod
from trimkit.methods.trim import Trim
from trimkit.types import TokenBatch

__all__ = ["Focus", "pick"]

_FLATNESS_POWER = 4.0
_LEAST_NOVELTY = 1e-4  # below it, what is called new is rounding, and worth alone decides


class Focus(ChoosingMethod, Trim):
    """Chooses greedily the patch of the largest worth x novelty.

    Worth is TRIM's score p, the softmax of the relevance over the picture's patches, mixed with a share c of coverage, in which
    every patch is worth the same: ``(1 - c) * p + c / N``. How much c is, the question decides: ``flatness ** 4``, where
    flatness is the entropy of p as a share of its largest possible, log N. A question that names one thing gives a map of one
    peak, and c is next to 0. Where it names nothing that is seen ("describe the picture") the map is flat, c is 1, and the
    patches that differ most from each other are kept.

    Novelty is what of a patch's feature the kept ones do not explain (the conditional variance of a determinantal point process
    with cosine similarity, as in CDPruner). It thins out the many patches of one large object, so that a second object and a
    second mention of it are seen, and lets a wide background be stood for by a few.

    Relevant patches are thinned out only where the budget has no room for all of them: if it has, TRIM's outliers (as many of
    them as 1 - c of their number) are kept first, and what is left of the budget goes on from there.

    The mean of what is dropped is one more token, as in TRIM. Positions and the grid are not used. Deterministic; of equal
    patches the first is taken. Costs N x k x (k + D) multiplications for k of N patches of width D.

    Options beside TRIM's:
        coverage: c, from 0 (relevance alone) to 1 (the question is not used), or ``auto``.
        redundancy: power of the novelty; 0 ranks by worth alone, which with ``coverage=0`` is TRIM.
    """

    name: ClassVar[str] = "focus"
    summary: ClassVar[str] = (
        "ours: relevant patches without repetition; where relevance is flat, patches that cover the picture"
    )
    paper: ClassVar[str] = ""

    budget: BudgetField = Budget("ratio", 0.112)
    aggregate: Literal["mean", "weighted", "none"] = "mean"
    coverage: Literal["auto"] | float = "auto"
    redundancy: float = Field(default=1.0, ge=0.0)

    def model_post_init(self, context: object) -> None:
        """Refuse a share that is none."""
        super().model_post_init(context)
        if self.coverage != "auto" and not 0.0 <= self.coverage <= 1.0:
            raise ConfigError(f"coverage {self.coverage!r} is no share: give a number from 0 to 1, or 'auto'")

    def quality(self, image: TokenBatch) -> Tensor:
        return Trim.scores(self, image)[0]

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        wide = torch.float32 if scores.device.type == "mps" else torch.float64
        share = scores.to(wide).clamp(min=0.0)  # a score that is no softmax sums to something else
        share = share / share.sum() if float(share.sum()) > 0 else torch.full_like(share, 1 / len(share))
        coverage = flatness(share) ** _FLATNESS_POWER if self.coverage == "auto" else self.coverage
        worth = (1.0 - coverage) * share + coverage / len(share)
        outliers = round((1.0 - coverage) * int(F.iqr_count(scores[None])))
        first = scores.argsort(descending=True, stable=True)[: outliers if outliers <= count else 0]
        return pick(worth, image.features[0].to(wide), count, self.redundancy, first)


def flatness(share: Tensor) -> float:
    """Entropy of ``[N]`` shares that sum to 1, as a part of log N: 0 for one peak, 1 where all are equal or N is 1."""
    if len(share) < 2:
        return 1.0
    entropy = float(torch.special.entr(share).sum())
    return min(max(entropy / math.log(len(share)), 0.0), 1.0)


def pick(worth: Tensor, features: Tensor, count: int, redundancy: float = 1.0, first: Tensor | None = None) -> Tensor:
    """Greedy choice by worth x novelty ** redundancy.

    Novelty starts at 1 and is what is left of a feature's squared length after projection onto the span of the chosen ones, by
    a Cholesky factor that grows a row a step (arXiv 1709.05135). A feature that is not finite, or 0, has none.

    Args:
        worth: ``[N]``, not negative.
        features: ``[N, D]``, of any length.
        count: how many, at most N.
        first: indices, at most ``count``, that are chosen before any other.

    Returns:
        ``[count]`` int64 in the order of choice.
    """
    unit = torch.nn.functional.normalize(features, dim=-1).nan_to_num(0.0)
    novelty = unit.square().sum(dim=1)
    factor = torch.zeros(count, len(worth), dtype=unit.dtype, device=unit.device)
    picked = torch.empty(count, dtype=torch.int64, device=unit.device)
    left = torch.ones_like(worth, dtype=torch.bool)
    given = () if first is None else first.unbind()
    for turn in range(count):
        gains = worth * novelty.clamp(min=_LEAST_NOVELTY) ** redundancy
        best = given[turn] if turn < len(given) else gains.masked_fill(~left, -1.0).argmax()
        picked[turn] = best
        left[best] = False
        if redundancy:
            row = unit @ unit[best] - factor[:turn, best] @ factor[:turn]
            fresh = novelty[best] > _LEAST_NOVELTY**2
            factor[turn] = torch.where(fresh, row / novelty[best].clamp(min=1e-12).sqrt(), 0.0)
            novelty = novelty - factor[turn].square()
    return picked
