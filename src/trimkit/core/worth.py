"""What a patch is worth to a question, how vague a map of relevance is, and which pictures are pages: what Focus weighs by.

Pure tensors; ``trimkit.core.weighing`` puts them together.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core.text_lines import MOST_ALIKE, alike, along_lines
from trimkit.core.transfer import upload

__all__ = [
    "LEAST_WORTH",
    "MOST_COVERAGE",
    "NOISE",
    "PEAK",
    "VAGUENESS_POWER",
    "VAGUE_PAGE",
    "by_line",
    "is_page",
    "quartile_ranks",
    "two_views",
    "vagueness",
]

VAGUENESS_POWER = 2.0
MOST_COVERAGE = 0.25
VAGUE_PAGE = 0.4  # a page's map is at least so vague
PEAK = 0.05  # of the patches make the peak of a map
LEAST_WORTH = 1e-12
NOISE = 2.0627 / 1.3490  # so many interquartile ranges above the median lie the highest 5 % of a normal distribution


def two_views(scores: Tensor, signed: Tensor, real: Tensor | None = None) -> Tensor:
    """``[B, N]`` worth, 0 to 1: the square of the mean of scores over their highest and of relevance scaled to 0 to 1.

    No token is worth nothing, so that where all are worth the least, novelty decides.

    Args:
        scores: ``[B, N]``, not negative.
        signed: ``[B, N]`` finite relevance, higher = more relevant.
        real: ``[B, N]`` bool, false on padding; None where there is none.
    """
    above = signed - (signed if real is None else signed.masked_fill(~real, torch.inf)).amin(dim=1, keepdim=True)
    above = above if real is None else above.masked_fill(~real, 0.0)
    return ((_of_highest(above) + _of_highest(scores)) / 2).square().clamp(min=LEAST_WORTH)


def by_line(signed: Tensor, grid: tuple[int, int]) -> Tensor:
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
