"""Pictures full of text: told by their features, without labels, and relevance spread along their lines. Pure tensors.

On a page, relevance points at the word, row or column that a question names, and the answer stands elsewhere on that line.
There is no background either: a typical patch of a page is like few others, one of a scene like a tenth of the picture or more.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["LOOKED_AT", "MOST_ALIKE", "NEAR", "STRIDE", "alike", "along_lines", "few_alike"]

MOST_ALIKE = 0.075
"""On seed 1001 of the demo world all tables and receipts and 8 of 10 charts are below it, and 1 of 25 scenes with a vague map.
It has no scale of its own, but was measured on no other tower than the demo model's."""

NEAR = 0.3  # of the mean distance of two patches; those so near are alike
LOOKED_AT = 115  # patches whose likes are counted, at most
STRIDE = 7919  # between them: a prime, so that no width of a grid divides it
_AT_A_TIME = 19  # of them, once a half could have decided
_LEAST_LENGTH = 1e-12
_ALL_ALIKE = 1e-3  # mean distance below which rounding of float32 tells


def _looked_at(total: int, device: torch.device) -> Tensor:
    """``[S]`` int64, the patches of ``total`` whose likes are counted."""
    return torch.arange(min(total, LOOKED_AT), device=device) * STRIDE % max(total, 1)


def alike(features: Tensor) -> Tensor:
    """The share of the other patches that a typical patch is like: the median over patches.

    Two patches are alike if 1 - cosine is at most 0.3 of its mean over all pairs. So it does not matter how far apart a tower
    holds what differs. Of many patches about a hundred are looked at, each beside all others; they lie in all rows and columns.
    One that is not finite is like no other.

    Args:
        features: ``[B, N, D]``.

    Returns:
        ``[B]``, 0 to 1.
    """
    total = features.shape[1]
    unit = functional.normalize(features.float(), dim=-1).nan_to_num(0.0)
    mean = 1.0 - unit.mean(dim=1).square().sum(dim=-1)
    some = unit.index_select(1, _looked_at(total, unit.device))
    like = (1.0 - some @ unit.mT <= (NEAR * mean).clamp(min=1e-6)[:, None, None]).sum(dim=2)
    return (like.sort(dim=1).values[:, some.shape[1] // 2] - 1).clamp(min=0) / max(total - 1, 1)


def few_alike(features: Tensor) -> bool:
    """Whether ``alike`` of one picture's features ``[N, D]`` is at most ``MOST_ALIKE``; for the CPU.

    It looks at no more patches than it takes for the median to be known, and divides no feature by its length.
    """
    wide, total = features.detach().float(), len(features)
    length = torch.linalg.vector_norm(wide, dim=1)
    broken = ~length.isfinite()
    if bool(broken.any()):
        wide, length = wide.masked_fill(broken.unsqueeze(1), 0.0), length.masked_fill(broken, 0.0)
    scale = 1.0 / length.clamp(min=_LEAST_LENGTH)
    mean = 1.0 - float((scale @ wide / max(total, 1)).square().sum())
    if mean < _ALL_ALIKE:
        return bool(alike(features.detach().unsqueeze(0))[0] <= MOST_ALIKE)
    near, places = max(NEAR * mean, 1e-6), _looked_at(total, wide.device)
    half = len(places) // 2
    few = many = start = 0
    while few <= half and many < len(places) - half:
        rows = places[start : max(start + _AT_A_TIME, half + 1)]
        cosines = (wide.index_select(0, rows) @ wide.T).mul_(scale).mul_(scale.index_select(0, rows).unsqueeze(1))
        likes = (1.0 - cosines <= near).sum(dim=1)
        found = int(((likes - 1).clamp(min=0) / max(total - 1, 1) <= MOST_ALIKE).sum())
        few, many, start = few + found, many + len(rows) - found, start + len(rows)
    return few > half


def along_lines(relevance: Tensor, grid: tuple[int, int]) -> Tensor:
    """Worth of a patch on a page: its own relevance above the median, and how relevant its row and its column are at most.

    All three are shares of the highest relevance; those of lines to the fourth power and a quarter each, so that only lines
    of what is nearly as relevant as anything count. Where a row and a column of two things that are named cross, they add up.

    Args:
        relevance: ``[B, N]``, higher = more relevant.
        grid: rows and columns, N in all.

    Returns:
        ``[B, N]``, 0 to 1; 0 throughout where all are equally relevant.
    """
    middle = relevance.sort(dim=1).values[:, relevance.shape[1] // 2].unsqueeze(1)
    above = (relevance - middle).clamp(min=0.0)
    share = (above / above.amax(dim=1, keepdim=True).clamp(min=1e-12)).view(-1, *grid)
    lines = share.amax(dim=2, keepdim=True) ** 4 + share.amax(dim=1, keepdim=True) ** 4
    return ((2 * share + lines) / 4).flatten(1)
