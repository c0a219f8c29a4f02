"""The greedy loops of all images in step, in plain torch: about twenty calls a step, and none that waits for the device.

``[B, N, 1]`` is the shape of what there is one of for each token, so that a step needs no reshaping. Padding and what is taken
already have worth -1: less than any other token's.
"""

from __future__ import annotations

import torch
from torch import Tensor

from trimkit.core._greedy_host import LEAST_NOVELTY
from trimkit.core._greedy_start import LEAST_VOLUME, separation, start

__all__ = ["cover", "largest_volume", "marginal_relevance", "most_different", "relevant_and_new"]


class _Kernel:
    """Cosines of ``[B, N, D]`` features, and a Cholesky factor of ``count`` rows that grows by what is chosen of each image.

    Args:
        features: any length; one that is not finite, or 0, is similar to nothing.
        count: steps.
        wide: dtype of the arithmetic.
        quality: ``[B, N, 1]`` that scales the cosines on both sides, or None.

    Attributes:
        variance: ``[B, N, 1]``, what the choices so far leave of each token.
    """

    def __init__(self, features: Tensor, count: int, wide: torch.dtype, quality: Tensor | None = None) -> None:
        images, tokens, _ = features.shape
        rows, self.variance = start(features, wide, quality)
        self._rows = rows.view(images * tokens, tokens, 1)
        self._factor = torch.zeros(images, tokens, count, dtype=wide, device=rows.device)
        self._by_token = self._factor.view(images * tokens, count, 1)
        self._first = (torch.arange(images, device=rows.device) * tokens).view(-1, 1, 1)

    def add(self, chosen: Tensor, turn: int, floor: Tensor | float) -> None:
        """Grow the factor by ``chosen`` ``[B, 1, 1]``, and take off ``variance`` what it explains.

        With no more left of it than ``floor``, it explains nothing.
        """
        at = (chosen + self._first).flatten()
        left = self.variance.gather(1, chosen)
        row = torch.baddbmm(
            self._rows.index_select(0, at), self._factor, self._by_token.index_select(0, at), alpha=-1.0
        )
        row = row * torch.where(left > floor, left.rsqrt(), 0.0)
        self._factor[:, :, turn : turn + 1] = row
        self.variance = self.variance.addcmul(row, row, value=-1.0)


def relevant_and_new(
    worth: Tensor, features: Tensor, count: int, relevant: Tensor, redundancy: float, wide: torch.dtype
) -> Tensor:
    """``[B, count]`` int64; see ``greedy.relevant_and_new``. ``worth`` is below 0 on padding."""
    kernel = _Kernel(features, count, wide)
    worth = worth.to(wide, copy=True).unsqueeze(2)
    weighed = torch.arange(count, device=worth.device).view(-1, 1, 1, 1) < relevant.view(1, -1, 1, 1)
    picked = []
    for turn in range(count):
        new = kernel.variance.clamp(min=LEAST_NOVELTY)
        gains = torch.where(
            weighed[turn],
            worth * (new if redundancy == 1.0 else new**redundancy),
            torch.where(new.amax(dim=1, keepdim=True) > LEAST_NOVELTY, new, worth),
        )
        chosen = gains.argmax(dim=1, keepdim=True)
        picked.append(chosen)
        worth.scatter_(1, chosen, -1.0)
        kernel.add(chosen, turn, LEAST_NOVELTY**2)
    return torch.cat(picked, dim=1).squeeze(2)


def largest_volume(quality: Tensor, features: Tensor, count: int, wide: torch.dtype) -> Tensor:
    """``[B, count]`` int64; see ``greedy.largest_volume``. ``quality`` is below 0 on padding."""
    left = quality.to(wide, copy=True).unsqueeze(2)
    kernel = _Kernel(features, count, wide, left.clamp(min=0.0))
    floor = LEAST_VOLUME * kernel.variance.amax(dim=1, keepdim=True)
    picked = []
    for turn in range(count):
        # What has volume comes before all that has none, which quality then ranks below 0.
        volume = torch.where(kernel.variance > floor, kernel.variance, -1.0)
        some = volume.amax(dim=1, keepdim=True) > 0.0
        chosen = torch.where(some, volume, left).argmax(dim=1, keepdim=True)
        picked.append(chosen)
        left.scatter_(1, chosen, -1.0)
        kernel.add(chosen, turn, floor)
        kernel.variance.scatter_(1, chosen, -1.0)
    return torch.cat(picked, dim=1).squeeze(2)


def most_different(distances: Tensor, count: int, broken: Tensor, real: Tensor | None) -> Tensor:
    """``[B, count]`` int64; see ``greedy.most_different``. ``real`` is false on padding."""
    images, tokens = broken.shape
    nearest = separation(distances, broken, real)
    rows = distances.reshape(images * tokens, tokens)
    first = torch.arange(images, device=distances.device).unsqueeze(1) * tokens
    if real is not None:
        rows = distances.masked_fill(~real.unsqueeze(1), -torch.inf).view(images * tokens, tokens)
    picked = []
    for turn in range(count):
        chosen = nearest.argmax(dim=1, keepdim=True)
        picked.append(chosen)
        seen = rows.index_select(0, (chosen + first).flatten())
        nearest = seen if turn == 0 else torch.minimum(nearest, seen)
    return torch.cat(picked, dim=1)


def cover(saliency: Tensor, similarity: Tensor, count: int, wide: torch.dtype) -> Tensor:
    """``[B, count]`` int64; see ``greedy.cover``. ``saliency`` is below 0 on padding."""
    images, tokens = saliency.shape
    saliency = saliency.to(wide, copy=True)
    similar = similarity.to(wide)
    rows = similar.reshape(images * tokens, tokens)
    covered = torch.zeros(images, tokens, 1, dtype=wide, device=similar.device)
    first = torch.arange(images, device=similar.device).unsqueeze(1) * tokens
    picked = []
    for _ in range(count):
        gains = (similar - covered).clamp(min=0.0).sum(dim=1)
        # Where nothing is gained, the lowest index that is left, as with any other tie.
        chosen = torch.where(saliency < 0.0, saliency, gains * saliency).argmax(dim=1, keepdim=True)
        picked.append(chosen)
        saliency.scatter_(1, chosen, -1.0)
        seen = rows.index_select(0, (chosen + first).flatten()).unsqueeze(2)
        covered = torch.maximum(covered, seen)
    return torch.cat(picked, dim=1)


def marginal_relevance(importance: Tensor, similarity: Tensor, count: int, balance: float) -> Tensor:
    """``[B, count]`` int64; see ``greedy.marginal_relevance``. All is in the dtype of the arithmetic."""
    images, tokens = importance.shape
    worth, value = balance * importance, importance
    rows = ((1.0 - balance) * similarity).view(images * tokens, tokens)
    nearest = torch.full_like(worth, -torch.inf)
    first = torch.arange(images, device=importance.device).unsqueeze(1) * tokens
    picked = []
    for _ in range(count):
        chosen = value.argmax(dim=1, keepdim=True)
        picked.append(chosen)
        worth = worth.scatter(1, chosen, -torch.inf)
        nearest = torch.maximum(nearest, rows.index_select(0, (chosen + first).flatten()))
        value = worth - nearest
    return torch.cat(picked, dim=1) if picked else importance.new_empty((images, 0), dtype=torch.int64)
