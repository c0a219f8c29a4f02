"""Pictures full of text: told by their features, without labels, and relevance spread along their lines. Pure tensors.

On a page, relevance points at the word or the row that a question names, and the answer stands elsewhere on that line. There
is no background either: a typical patch of a page is like few others, one of a scene like a tenth of the picture or more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["MOST_ALIKE", "MOST_ROUGH", "alike", "along_lines", "roughness"]

MOST_ALIKE = 0.08
"""Between tables and receipts of the demo world (at most 0.073) and scenes (at least 0.083, 0.12 for 95 of 100), on seeds 1001
to 1003. Some charts are below it, too."""

_COSINE = 0.8  # from which two patches are alike

MOST_ROUGH = 0.8
"""Above it neighbors are as unlike as any two patches: noise, or tokens that are no picture's grid."""


def alike(features: Tensor) -> Tensor:
    """The share of the other patches that a typical patch is like (cosine of 0.8 or more): the median over patches.

    Takes memory for all pairs of patches of an image.

    Args:
        features: ``[B, N, D]``.

    Returns:
        ``[B]``, 0 to 1.
    """
    total = features.shape[1]
    unit = functional.normalize(features.float(), dim=-1)
    like = ((unit @ unit.mT) >= _COSINE).sum(dim=2)
    return (like.sort(dim=1).values[:, total // 2] - 1).clamp(min=0) / max(total - 1, 1)


def roughness(features: Tensor, grid: tuple[int, int]) -> Tensor:
    """How unlike neighbors are, as a share of how unlike any two patches are: near 0 for a smooth picture, 1 for noise.

    Unlikeness is 1 - cosine, mean over patches side by side and one above the other; over all pairs it follows from the mean of
    the unit features.

    Args:
        features: ``[B, N, D]``.
        grid: rows and columns, N in all.

    Returns:
        ``[B]``; 0 where all patches are alike.
    """
    unit = functional.normalize(features.float(), dim=-1)
    cells = unit.view(-1, *grid, unit.shape[-1])
    beside = (cells[:, :, 1:] * cells[:, :, :-1]).sum(dim=-1).flatten(1)
    below = (cells[:, 1:] * cells[:, :-1]).sum(dim=-1).flatten(1)
    alike = torch.cat([beside, below], dim=1).mean(dim=1)
    any_two = 1.0 - unit.mean(dim=1).square().sum(dim=-1)
    return torch.where(any_two > 1e-6, (1.0 - alike) / any_two.clamp(min=1e-6), torch.zeros_like(any_two))


def along_lines(relevance: Tensor, grid: tuple[int, int]) -> Tensor:
    """Worth of a patch on a page: what its own relevance has above the median, plus the most that its row has.

    The row's is of relevance averaged over 3 x 3 patches, so that a single patch does not make a line.

    Args:
        relevance: ``[B, N]``, higher = more relevant.
        grid: rows and columns, N in all.

    Returns:
        ``[B, N]``, 0 or more.
    """
    ordered = relevance.float().sort(dim=1).values
    middle = ordered[:, relevance.shape[1] // 2].unsqueeze(1)
    above = (relevance.float() - middle).clamp(min=0.0).view(-1, 1, *grid)
    smooth = functional.avg_pool2d(above, 3, stride=1, padding=1, count_include_pad=False)
    return (above + smooth.amax(dim=3, keepdim=True)).flatten(1)
