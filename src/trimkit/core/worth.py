"""What a patch is worth to a question, and how many places such patches get: the weighing of Focus. Pure tensors.

Images are of one length, N tokens, and of one grid. There are three forms of it, which give the same but for rounding: on the
CPU, pages are told image by image (``text_lines.few_alike``); elsewhere all images at once, in plain torch; on NVIDIA GPUs
with Triton most of it is one kernel (``_worth_triton``), whose first result in a process is compared with plain torch's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core._kernels import fused
from trimkit.core.greedy import wide_dtype
from trimkit.core.text_lines import MOST_ALIKE, alike, along_lines, few_alike
from trimkit.core.transfer import one_by_one, upload

__all__ = [
    "LEAST_WORTH",
    "MOST_COVERAGE",
    "NOISE",
    "PEAK",
    "VAGUENESS_POWER",
    "VAGUE_PAGE",
    "by_line",
    "is_page",
    "two_views",
    "vagueness",
    "weigh",
]

VAGUENESS_POWER = 2.0
MOST_COVERAGE = 0.25
VAGUE_PAGE = 0.4  # a page's map is at least so vague
PEAK = 0.05  # of the patches make the peak of a map
LEAST_WORTH = 1e-12
NOISE = 2.0627 / 1.3490  # so many interquartile ranges above the median lie the highest 5 % of a normal distribution

Grid = tuple[int, int]


def weigh(
    scores: Tensor,
    signed: Tensor,
    counts: Tensor,
    pages: tuple[Tensor, Grid] | None = None,
    coverage: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``[B, N]`` worth, above 0, and ``[B]`` int64, how many are chosen by worth x novelty.

    Args:
        scores: ``[B, N]``, 0 or more.
        signed: ``[B, N]`` finite relevance, higher = more relevant.
        counts: ``[B]`` int64, how many are chosen.
        pages: features ``[B, N, D]`` and grid, to tell pages full of text; None where no image is one.
        coverage: the share of places that coverage gets; None reads it off ``signed``.
    """

    def in_torch() -> tuple[Tensor, Tensor]:
        return _weigh(scores, signed, counts, pages, coverage)

    def as_in_torch(found: tuple[Tensor, Tensor]) -> bool:
        worth, relevant = in_torch()
        return torch.allclose(found[0], worth, rtol=1e-6, atol=1e-12) and torch.equal(found[1], relevant)

    def in_kernel(kernel: Any) -> tuple[Tensor, Tensor]:
        return kernel.weigh(scores, signed, counts, pages, coverage)  # type: ignore[no-any-return]

    found = fused("worth", signed, in_kernel, as_in_torch)
    return in_torch() if found is None else found


def _weigh(
    scores: Tensor, signed: Tensor, counts: Tensor, pages: tuple[Tensor, Grid] | None, coverage: float | None
) -> tuple[Tensor, Tensor]:
    wide = wide_dtype(scores.device)
    signed = signed.to(wide)
    worth, vague = two_views(scores.to(wide).clamp(min=0.0), signed), vagueness(signed)
    share = (vague**VAGUENESS_POWER).clamp(max=MOST_COVERAGE)
    if pages is not None:
        features, grid = pages
        if one_by_one(features.device):
            page = _pages(features, vague)
            rows = page.nonzero().flatten()
            if len(rows):
                worth = worth.index_copy(0, rows, by_line(signed[rows], grid))
        else:
            page = is_page(features, vague)
            worth = torch.where(page.unsqueeze(1), by_line(signed, grid), worth)
        share = share.masked_fill(page, 0.0)
    if coverage is not None:
        share = torch.full_like(share, coverage)
    return worth, counts - (share * counts).long()


def two_views(scores: Tensor, signed: Tensor) -> Tensor:
    """``[B, N]`` worth, 0 to 1: the square of the mean of scores over their highest and of relevance scaled to 0 to 1.

    No token is worth nothing, so that where all are worth the least, novelty decides.

    Args:
        scores: ``[B, N]``, not negative.
        signed: ``[B, N]`` finite relevance, higher = more relevant.
    """
    above = signed - signed.amin(dim=1, keepdim=True)
    return ((_of_highest(above) + _of_highest(scores)) / 2).square().clamp(min=LEAST_WORTH)


def by_line(signed: Tensor, grid: Grid) -> Tensor:
    """``[B, N]`` worth on pages, 0 to 1, see ``along_lines``; it is squared, as what ``two_views`` gives."""
    return along_lines(signed, grid).square().clamp(min=LEAST_WORTH)


def _of_highest(values: Tensor) -> Tensor:
    return values / values.amax(dim=1, keepdim=True).clamp(min=LEAST_WORTH)


def vagueness(relevance: Tensor) -> Tensor:
    """From 0, a peak far above the rest, to 1: the highest 5 % of ``[..., N]`` are where noise, or nothing, would have them."""
    total = relevance.shape[-1]
    ordered = relevance.sort(dim=-1, descending=True).values
    places, weights = _quartiles(total, relevance.dtype, relevance.device)
    below, above = ordered.index_select(-1, places).tensor_split(2, dim=-1)
    low, middle, high = torch.lerp(below, above, weights).unbind(-1)  # as torch.quantile has them, in three calls
    peak = ordered[..., : max(int(PEAK * total), 1)].mean(dim=-1) - middle
    vague = (NOISE * (high - low) / peak).clamp(max=1.0)
    flat = ordered[..., 0] == ordered[..., -1]  # their mean can be off by a rounding
    return torch.where(flat | ~(peak > 0), 1.0, vague)


def quartile_ranks(total: int, kind: Any = np.float64) -> tuple[Any, Any]:
    """Of ``total`` values, highest first: ``[6]`` int64, places below and above quartiles; ``[3]``, weights of those above."""
    ranks = np.array([0.25, 0.5, 0.75], dtype=kind) * (total - 1)
    below, above = np.floor(ranks), np.ceil(ranks)
    return (total - 1 - np.concatenate([below, above])).astype(np.int64), ranks - below


@lru_cache(maxsize=64)
def _quartiles(total: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """``quartile_ranks`` on a device."""
    places, weights = quartile_ranks(total, np.float64 if dtype == torch.float64 else np.float32)
    with torch.inference_mode(False):  # they are used again, perhaps where there are gradients
        return upload(places, device), upload(weights, device)


def is_page(features: Tensor, vague: Tensor) -> Tensor:
    """``[B]`` bool: which pictures are full of text, by features ``[B, N, D]`` and the vagueness ``[B]`` of their maps."""
    return (alike(features) <= MOST_ALIKE) & (vague >= VAGUE_PAGE)


def _pages(features: Tensor, vague: Tensor) -> Tensor:
    """``is_page`` on the CPU, where nobody looks at the features of a picture whose map is not vague."""
    enough = (vague >= VAGUE_PAGE).tolist()
    return torch.tensor([vaguely and few_alike(each) for vaguely, each in zip(enough, features, strict=True)])
