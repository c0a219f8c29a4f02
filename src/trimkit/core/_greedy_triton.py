"""The greedy loop of Focus and CDPruner as one Triton kernel: for GPUs, where the launches of a loop in torch cost most.

One program, or some programs that wait for each other each step, go through all steps of an image. Tokens' worth and variance
stay in registers; what a step reads is a row of the Gram matrix and the columns of the Cholesky factor so far. The choices are
those of ``_greedy_device`` but for rounding in the last bits of float64.

Only imported where Triton is installed, as it is with torch for CUDA.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimkit.core._greedy_host import LEAST_NOVELTY
from trimkit.core._greedy_start import LEAST_VOLUME, start

__all__ = ["largest_volume", "processors", "relevant_and_new"]

_ALONE = 1024  # tokens that one program takes; of more, each of several takes _SHARE
_SHARE = 256
_TOKENS_A_WARP = 64
_ROWS = 16  # of the factor, read at a time
_POSTED = 6  # numbers that each program tells the others in a step


@triton.jit
def _agreed(
    best, at, left, spare, spare_at, spare_left, post, arrived, goal, part, PARTS: tl.constexpr, WIDTH: tl.constexpr
):
    """The best of all programs, and the best spare one: value, place, and variance of each."""
    tl.store(post + part, best)
    tl.store(post + PARTS + part, at.to(tl.float64))
    tl.store(post + 2 * PARTS + part, left)
    tl.store(post + 3 * PARTS + part, spare)
    tl.store(post + 4 * PARTS + part, spare_at.to(tl.float64))
    tl.store(post + 5 * PARTS + part, spare_left)
    tl.debug_barrier()
    tl.atomic_add(arrived, 1, sem="release")
    while tl.atomic_add(arrived, 0, sem="acquire") < goal:
        pass
    tl.debug_barrier()
    every = tl.arange(0, WIDTH)
    some = every < PARTS
    best, first = tl.max(tl.load(post + every, mask=some, other=-1e301), axis=0, return_indices=True)
    at = tl.load(post + PARTS + first).to(tl.int32)
    left = tl.load(post + 2 * PARTS + first)
    spare, first = tl.max(tl.load(post + 3 * PARTS + every, mask=some, other=-1e301), axis=0, return_indices=True)
    spare_at = tl.load(post + 4 * PARTS + first).to(tl.int32)
    spare_left = tl.load(post + 5 * PARTS + first)
    return best, at, left, spare, spare_at, spare_left


@triton.jit
def _unexplained(row, factor_at, places, real, chosen, turn, tokens, ROWS: tl.constexpr):
    """What the factor's rows so far leave of a row of the Gram matrix."""
    for begin in range(0, turn, ROWS):
        steps = begin + tl.arange(0, ROWS)
        done = steps < turn
        its = tl.load(factor_at + steps * tokens + chosen, mask=done, other=0.0)
        earlier = tl.load(
            factor_at + steps[:, None] * tokens + places[None, :], mask=done[:, None] & real[None, :], other=0.0
        )
        row -= tl.sum(earlier * its[:, None], axis=0)
    return row


@triton.jit(do_not_specialize=["tokens", "count"])
def _grow(
    worth_at,
    variance_at,
    rows_at,
    floor_at,
    relevant_at,
    factor_at,
    picked_at,
    posts_at,
    arrived_at,
    tokens,
    count,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    VOLUME: tl.constexpr,
    LEAST: tl.constexpr,
):
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    places = part * BLOCK + tl.arange(0, BLOCK)
    real = places < tokens
    # Below what is taken, which is -1: places behind the last token are never chosen.
    worth = tl.load(worth_at + image * tokens + places, mask=real, other=-2.0)
    variance = tl.load(variance_at + image * tokens + places, mask=real, other=-2.0)
    floor, relevant = tl.load(floor_at + image), tl.load(relevant_at + image)
    factor_at += image * count * tokens
    for turn in range(count):
        if VOLUME:
            gains = tl.where(variance > floor, variance, -1.0)
            enough = floor * 0.0
        else:
            new = tl.maximum(variance, LEAST)
            gains = tl.where(turn < relevant, worth * new, new)
            enough = tl.where(turn < relevant, -1e300, LEAST)
        best, at = tl.max(gains, axis=0, return_indices=True)
        spare, spare_at = tl.max(worth, axis=0, return_indices=True)
        at, spare_at = part * BLOCK + at, part * BLOCK + spare_at
        left = tl.sum(tl.where(places == at, variance, 0.0), axis=0)
        spare_left = tl.sum(tl.where(places == spare_at, variance, 0.0), axis=0)
        if PARTS > 1:
            post = posts_at + (image * count + turn) * 6 * PARTS  # see _POSTED
            best, at, left, spare, spare_at, spare_left = _agreed(
                *(best, at, left, spare, spare_at, spare_left),
                *(post, arrived_at + image, PARTS * (turn + 1), part, PARTS, WIDTH),
            )
        chosen = tl.where(best > enough, at, spare_at)
        left = tl.where(best > enough, left, spare_left)
        if part == 0:
            tl.store(picked_at + image * count + turn, chosen.to(tl.int64))
        worth = tl.where(places == chosen, -1.0, worth)
        row = tl.load(rows_at + (image * tokens + chosen) * tokens + places, mask=real, other=0.0)
        row = _unexplained(row, factor_at, places, real, chosen, turn, tokens, ROWS)
        row *= tl.where(left > floor, 1.0 / tl.sqrt(tl.maximum(left, 1e-300)), 0.0)
        tl.store(factor_at + turn * tokens + places, row, mask=real)
        variance -= row * row
        if VOLUME:
            variance = tl.where(places == chosen, -1.0, variance)
        tl.debug_barrier()  # the row is read by others of this program in the next step


def relevant_and_new(
    worth: Tensor, features: Tensor, count: int, relevant: Tensor, redundancy: float, wide: torch.dtype
) -> Tensor:
    """``[B, count]`` int64; see ``greedy.relevant_and_new``. ``worth`` is below 0 on padding; ``redundancy`` has to be 1."""
    rows, variance = start(features, wide)
    floor = torch.full((len(worth),), LEAST_NOVELTY**2, dtype=wide, device=worth.device)
    return _launch(worth.to(wide), variance, rows, floor, relevant, count, volume=False)


def largest_volume(quality: Tensor, features: Tensor, count: int, wide: torch.dtype) -> Tensor:
    """``[B, count]`` int64; see ``greedy.largest_volume``. ``quality`` is below 0 on padding."""
    worth = quality.to(wide)
    rows, variance = start(features, wide, worth.clamp(min=0.0).unsqueeze(2))
    floor = LEAST_VOLUME * variance.amax(dim=1)
    none = torch.zeros(len(worth), dtype=torch.int64, device=worth.device)
    return _launch(worth, variance, rows, floor, none, count, volume=True)


def _launch(
    worth: Tensor, variance: Tensor, rows: Tensor, floor: Tensor, relevant: Tensor, count: int, volume: bool
) -> Tensor:
    """The kernel over as many images at a time as have all their programs running."""
    images, tokens = worth.shape
    block = triton.next_power_of_2(tokens) if tokens <= _ALONE else _SHARE
    parts = triton.cdiv(tokens, block)
    picked = torch.empty(images, count, dtype=torch.int64, device=worth.device)
    some = images if parts == 1 else max(processors(worth.device) // parts, 1)
    for at in (slice(first, first + some) for first in range(0, images, some)):
        given = (worth[at], variance[at].squeeze(2), rows[at], floor[at].flatten(), relevant[at], picked[at])
        _run(given, count, block, parts, volume)
    return picked


def _run(given: tuple[Tensor, ...], count: int, block: int, parts: int, volume: bool) -> None:
    worth, variance, rows, floor, relevant, picked = given
    images, tokens = worth.shape
    factor = worth.new_empty(images, count, tokens)
    posts = worth.new_empty(images, count, _POSTED, parts)
    arrived = torch.zeros(images, dtype=torch.int32, device=worth.device)
    together: dict[str, bool] = {} if parts == 1 else {"launch_cooperative_grid": True}  # they wait for each other
    _grow[parts, images](
        *(each.contiguous() for each in (worth, variance, rows, floor, relevant)),
        *(factor, picked, posts, arrived, tokens, count),
        BLOCK=block,
        PARTS=parts,
        WIDTH=triton.next_power_of_2(parts),
        ROWS=_ROWS,
        VOLUME=volume,
        LEAST=LEAST_NOVELTY,
        num_warps=max(min(block // _TOKENS_A_WARP, 16), 1) if parts == 1 else 8,
        **together,
    )


def processors(device: torch.device) -> int:
    """How many programs run at a time for certain: one on each."""
    return int(torch.cuda.get_device_properties(device).multi_processor_count)
