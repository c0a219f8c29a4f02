"""CDPruner: patches that are relevant to the question and different from each other, by a determinantal point process."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._choosing import ChoosingMethod, Compared, compared, cosines, wide_dtype
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

    def quality(self, image: TokenBatch) -> Tensor:
        if image.relevance is None:
            raise ConfigError(f"method {self.name!r} needs text relevance: attach a scorer with a text tower")
        signed = F.sanitize(image.relevance * image.profile.sign)[0]
        if len(signed) == 0 or signed.amax() == signed.amin():
            return torch.ones_like(signed)
        return (signed - signed.amin() + _LEAST) / (signed.amax() - signed.amin())

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return greedy_map(scores, cosines(compared(self, image).to(wide_dtype(scores.device))), count)


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
