"""Methods that choose a set of tokens, image by image, where one token's worth depends on the others that are kept."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.types import TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods._base import Method, single

__all__ = ["ChoosingMethod", "Compared", "compared", "cosines", "evenly", "signal", "trim_counts", "wide_dtype"]


Compared = Literal["projected", "features"]
"""What tokens are compared by: behind the projector, or as the family gives them."""


class ChoosingMethod(Method):
    """Base of methods that override ``choose`` (which tokens) and ``quality`` (what a token is worth alone).

    With a fixed budget the count is the budget's. ``iqr`` and ``top-p`` take their count from ``quality``, by the rule that
    every method has, and ``choose`` then fills it. Images are worked on one at a time and without padding, so that rounding,
    which could turn a greedy choice, does not depend on the batch.
    """

    def quality(self, image: TokenBatch) -> Tensor:
        """``[N]`` scores of one image's tokens, not negative; ``image`` is a batch of one without padding."""
        raise NotImplementedError

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        """``[count]`` int64 indices of one image, in any order.

        Args:
            image: a batch of one without padding, N tokens.
            scores: ``[N]``, its ``quality``.
            count: 1 to N - 1.
        """
        raise NotImplementedError

    def scores(self, batch: TokenBatch) -> Tensor:
        scores = torch.zeros(batch.mask.shape, dtype=torch.float32, device=batch.mask.device)
        for row, real in enumerate(batch.mask):
            if bool(real.any()):
                scores[row, real] = self.quality(single(batch, row)).float()
        return F.sanitize(scores, batch.mask)

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        keep = batch.mask.clone()
        counts = self.counts(scores, batch).tolist()
        for row, (count, total) in enumerate(zip(counts, batch.mask.sum(dim=1).tolist(), strict=True)):
            if 0 < count < total:
                image = single(batch, row)
                keep[row] = False
                keep[row, self.choose(image, scores[row, :total], count)] = True
        return keep

    def counts(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        """``[B]`` how many tokens stay."""
        return super().keep(scores, batch).sum(dim=1)


def signal(method: Method, batch: TokenBatch, name: str) -> Tensor:
    """A signal that ``method`` needs, with a row for each token: ``[B, N]`` or ``[B, N, K]``, zeros on padding.

    Raises:
        ConfigError: the batch has none.
    """
    own = {"cls_attention": batch.cls_attention, "keys": batch.tower_keys}.get(name)
    if own is not None:
        return own
    if name not in batch.signals:
        raise ConfigError(f"method {method.name!r} needs {name}, and these image tokens have none")
    rows = batch.signals[name]
    return rows[0].unsqueeze(0) if len(rows) == 1 else torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def compared(method: Method, image: TokenBatch) -> Tensor:
    """``[N, D]`` what a method with an option ``compare`` compares of one image.

    Raises:
        ConfigError: tokens behind the projector, which the image does not hold.
    """
    if "projected" not in method.asked_signals:
        return image.features[0]
    if "projected" not in image.signals:
        raise ConfigError(
            f"method {method.name!r} compares tokens behind the projector, and there are none: pass them as "
            "signals={'projected': ...}, or compare='features'"
        )
    return image.signals["projected"][0]


def trim_counts(method: Method, batch: TokenBatch) -> Tensor:
    """``[B]`` how many patches TRIM keeps of these images and questions: an equal count for methods without scores."""
    if batch.relevance is None:
        raise ConfigError(
            f"method {method.name!r} with budget 'iqr' keeps as many patches as TRIM and needs its text relevance: attach a "
            "scorer, or give a fraction or a number"
        )
    profile = batch.profile
    trim = F.relevance_to_scores(batch.relevance, batch.mask, sign=profile.sign, temperature=profile.temperature)
    return F.limit_counts(F.iqr_count(trim, batch.mask), min_tokens=method.min_tokens, max_tokens=method.max_tokens)


def wide_dtype(device: torch.device) -> torch.dtype:
    """What greedy choices are computed in, so that rounding turns none: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def cosines(vectors: Tensor) -> Tensor:
    """``[N, N]`` cosine similarity of the rows of ``[N, D]``; a row that is not finite is similar to nothing.

    In float32, or float64 where the vectors are.
    """
    wide = torch.promote_types(vectors.dtype, torch.float32)
    unit = torch.nn.functional.normalize(vectors.to(wide), dim=-1).nan_to_num(0.0)
    return unit @ unit.T


def evenly(items: Tensor, count: int) -> Tensor:
    """``count`` of ``items`` ``[n]`` at equal steps, ``count <= n``, none twice."""
    places = (2 * torch.arange(count, device=items.device) + 1) * len(items) // (2 * max(count, 1))
    return items[places]
