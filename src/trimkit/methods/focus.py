"""Focus, ours: what the question points at, nothing twice, and coverage of the picture as far as it points nowhere."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, wide_dtype
from trimkit.methods.trim import Trim

__all__ = ["Focus", "pick", "vagueness"]

_VAGUENESS_POWER = 2.0
_MOST_COVERAGE = 0.5
_PEAK = 0.05  # of the patches make the peak of a map
_NOISE = 2.0627 / 1.3490  # so many interquartile ranges above the median lie the highest 5 % of a normal distribution
_LEAST_NOVELTY = 1e-4  # below it, what is called new is rounding, and worth alone decides


class Focus(ChoosingMethod, Trim):
    """Divides the places of the budget between relevance and coverage, by how clearly the question points somewhere.

    Relevance: greedily the patch of the largest p x novelty, where p is TRIM's score, the softmax of the relevance. Novelty is
    what of a patch's feature the kept ones do not explain (the conditional variance of a determinantal point process with
    cosine similarity, as in CDPruner). It thins out the many patches of one large object, so that a second object, and a
    second mention of it, are seen.

    Coverage: after that, greedily the patch of the largest novelty, whatever it shows.

    Coverage gets a share c of the places: ``vagueness ** 2``, at most a half. The vagueness of a map is how high the mean
    of its highest 5 % would lie above the median if the map were normally distributed noise of the same interquartile
    range, over how high it lies; at most 1. It does not depend on the scale of the similarities. The more clearly a
    question names what is seen, the higher its peak and the smaller c. Where it names nothing ("describe the picture"), c
    grows; and since a text tower can be sure of the wrong place, some places are left for coverage nearly always. It does
    not grow beyond a half, because a thing that covers more than a quarter of the picture widens the quartiles themselves
    and looks vague. Where no patch is more relevant than another, relevance times novelty is coverage, too.

    The mean of what is dropped is one more token, as in TRIM. Positions and the grid are not used. Deterministic; of equal
    patches the first is taken. Costs N x k x (k + D) multiplications for k of N patches of width D.

    Options beside TRIM's:
        coverage: c, from 0 (relevance alone) to 1 (the question is not used), or ``auto``.
        redundancy: power of the novelty among relevant patches; 0 ranks them by p alone, which with ``coverage=0`` is TRIM.
    """

    name: ClassVar[str] = "focus"
    summary: ClassVar[str] = (
        "ours: relevant patches without repetition; as far as relevance points nowhere, patches that cover the picture"
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
        wide = wide_dtype(scores.device)
        coverage = self.coverage
        if coverage == "auto":
            signed = self.signed_relevance(image)
            vague = 1.0 if signed is None else vagueness(signed[0].to(wide))
            coverage = min(vague**_VAGUENESS_POWER, _MOST_COVERAGE)
        relevant = count - int(coverage * count)
        return pick(scores.to(wide).clamp(min=0.0), image.features[0].to(wide), count, self.redundancy, relevant)


def vagueness(relevance: Tensor) -> float:
    """From 0, a peak far above the rest, to 1: the highest 5 % of ``[N]`` are where noise, or nothing, would have them."""
    if bool(relevance.amax() == relevance.amin()):  # their mean can be off by a rounding
        return 1.0
    low, middle, high = torch.quantile(relevance, relevance.new_tensor([0.25, 0.5, 0.75])).unbind()
    peak = relevance.topk(max(int(_PEAK * len(relevance)), 1)).values.mean() - middle
    return min(float(_NOISE * (high - low) / peak), 1.0) if float(peak) > 0 else 1.0


def pick(worth: Tensor, features: Tensor, count: int, redundancy: float = 1.0, relevant: int | None = None) -> Tensor:
    """Greedy choice: some by worth x novelty ** redundancy, the rest by novelty.

    Novelty starts at 1 and is what is left of a feature's squared length after projection onto the span of the chosen ones, by
    a Cholesky factor that grows a row a step (arXiv 1709.05135). A feature that is not finite, or 0, has none. Where nothing
    is new, worth alone decides.

    Args:
        worth: ``[N]``, not negative.
        features: ``[N, D]``, of any length.
        count: how many, at most N.
        redundancy: 0 leaves worth alone.
        relevant: how many of them are chosen with worth; all of them where it is None.

    Returns:
        ``[count]`` int64 in the order of choice.
    """
    unit = torch.nn.functional.normalize(features, dim=-1).nan_to_num(0.0)
    novelty = unit.square().sum(dim=1)
    factor = torch.zeros(count, len(worth), dtype=unit.dtype, device=unit.device)
    picked = torch.empty(count, dtype=torch.int64, device=unit.device)
    left = torch.ones_like(worth, dtype=torch.bool)
    weighed = count if relevant is None else relevant
    for turn in range(count):
        new = novelty.masked_fill(~left, 0.0).clamp(min=_LEAST_NOVELTY)
        gains = worth * new**redundancy if turn < weighed else torch.where(new.amax() > _LEAST_NOVELTY, new, worth)
        best = gains.masked_fill(~left, -1.0).argmax()
        picked[turn] = best
        left[best] = False
        row = unit @ unit[best] - factor[:turn, best] @ factor[:turn]
        fresh = novelty[best] > _LEAST_NOVELTY**2
        factor[turn] = torch.where(fresh, row / novelty[best].clamp(min=1e-12).sqrt(), 0.0)
        novelty = novelty - factor[turn].square()
    return picked
