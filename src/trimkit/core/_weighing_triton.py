"""The weighing of Focus, most of it one Triton kernel: for GPUs, where eighty launches cost more than what they compute.

One program an image. Sorted relevance, and cosines of the patches that are looked at, come from torch; the rest is here, in
float64 as in ``_weighing_device``.

Only imported where Triton is installed, as it is with torch for CUDA.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimkit.core._weighing_device import Sizes, compare, ordered
from trimkit.core.text_lines import NEAR
from trimkit.core.transfer import upload
from trimkit.core.worth import LEAST_WORTH, MOST_COVERAGE, NOISE, VAGUE_PAGE

__all__ = ["weigh"]

_TOKENS_A_WARP = 64
_TILE = 1024  # cosines that a warp reads at a time
_MOST_ROWS = 128
_DEPTH = 1024  # of features, read at a time
_AUTO = -1.0  # instead of a share: read it off the map


@triton.jit
def _quartile(ordered_at, below, above, weight):
    low = tl.load(ordered_at + below).to(tl.float64)
    high = tl.load(ordered_at + above).to(tl.float64)
    return low + weight * (high - low)


@triton.jit
def _vagueness(ordered_at, ranks_at, weights_at, noise, places, tokens, peaks):
    """See ``worth.vagueness``."""
    low = _quartile(ordered_at, tl.load(ranks_at), tl.load(ranks_at + 3), tl.load(weights_at))
    middle = _quartile(ordered_at, tl.load(ranks_at + 1), tl.load(ranks_at + 4), tl.load(weights_at + 1))
    high = _quartile(ordered_at, tl.load(ranks_at + 2), tl.load(ranks_at + 5), tl.load(weights_at + 2))
    of_peak = tl.load(ordered_at + places, mask=places < peaks, other=0.0).to(tl.float64)
    peak = tl.sum(of_peak, axis=0) / peaks - middle
    flat = tl.load(ordered_at) == tl.load(ordered_at + tokens - 1)
    vague = tl.minimum(noise * (high - low) / tl.where(peak > 0, peak, 1.0), 1.0)
    return tl.where(flat | (peak <= 0), 1.0, vague)


@triton.jit
def _unlike(
    cosines_at,
    summed_at,
    places,
    tokens,
    width,
    depth,
    seen,
    most,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    NEAR: tl.constexpr,
):
    """How many of the patches that are looked at are like ``most`` others at most."""
    squares = tl.zeros([DEPTH], tl.float32)
    for begin in range(0, depth, DEPTH):
        at = begin + tl.arange(0, DEPTH)
        mean = tl.load(summed_at + at, mask=at < depth, other=0.0) / tokens
        squares += mean * mean
    near = tl.maximum(NEAR * (1.0 - tl.sum(squares, axis=0)), 1e-6)
    few, real = 0, places < tokens
    for begin in range(0, seen, ROWS):
        rows = begin + tl.arange(0, ROWS)
        inside = (rows < seen)[:, None] & real[None, :]
        cosines = tl.load(cosines_at + rows[:, None] * width + places[None, :], mask=inside, other=-3.0)
        likes = tl.sum((1.0 - cosines <= near).to(tl.int32), axis=1)
        few += tl.sum(((likes - 1 <= most) & (rows < seen)).to(tl.int32), axis=0)
    return few


@triton.jit
def _along_lines(share_at, share, places, real, rows, columns):
    """See ``text_lines.along_lines``; ``share`` is relevance above the median over its highest."""
    tl.store(share_at + places, share, mask=real)
    tl.debug_barrier()
    row, column = places // columns * columns, places % columns
    of_row, of_column = share, share
    for other in range(columns):
        of_row = tl.maximum(of_row, tl.load(share_at + row + other, mask=real, other=0.0))
    for other in range(rows):
        of_column = tl.maximum(of_column, tl.load(share_at + other * columns + column, mask=real, other=0.0))
    of_row, of_column = of_row * of_row, of_column * of_column
    return (2.0 * share + (of_row * of_row + of_column * of_column)) / 4.0


@triton.jit(do_not_specialize=["scores_stride", "signed_stride", "width", "looked", "depth"])
def _weigh(
    scores_at,
    signed_at,
    ordered_at,
    counts_at,
    numbers_at,
    ranks_at,
    weights_at,
    constants_at,
    cosines_at,
    summed_at,
    share_at,
    worth_at,
    relevant_at,
    scores_stride,
    signed_stride,
    width,
    looked,
    depth,
    BLOCK: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    PAGES: tl.constexpr,
    NEAR: tl.constexpr,
    MOST: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    numbers_at += image * 7  # see Sizes.numbers
    tokens, places = tl.load(numbers_at).to(tl.int32), tl.arange(0, BLOCK)
    real = places < tokens
    signed = tl.load(signed_at + image * signed_stride + places, mask=real, other=0.0).to(tl.float64)
    scores = tl.load(scores_at + image * scores_stride + places, mask=real, other=0.0).to(tl.float64)
    noise, fixed, least_vague = tl.load(constants_at), tl.load(constants_at + 1), tl.load(constants_at + 2)
    scores, least = tl.maximum(scores, 0.0), tl.load(constants_at + 3)
    ordered_at += image * width
    peaks = tl.load(numbers_at + 1).to(tl.int32)
    vague = _vagueness(ordered_at, ranks_at + image * 6, weights_at + image * 3, noise, places, tokens, peaks)
    lowest, highest = tl.load(ordered_at + tokens - 1).to(tl.float64), tl.load(ordered_at).to(tl.float64)
    worth = (signed - lowest) / tl.maximum(highest - lowest, least)
    worth = (worth + scores / tl.maximum(tl.max(scores, axis=0), least)) / 2.0
    share = tl.minimum(vague * vague, MOST)
    if PAGES:
        seen, most = tl.load(numbers_at + 2).to(tl.int32), tl.load(numbers_at + 3).to(tl.int32)
        rows, columns = tl.load(numbers_at + 4).to(tl.int32), tl.load(numbers_at + 5).to(tl.int32)
        few = _unlike(
            *(cosines_at + image * looked * width, summed_at + image * depth, places, tokens, width, depth),
            *(seen, most, DEPTH, ROWS, NEAR),
        )
        median = tl.load(ordered_at + tl.load(numbers_at + 6)).to(tl.float64)
        above = tl.maximum(signed - median, 0.0) / tl.maximum(highest - median, least)
        if (few > seen // 2) & (vague >= least_vague) & (rows > 0):
            worth = _along_lines(share_at + image * width, above, places, real, rows, columns)
            share *= 0.0
    share = tl.where(fixed < 0.0, share, fixed)
    worth = tl.where(real, tl.maximum(worth * worth, least), 0.0)
    tl.store(worth_at + image * width + places, worth, mask=places < width)
    count = tl.load(counts_at + image)
    tl.store(relevant_at + image, count - (share * count.to(tl.float64)).to(tl.int64))


def weigh(
    scores: Tensor, signed: Tensor, counts: Tensor, features: Tensor | None, sizes: Sizes, coverage: float | None
) -> tuple[Tensor, Tensor]:
    """See ``_weighing_device.weigh``."""
    images, width = signed.shape
    scores, signed = (each if each.stride(1) == 1 else each.contiguous() for each in (scores, signed))
    cosines, summed = (signed, signed) if features is None else compare(features, sizes)
    worth = torch.empty(images, width, dtype=torch.float64, device=signed.device)
    share = worth if features is None else torch.empty_like(worth)
    relevant, block = torch.empty_like(counts), triton.next_power_of_2(width)
    warps = max(min(block // _TOKENS_A_WARP, 16), 1)
    _weigh[(images,)](
        *(scores, signed, ordered(signed, sizes).contiguous(), counts, sizes.numbers, sizes.ranks, sizes.weights),
        *(_constants(coverage, signed.device), cosines, summed, share, worth, relevant),
        *(scores.stride(0), signed.stride(0), width, cosines.shape[1], summed.shape[1]),
        BLOCK=block,
        DEPTH=_DEPTH,
        ROWS=min(max(_TILE * warps // block, 1), _MOST_ROWS),
        PAGES=features is not None,
        NEAR=NEAR,
        MOST=MOST_COVERAGE,
        num_warps=warps,
    )
    return worth, relevant


@lru_cache(maxsize=64)
def _constants(coverage: float | None, device: torch.device) -> Tensor:
    """``[4]`` float64: a kernel's own numbers may be of float32."""
    with torch.inference_mode(False):
        return upload([NOISE, _AUTO if coverage is None else coverage, VAGUE_PAGE, LEAST_WORTH], device)
