"""The weighing of Focus for all images of a call at once, in plain torch: some eighty calls, whatever the batch and its sizes.

None of them waits for the device. ``trimkit.core.worth`` has the formulas, of images of one size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.core.greedy import wide_dtype
from trimkit.core.text_lines import LOOKED_AT, MOST_ALIKE, NEAR, STRIDE
from trimkit.core.transfer import upload
from trimkit.core.worth import (
    LEAST_WORTH,
    MOST_COVERAGE,
    NOISE,
    PEAK,
    VAGUE_PAGE,
    VAGUENESS_POWER,
    quartile_ranks,
    two_views,
)

__all__ = ["Grid", "Sizes", "as_in_torch", "compare", "ordered", "sizes_of", "weigh"]

Grid = tuple[int, int]


@dataclass(frozen=True)
class Sizes:
    """What follows from the sizes of a batch's images, on its device. N is the width of the batch.

    Attributes:
        real: ``[B, N]`` bool, false on padding; None where there is none.
        numbers: ``[B, 7]`` int64: tokens; how many of them make the peak; how many are looked at for likes, and how many others
            one of a page is like at most; rows and columns, 0 where the image can be no page; the place of the median.
        ranks: ``[B, 6]`` int64, places below and above quartiles among ordered tokens.
        weights: ``[B, 3]`` of those above.
        looked: ``[B, S]`` int64, tokens that are looked at; 0 behind the last.
        row, column: ``[B, N]`` int64, of each token.
    """

    real: Tensor | None
    numbers: Tensor
    ranks: Tensor
    weights: Tensor
    looked: Tensor
    row: Tensor
    column: Tensor

    def each(self, number: int) -> Tensor:
        """One of ``numbers``, ``[B, 1]``."""
        return self.numbers[:, number : number + 1]


@lru_cache(maxsize=16)
def sizes_of(totals: tuple[int, ...], grids: tuple[Grid | None, ...], width: int, device: torch.device) -> Sizes:
    """Sizes of images of ``totals`` tokens; ``grids`` of those that can be pages."""
    places, kind = np.arange(width), np.float32 if wide_dtype(device) == torch.float32 else np.float64
    numbers, looked = [], [np.arange(min(total, LOOKED_AT)) * STRIDE % max(total, 1) for total in totals]
    for total, grid, seen in zip(totals, grids, looked, strict=True):
        share = np.arange(total, dtype=np.float32) / np.float32(max(total - 1, 1))
        most = int((share <= np.float32(MOST_ALIKE)).sum()) - 1
        numbers.append([total, max(int(PEAK * total), 1), len(seen), most, *(grid or (0, 0)), total - 1 - total // 2])
    ranked = [quartile_ranks(total, kind) for total in totals]
    columns = np.array([max(grid[1], 1) if grid else 1 for grid in grids])[:, None]
    inside = places < np.array(totals)[:, None]
    held: list[Any] = [
        *(inside, np.array(numbers), np.stack([each[0] for each in ranked]), np.stack([each[1] for each in ranked])),
        np.stack([np.pad(each, (0, max(map(len, looked)) - len(each))) for each in looked]),
        *(np.where(inside, places // columns, 0), places % columns),
    ]
    with torch.inference_mode(False):  # they are used again, perhaps where there are gradients
        real, *rest = (upload(each, device) for each in held)
    return Sizes(None if inside.all() else real, *rest)


def weigh(
    scores: Tensor, signed: Tensor, counts: Tensor, features: Tensor | None, sizes: Sizes, coverage: float | None
) -> tuple[Tensor, Tensor]:
    """``[B, N]`` worth and ``[B]`` int64; see ``weighing.weigh``.

    Args:
        scores, signed: see there.
        counts: ``[B]`` int64.
        features: ``[B, N, D]``, to tell pages; None where none can be one.
        sizes: of the images.
        coverage: see there.
    """
    wide = wide_dtype(scores.device)
    signed = signed.to(wide)
    worth, descending = two_views(scores.to(wide).clamp(min=0.0), signed, sizes.real), ordered(signed, sizes)
    vague = _vagueness(descending, sizes)
    share = (vague**VAGUENESS_POWER).clamp(max=MOST_COVERAGE)
    if features is not None:
        page = _few_alike(*compare(features, sizes), sizes) & (vague >= VAGUE_PAGE) & (sizes.each(4) > 0)
        worth = torch.where(page, _by_line(signed, descending, sizes), worth)
        share = share.masked_fill(page, 0.0)
    if coverage is not None:
        share = torch.full_like(share, coverage)
    worth = worth if sizes.real is None else worth.masked_fill(~sizes.real, 0.0)
    return worth, counts - (share.squeeze(1) * counts).long()


def ordered(signed: Tensor, sizes: Sizes) -> Tensor:
    """``[B, N]``, the highest first, padding last."""
    given = signed if sizes.real is None else signed.masked_fill(~sizes.real, -torch.inf)
    return given.sort(dim=1, descending=True).values


def compare(features: Tensor, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """``[B, S, N]`` cosines of the tokens that are looked at with all, and ``[B, D]``, the sum of all of length 1."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1).nan_to_num(0.0)
    unit = unit if sizes.real is None else unit.masked_fill(~sizes.real.unsqueeze(2), 0.0)
    some = unit.gather(1, sizes.looked.unsqueeze(2).expand(-1, -1, unit.shape[2]))
    return torch.bmm(some, unit.mT), unit.sum(dim=1)


def _vagueness(descending: Tensor, sizes: Sizes) -> Tensor:
    """``[B, 1]``; see ``worth.vagueness``."""
    below, above = descending.gather(1, sizes.ranks).tensor_split(2, dim=1)
    low, middle, high = torch.lerp(below, above, sizes.weights).tensor_split(3, dim=1)
    places = torch.arange(descending.shape[1], device=descending.device)
    peak = descending.masked_fill(places >= sizes.each(1), 0.0).sum(dim=1, keepdim=True) / sizes.each(1) - middle
    vague = (NOISE * (high - low) / peak).clamp(max=1.0)
    flat = descending[:, :1] == descending.gather(1, sizes.each(0) - 1)
    return torch.where(flat | ~(peak > 0), 1.0, vague)


def _few_alike(cosines: Tensor, summed: Tensor, sizes: Sizes) -> Tensor:
    """``[B, 1]`` bool; see ``text_lines.few_alike``."""
    mean = 1.0 - (summed / sizes.each(0)).square().sum(dim=1)
    like = 1.0 - cosines <= (NEAR * mean).clamp(min=1e-6)[:, None, None]
    likes = (like if sizes.real is None else like & sizes.real.unsqueeze(1)).sum(dim=2)
    places = torch.arange(likes.shape[1], device=likes.device)
    few = (likes - 1 <= sizes.each(3)) & (places < sizes.each(2))
    return few.sum(dim=1, keepdim=True) > sizes.each(2) // 2


def _by_line(signed: Tensor, descending: Tensor, sizes: Sizes) -> Tensor:
    """``[B, N]``; see ``worth.by_line``."""
    above = (signed - descending.gather(1, sizes.each(6))).clamp(min=0.0)
    above = above if sizes.real is None else above.masked_fill(~sizes.real, 0.0)
    share = above / above.amax(dim=1, keepdim=True).clamp(min=1e-12)
    lines = sum(
        torch.zeros_like(share).scatter_reduce(1, line, share, "amax").gather(1, line) ** 4
        for line in (sizes.row, sizes.column)
    )
    return ((2 * share + lines) / 4).square().clamp(min=LEAST_WORTH)


def as_in_torch(kernel: Any, signed: Tensor, counts: Tensor, features: Tensor | None, sizes: Sizes) -> bool:
    """Whether a kernel gives what plain torch gives of made-up images of these sizes: pages, and pictures of a few looks."""
    generator, device = torch.Generator().manual_seed(0), signed.device
    maps = torch.randn(signed.shape, generator=generator).to(device)
    each = (maps if sizes.real is None else maps.masked_fill(~sizes.real, -torch.inf)).softmax(dim=1)
    looks = torch.randn(*signed.shape, 16, generator=generator).to(device)
    few = looks[:, torch.arange(signed.shape[1], device=device) % 3]
    for made in [None] if features is None else [looks.to(features.dtype), few.to(features.dtype)]:
        given = (each, maps, counts, made, sizes, None)
        (worth, relevant), (found, chosen) = weigh(*given), kernel.weigh(*given)
        if not (torch.allclose(found, worth, rtol=1e-6, atol=1e-12) and torch.equal(chosen, relevant)):
            return False
    return True
