"""The weighing of Focus as one Triton kernel: for GPUs, where some eighty launches cost more than what they compute.

One program an image. Sorted relevance, and cosines of the patches that are looked at, come from torch; the rest is here, in
float64 as in ``worth``.

Only imported where Triton is installed, as it is with torch for CUDA.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from trimkit.core.text_lines import MOST_ALIKE, NEAR, looked_at
from trimkit.core.worth import LEAST_WORTH, MOST_COVERAGE, NOISE, PEAK, VAGUE_PAGE, quartile_ranks

__all__ = ["weigh"]

_TILE = 16384  # cosines that a program reads at a time
_TOKENS_A_WARP = 64
_AUTO = -1.0  # instead of a share: read it off the map


@triton.jit
def _quartile(ordered_at, below, above, weight):
    low = tl.load(ordered_at + below).to(tl.float64)
    high = tl.load(ordered_at + above).to(tl.float64)
    return low + weight * (high - low)


@triton.jit
def _vagueness(ordered_at, ranks_at, weights_at, places, tokens, peaks):
    """See ``worth.vagueness``; ``ordered`` has the highest first."""
    low = _quartile(ordered_at, tl.load(ranks_at), tl.load(ranks_at + 3), tl.load(weights_at))
    middle = _quartile(ordered_at, tl.load(ranks_at + 1), tl.load(ranks_at + 4), tl.load(weights_at + 1))
    high = _quartile(ordered_at, tl.load(ranks_at + 2), tl.load(ranks_at + 5), tl.load(weights_at + 2))
    of_peak = tl.load(ordered_at + places, mask=places < peaks, other=0.0).to(tl.float64)
    peak = tl.sum(of_peak, axis=0) / peaks - middle
    flat = tl.load(ordered_at) == tl.load(ordered_at + tokens - 1)
    vague = tl.minimum(tl.load(weights_at + 3) * (high - low) / tl.where(peak > 0, peak, 1.0), 1.0)
    return tl.where(flat | (peak <= 0), 1.0, vague)


@triton.jit
def _unlike(
    cosines_at,
    mean_at,
    places,
    tokens,
    seen,
    most,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    NEAR: tl.constexpr,
):
    """How many of the patches that are looked at are like ``most`` others at most."""
    depth = tl.arange(0, DEPTH)
    mean = tl.load(mean_at + depth, mask=depth < WIDTH, other=0.0)
    near = tl.maximum(NEAR * (1.0 - tl.sum(mean * mean, axis=0)), 1e-6)
    few, real = 0, places < tokens
    for begin in range(0, seen, ROWS):
        rows = begin + tl.arange(0, ROWS)
        inside = (rows < seen)[:, None] & real[None, :]
        cosines = tl.load(cosines_at + rows[:, None] * tokens + places[None, :], mask=inside, other=-3.0)
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


@triton.jit(do_not_specialize=["tokens", "seen", "most", "rows", "columns", "peaks", "middle"])
def _weigh(
    scores_at,
    signed_at,
    ordered_at,
    counts_at,
    ranks_at,
    weights_at,
    cosines_at,
    mean_at,
    share_at,
    worth_at,
    relevant_at,
    scores_stride,
    signed_stride,
    tokens,
    seen,
    most,
    rows,
    columns,
    peaks,
    middle,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
    DEPTH: tl.constexpr,
    ROWS: tl.constexpr,
    PAGES: tl.constexpr,
    NEAR: tl.constexpr,
    MOST: tl.constexpr,
    VAGUE: tl.constexpr,
    LEAST: tl.constexpr,
):
    image = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    real = places < tokens
    signed = tl.load(signed_at + image * signed_stride + places, mask=real, other=0.0).to(tl.float64)
    scores = tl.load(scores_at + image * scores_stride + places, mask=real, other=0.0).to(tl.float64)
    ordered_at += image * tokens
    vague = _vagueness(ordered_at, ranks_at, weights_at, places, tokens, peaks)
    lowest, highest = tl.load(ordered_at + tokens - 1).to(tl.float64), tl.load(ordered_at).to(tl.float64)
    scores = tl.maximum(scores, 0.0)
    worth = (signed - lowest) / tl.maximum(highest - lowest, LEAST)
    worth = (worth + scores / tl.maximum(tl.max(scores, axis=0), LEAST)) / 2.0
    share = tl.minimum(vague * vague, MOST)
    if PAGES:
        few = _unlike(
            *(cosines_at + image * seen * tokens, mean_at + image * WIDTH),
            *(places, tokens, seen, most, WIDTH, DEPTH, ROWS, NEAR),
        )
        median = tl.load(ordered_at + middle).to(tl.float64)
        above = tl.maximum(signed - median, 0.0) / tl.maximum(tl.maximum(highest - median, 0.0), 1e-12)
        if (few > seen // 2) & (vague >= VAGUE):
            worth = _along_lines(share_at + image * tokens, above, places, real, rows, columns)
            share *= 0.0
    coverage = tl.load(weights_at + 4)
    share = tl.where(coverage < 0.0, share, coverage)
    tl.store(worth_at + image * tokens + places, tl.maximum(worth * worth, LEAST), mask=real)
    count = tl.load(counts_at + image)
    tl.store(relevant_at + image, count - (share * count.to(tl.float64)).to(tl.int64))


def weigh(
    scores: Tensor, signed: Tensor, counts: Tensor, pages: tuple[Tensor, tuple[int, int]] | None, coverage: float | None
) -> tuple[Tensor, Tensor]:
    """See ``worth.weigh``."""
    images, tokens = signed.shape
    device, kind = signed.device, torch.float64
    scores, signed = (each if each.stride(1) == 1 else each.contiguous() for each in (scores, signed))
    cosines, mean, (rows, columns) = (signed, signed, (1, 1)) if pages is None else (*_compare(pages[0]), pages[1])
    seen, width = cosines.shape[1], mean.shape[1]
    share = torch.empty(images, tokens if pages else 0, dtype=kind, device=device)
    worth, relevant = torch.empty(images, tokens, dtype=kind, device=device), torch.empty_like(counts)
    block = triton.next_power_of_2(tokens)
    ordered = signed.sort(dim=1, descending=True).values.contiguous()
    _weigh[(images,)](
        *(scores, signed, ordered, counts, *_numbers(tokens, coverage, device), cosines, mean, share, worth, relevant),
        *(scores.stride(0), signed.stride(0), tokens, seen, _most_alike(tokens), rows, columns),
        *(max(int(PEAK * tokens), 1), tokens - 1 - tokens // 2),
        BLOCK=block,
        WIDTH=width,
        DEPTH=triton.next_power_of_2(width),
        ROWS=max(_TILE // block, 1),
        PAGES=pages is not None,
        **{"NEAR": NEAR, "MOST": MOST_COVERAGE, "VAGUE": VAGUE_PAGE, "LEAST": LEAST_WORTH},
        num_warps=max(min(block // _TOKENS_A_WARP, 16), 1),
    )
    return worth, relevant


def _compare(features: Tensor) -> tuple[Tensor, Tensor]:
    """``[B, S, N]`` cosines of the patches that are looked at with all, and ``[B, D]``, the mean of all of length 1."""
    unit = torch.nn.functional.normalize(features.float(), dim=-1).nan_to_num(0.0)
    return torch.bmm(unit.index_select(1, _looked_at(unit.shape[1], unit.device)), unit.mT), unit.mean(dim=1)


@lru_cache(maxsize=64)
def _looked_at(tokens: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):
        return looked_at(tokens, device)


@lru_cache(maxsize=64)
def _numbers(tokens: int, coverage: float | None, device: torch.device) -> tuple[Tensor, Tensor]:
    """``[6]`` int64, places of quartiles; ``[5]``, their weights, ``NOISE`` and the coverage: a kernel's own are of float32."""
    places, weights = quartile_ranks(tokens)
    with torch.inference_mode(False):
        numbers = np.append(weights, [NOISE, _AUTO if coverage is None else coverage])
        return torch.from_numpy(places).to(device), torch.from_numpy(numbers).to(device)


@lru_cache(maxsize=64)
def _most_alike(tokens: int) -> int:
    """The most other patches that one of a page is like."""
    share = np.arange(tokens, dtype=np.float32) / np.float32(max(tokens - 1, 1))
    return int((share <= np.float32(MOST_ALIKE)).sum()) - 1
