"""Greedy choices for all images of a call at once: the loops of Focus, CDPruner, SCOPE, DivPrune and MMR.

There are three forms of every loop, which make the same choices:

* on the CPU, but for MMR, image by image in numpy (``_greedy_host``), where a step costs microseconds and only the rows of the
  Gram matrix that a choice needs are computed. No image's rounding depends on the others of its batch.
* elsewhere, all images in step (``_greedy_device``): about twenty calls a step, whatever the batch, none of which waits for
  the device. A chosen index is used where it is, by ``gather``, ``index_select`` and ``scatter``.
* on NVIDIA GPUs with Triton, as one kernel: Focus and CDPruner in ``_greedy_triton``, the others in ``_greedy_pairs_triton``.
  Which are used is in ``_kernels``.

Arithmetic is in float64 where the device has it, so that rounding turns no choice; distances and similarities that are given
keep the rounding they have.

Shapes: B images of N tokens, padded to the longest. On the host are ``totals``, the real tokens of each, and ``counts``, how
many to choose, at most its total. Every function returns ``[B, K]`` int64, K the largest count: the tokens of each image in the
order of choice, then N as often as its count is less than K. Of equal tokens the first is chosen, as far as rounding leaves
them equal. ``kept`` makes a mask of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core import _greedy_host as on_host
from trimkit.core._kernels import KERNELS, KERNELS_ON, fastest
from trimkit.core.transfer import one_by_one, upload

__all__ = [
    "KERNELS",
    "KERNELS_ON",
    "cover",
    "gram",
    "kept",
    "largest_volume",
    "marginal_relevance",
    "most_different",
    "relevant_and_new",
    "wide_dtype",
]

_ELEMENTS = 1 << 28  # of Gram matrices held at a time on a device: 2 GiB in float64

Counts = Sequence[int]
Features = Tensor | Sequence[Tensor]


def wide_dtype(device: torch.device) -> torch.dtype:
    """What greedy choices are computed in, so that rounding turns none: float64, where the device has it."""
    return torch.float32 if device.type == "mps" else torch.float64


def gram(vectors: Tensor, others: Tensor | None = None) -> Tensor:
    """``[B, M, N]`` dot products of the rows of ``[B, M, D]`` and ``[B, N, D]``, by default of all pairs of the first.

    On the CPU one product an image, whose rounding depends on nothing else; elsewhere one for all.
    """
    others = vectors if others is None else others
    if one_by_one(vectors.device):
        return torch.stack([one @ other.T for one, other in zip(vectors, others, strict=True)])
    return torch.bmm(vectors, others.transpose(1, 2))


def kept(picked: Tensor, tokens: int) -> Tensor:
    """``[B, tokens]`` bool from what one of the other functions returns."""
    mask = torch.zeros(len(picked), tokens + 1, dtype=torch.bool, device=picked.device)
    return mask.scatter_(1, picked, True)[:, :tokens]


def relevant_and_new(
    worth: Tensor,
    features: Features,
    counts: Counts,
    totals: Counts,
    relevant: Tensor | None = None,
    redundancy: float = 1.0,
) -> Tensor:
    """Some by worth x novelty ** redundancy, the rest by novelty alone (Focus).

    Novelty starts at 1 and is what is left of a feature's squared length after projection onto the span of the chosen ones, by
    a Cholesky factor that grows a row a step (arXiv 1709.05135). A feature that is not finite, or 0, has none. Where nothing
    is new, worth alone decides.

    Args:
        worth: ``[B, N]``, not negative.
        features: ``[B, N, D]``, of any length; on the CPU also ``[N_i, D]`` of each image.
        counts, totals: see the module.
        relevant: ``[B]`` int64, how many are chosen with worth; all of them where it is None.
        redundancy: 0 leaves worth alone.
    """
    if relevant is None:
        relevant = torch.full((len(worth),), max(counts, default=0), device=worth.device)
    if one_by_one(worth.device):
        weighed = relevant.numpy()
        return _each(
            lambda i, n: on_host.relevant_and_new(
                worth[i, :n].numpy(), features[i][:n], counts[i], int(weighed[i]), redundancy
            ),
            worth,
            counts,
            totals,
        )
    worth, wide = _below_padding(worth, totals), wide_dtype(worth.device)
    most = max(counts)

    def choose(form: Any, at: slice) -> Tensor:
        return form.relevant_and_new(worth[at], features[at], most, relevant[at], redundancy, wide)  # type: ignore[no-any-return]

    return _cut(
        fastest("relevant_and_new", _parts(worth), worth, choose, fusible=redundancy == 1.0),
        counts,
        worth.shape[1],
    )


def largest_volume(quality: Tensor, features: Features, counts: Counts, totals: Counts) -> Tensor:
    """The largest determinant of ``diag(quality) S diag(quality)``, S the cosines of ``features`` (CDPruner).

    Beyond the rank of the kernel, where no choice has volume, quality decides.

    Args:
        quality: ``[B, N]``, above 0.
        features: as above; one that is not finite, or 0, is similar to nothing.
        counts, totals: see the module.
    """
    if one_by_one(quality.device):
        return _each(
            lambda i, n: on_host.largest_volume(quality[i, :n].numpy(), features[i][:n], counts[i]),
            quality,
            counts,
            totals,
        )
    quality, wide = _below_padding(quality, totals), wide_dtype(quality.device)
    most = max(counts)

    def choose(form: Any, at: slice) -> Tensor:
        return form.largest_volume(quality[at], features[at], most, wide)  # type: ignore[no-any-return]

    return _cut(fastest("largest_volume", _parts(quality), quality, choose), counts, quality.shape[1])


def most_different(distances: Tensor, counts: Counts, totals: Counts, broken: Tensor) -> Tensor:
    """The smallest distance among what is chosen as large as can be (DivPrune).

    First comes the token that is farthest from its nearest other one, then always the one that is farthest from all chosen.

    Args:
        distances: ``[B, N, N]``, -1 to tokens that are not finite. On the diagonal, -inf where a token is chosen once at most.
        counts, totals: see the module.
        broken: ``[B, N]`` bool, tokens that are not finite: chosen last.
    """
    tokens = broken.shape[1]
    if one_by_one(broken.device):
        return _each(
            lambda i, n: on_host.most_different(distances[i, :n, :n].numpy(), counts[i], broken[i, :n].numpy()),
            broken,
            counts,
            totals,
        )
    real, most = _real(broken, totals), max(counts)

    def choose(form: Any, at: slice) -> Tensor:
        return form.most_different(distances[at], most, broken[at], None if real is None else real[at])  # type: ignore[no-any-return]

    return _cut(fastest("most_different", _parts(broken), broken, choose), counts, tokens)


def cover(saliency: Tensor, similarity: Tensor, counts: Counts, totals: Counts) -> Tensor:
    """The largest saliency x gain in coverage (SCOPE).

    Coverage is the sum over all tokens of their largest similarity to a chosen one, none below 0; a token's gain is what it
    would add.

    Args:
        saliency: ``[B, N]``, not negative.
        similarity: ``[B, N, N]``; 0 on padding.
        counts, totals: see the module.
    """
    if one_by_one(saliency.device):
        return _each(
            lambda i, n: on_host.cover(saliency[i, :n].numpy(), similarity[i, :n, :n].numpy(), counts[i]),
            saliency,
            counts,
            totals,
        )
    saliency, wide = _below_padding(saliency, totals), wide_dtype(saliency.device)
    most = max(counts)

    def choose(form: Any, at: slice) -> Tensor:
        return form.cover(saliency[at], similarity[at], most, wide)  # type: ignore[no-any-return]

    return _cut(fastest("cover", _parts(saliency), saliency, choose), counts, saliency.shape[1])


def marginal_relevance(importance: Tensor, similarity: Tensor, count: int, balance: float) -> Tensor:
    """The largest ``balance * importance - (1 - balance) * largest similarity to a chosen token`` (MMR).

    First comes the most important token.

    Args:
        importance: ``[B, N]``.
        similarity: ``[B, N, N]``.
        count: how many to choose of each image, at most N. There is no padding.
        balance: weight of the importance, 0 to 1.
    """
    wide = wide_dtype(importance.device)
    importance = importance.to(wide)

    def choose(form: Any, at: slice) -> Tensor:
        return form.marginal_relevance(importance[at], similarity[at].to(wide), count, balance)  # type: ignore[no-any-return]

    return fastest("marginal_relevance", _parts(importance), importance, choose)


def _each(choose: Callable[[int, int], on_host.Indices], values: Tensor, counts: Counts, totals: Counts) -> Tensor:
    """``choose(image, its tokens)`` for each, as one tensor."""
    picked = np.full((len(values), max(counts, default=0)), values.shape[1])
    for i, total in enumerate(totals):
        picked[i, : counts[i]] = choose(i, total)
    return torch.from_numpy(picked)


def _parts(values: Tensor) -> list[slice]:
    """Images whose Gram matrices are held at a time."""
    images, tokens = values.shape
    some = max(_ELEMENTS // max(tokens * tokens, 1), 1)
    return [slice(start, start + some) for start in range(0, images, some)]


def _real(values: Tensor, totals: Counts) -> Tensor | None:
    """``[B, N]`` bool, false on padding; None where there is none."""
    tokens = values.shape[1]
    if all(total == tokens for total in totals):
        return None
    return torch.arange(tokens, device=values.device) < upload(totals, values.device).unsqueeze(1)


def _below_padding(values: Tensor, totals: Counts) -> Tensor:
    """``values`` with -1 on padding."""
    real = _real(values, totals)
    return values if real is None else values.masked_fill(~real, -1.0)


def _cut(picked: Tensor, counts: Counts, tokens: int) -> Tensor:
    """``picked`` with ``tokens`` behind each image's count."""
    most = picked.shape[1]
    if all(count == most for count in counts):
        return picked
    behind = torch.arange(most, device=picked.device) >= upload(counts, picked.device).unsqueeze(1)
    return picked.masked_fill(behind, tokens)
