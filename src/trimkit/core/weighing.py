"""Worth of patches, and how many places relevance gets and how many coverage, of all images of a call: the weighing of Focus.

There are three forms of it, which give the same but for rounding: on the CPU, image by image, here; elsewhere all images at
once, whatever their sizes, in plain torch (``_weighing_device``); on NVIDIA GPUs with Triton most of that is one kernel
(``_weighing_triton``), which has to give what plain torch gives of made-up images first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.core import _weighing_device as on_device
from trimkit.core._kernels import fused
from trimkit.core._weighing_device import Grid
from trimkit.core.greedy import wide_dtype
from trimkit.core.text_lines import few_alike
from trimkit.core.transfer import one_by_one, upload
from trimkit.core.worth import MOST_COVERAGE, VAGUE_PAGE, VAGUENESS_POWER, by_line, two_views, vagueness

__all__ = ["weigh"]


def weigh(
    scores: Tensor,
    signed: Tensor,
    counts: Sequence[int],
    totals: Sequence[int],
    pages: tuple[Tensor, Sequence[Grid | None]] | None = None,
    coverage: float | None = None,
) -> tuple[Tensor, Tensor]:
    """``[B, N]`` worth, above 0 but on padding, and ``[B]`` int64, how many are chosen by worth x novelty.

    Args:
        scores: ``[B, N]``, 0 or more, 0 on padding.
        signed: ``[B, N]`` finite relevance, higher = more relevant.
        counts, totals: how many are chosen of each image, and how many tokens it has.
        pages: features ``[B, N, D]`` and grids, to tell pages full of text; None for images that are none.
        coverage: the share of places that coverage gets; None reads it off ``signed``.
    """
    if one_by_one(scores.device):
        return _one_by_one(scores, signed, counts, totals, pages, coverage)
    grids = (None,) * len(totals) if pages is None else tuple(pages[1])
    sizes = on_device.sizes_of(tuple(totals), grids, scores.shape[1], scores.device)
    features = None if pages is None or not any(grids) else pages[0]
    given = (scores, signed, upload(counts, scores.device), features, sizes, coverage)

    def in_kernel(kernel: Any) -> tuple[Tensor, Tensor]:
        return kernel.weigh(*given)  # type: ignore[no-any-return]

    variant = (str(scores.device), (scores.shape[1] - 1).bit_length(), features is None)
    found = fused("worth", signed, in_kernel, lambda kernel: on_device.as_in_torch(kernel, *given[1:5]), variant)
    return on_device.weigh(*given) if found is None else found


def _one_by_one(
    scores: Tensor,
    signed: Tensor,
    counts: Sequence[int],
    totals: Sequence[int],
    pages: tuple[Tensor, Sequence[Grid | None]] | None,
    coverage: float | None,
) -> tuple[Tensor, Tensor]:
    scores, signed = scores.detach(), signed.detach()
    worth, relevant = torch.zeros(signed.shape, dtype=wide_dtype(signed.device)), []
    for row, (count, total) in enumerate(zip(counts, totals, strict=True)):
        its = signed[row : row + 1, :total].to(worth.dtype)
        weighed, vague = two_views(scores[row : row + 1, :total].to(worth.dtype).clamp(min=0.0), its), vagueness(its)
        share = float((vague**VAGUENESS_POWER).clamp(max=MOST_COVERAGE))
        grid = None if pages is None else pages[1][row]
        if pages is not None and grid is not None and float(vague) >= VAGUE_PAGE and few_alike(pages[0][row, :total]):
            weighed, share = by_line(its, grid), 0.0
        worth[row, :total] = weighed[0]
        relevant.append(count - int((share if coverage is None else coverage) * count))
    return worth, torch.tensor(relevant)
