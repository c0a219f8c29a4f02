"""CDPruner: patches that are relevant to the question and different from each other, by a determinantal point process."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, cosines, wide_dtype

__all__ = ["CDPruner"]

_LEAST = 1e-6  # the released code's: the least relevant patch can still be kept


class CDPruner(ChoosingMethod):
    """Maximises the determinant of ``diag(r) S diag(r)`` over the kept patches, greedily.

    S is the cosine similarity of the patches, r their cosine to the question, scaled to 0 to 1 within the picture. As in the
    released code, r takes the encoder's sign (negative for CLIP). The released S is of tokens after the projector; here, as
    the family gives them. Where all relevances are equal, diversity alone decides. The default budget is one of the paper's.
    """

    name: ClassVar[str] = "cdpruner"
    summary: ClassVar[str] = "CDPruner: relevant and different patches (conditional determinantal point process)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2506.10967"
    uses_text: ClassVar[bool] = True

    budget: BudgetField = Budget("count", 64)

    def normalize_relevance(self, profile: EncoderProfile) -> bool:
        return True

    def quality(self, image: TokenBatch) -> Tensor:
        if image.relevance is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        signed = F.sanitize(image.relevance * image.profile.sign)[0]
        if len(signed) == 0 or signed.amax() == signed.amin():
            return torch.ones_like(signed)
        return (signed - signed.amin() + _LEAST) / (signed.amax() - signed.amin())

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return greedy_map(scores, cosines(image.features[0].to(wide_dtype(scores.device))), count)


def greedy_map(quality: Tensor, similarity: Tensor, count: int) -> Tensor:
    """Greedy maximum of a determinantal point process, with a Cholesky factor that grows row by row (arXiv 1709.05135).

    Args:
        quality: ``[N]``, above 0.
        similarity: ``[N, N]``, ones on the diagonal.
        count: how many to choose, at most N. Beyond the rank of the kernel, where no choice has volume, quality decides.

    Returns:
        ``[count]`` int64 in the order of choice.
    """
    wide = wide_dtype(quality.device)
    quality, similarity = quality.to(wide), similarity.to(wide)
    gains = quality.square() * similarity.diagonal().clamp(min=0.0)
    floor = 1e-9 * gains.amax()
    factor = torch.zeros(count, len(quality), dtype=wide, device=quality.device)
    picked = torch.empty(count, dtype=torch.int64, device=quality.device)
    left = torch.ones_like(quality, dtype=torch.bool)
    for turn in range(count):
        volume = gains.masked_fill(~left | (gains <= floor), -1.0)
        best = torch.where(volume.amax() > 0, volume.argmax(), quality.masked_fill(~left, -1.0).argmax())
        picked[turn] = best
        left[best] = False
        row = quality[best] * similarity[best] * quality - factor[:turn, best] @ factor[:turn]
        factor[turn] = torch.where(gains[best] > floor, row / gains[best].clamp(min=1e-300).sqrt(), 0.0)
        gains = gains - factor[turn].square()
    return picked
