"""The greedy loops of DivPrune, SCOPE and MMR, which read a matrix of all pairs, as Triton kernels for NVIDIA GPUs.

* DivPrune and MMR: one program goes through all steps of an image. A step reads one row of the matrix.
* SCOPE: a step reads the whole matrix. Several programs share its columns and wait for each other once a step. Each has what
  is covered so far for itself, since all of them need all of it.

The choices are those of ``_greedy_device``, for SCOPE but for rounding in the last bits of float64.

Only imported where Triton is installed, as it is with torch for CUDA.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from trimkit.core._greedy_start import separation
from trimkit.core._greedy_triton import processors

__all__ = ["cover", "marginal_relevance", "most_different"]

_TOKENS_A_WARP = 64
_COLUMNS = 32  # that one of SCOPE's programs takes: a row of them is one read of 128 bytes in float32
_TILE = 8192  # elements of SCOPE's matrix that a program reads at a time: 16 a thread
_POSTED = 3  # numbers that a program tells the others in a step


@triton.jit
def _better(gain, place, left, other_gain, other_place, other_left):
    """The larger gain; of equal ones, the lower place."""
    other = (other_gain > gain) | ((other_gain == gain) & (other_place < place))
    return (
        tl.where(other, other_gain, gain),
        tl.where(other, other_place, place),
        tl.where(other, other_left, left),
    )


@triton.jit
def best(gains, places, variance, post, arrived, goal, part, PARTS: tl.constexpr, WIDTH: tl.constexpr):
    """The best token of all programs: its gain, its place, and its variance."""
    gain, place, left = tl.reduce((gains, places, variance), 0, _better)
    if PARTS > 1:
        tl.store(post + part, gain)
        tl.store(post + PARTS + part, place.to(tl.float64))
        tl.store(post + 2 * PARTS + part, left)
        tl.debug_barrier()
        tl.atomic_add(arrived, 1, sem="release")
        while tl.atomic_add(arrived, 0, sem="acquire") < goal:
            pass
        tl.debug_barrier()
        every = tl.arange(0, WIDTH)
        theirs = tl.load(post + every, mask=every < PARTS, other=-1e301)
        their_places = tl.load(post + PARTS + every, mask=every < PARTS, other=2e9).to(tl.int32)
        their_left = tl.load(post + 2 * PARTS + every, mask=every < PARTS, other=0.0)
        gain, place, left = tl.reduce((theirs, their_places, their_left), 0, _better)
    return gain, place, left


@triton.jit(do_not_specialize=["tokens", "count"])
def _walk(value_at, worth_at, rows_at, picked_at, tokens, count, BLOCK: tl.constexpr, MARGINAL: tl.constexpr):
    image = tl.program_id(0).to(tl.int64)
    places = tl.arange(0, BLOCK)
    value = tl.load(value_at + image * tokens + places, mask=places < tokens, other=float("-inf"))
    real = value > float("-inf")  # at first: later it is -inf where a token is taken, too
    nearest = tl.full((BLOCK,), float("-inf") if MARGINAL else float("inf"), value.dtype)
    if MARGINAL:
        worth = tl.load(worth_at + image * tokens + places, mask=real, other=float("-inf"))
    for turn in range(count):
        chosen = tl.minimum(tl.argmax(value, axis=0), tokens - 1)  # of equal ones, the lowest place
        tl.store(picked_at + image * count + turn, chosen.to(tl.int64))
        row_at = rows_at + (image * tokens + chosen) * tokens + places
        if MARGINAL:
            nearest = tl.maximum(nearest, tl.load(row_at, mask=real, other=0.0))
            worth = tl.where(places == chosen, float("-inf"), worth)
            value = worth - nearest
        else:
            nearest = tl.minimum(nearest, tl.load(row_at, mask=real, other=float("-inf")))
            value = nearest


@triton.jit(do_not_specialize=["count"])
def _cover(
    saliency_at,
    similar_at,
    covered_at,
    picked_at,
    posts_at,
    arrived_at,
    tokens,
    count,
    BLOCK: tl.constexpr,
    PARTS: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
):
    part, image = tl.program_id(0), tl.program_id(1).to(tl.int64)
    places = part * BLOCK + tl.arange(0, BLOCK)
    real = places < tokens
    # Below what is taken, which is -1: places behind the last token are never chosen.
    saliency = tl.load(saliency_at + image * tokens + places, mask=real, other=-2.0)
    similar_at += image * tokens * tokens
    covered_at += (image * PARTS + part) * tokens
    arrived = arrived_at + image
    goal = 0
    chosen = tl.full((), 0, tl.int32)
    for turn in range(count):
        gains = tl.zeros((ROWS, BLOCK), tl.float64)
        for begin in range(0, tokens, ROWS):
            rows = begin + tl.arange(0, ROWS)
            inside = rows < tokens
            old = inside & (turn > 0)  # nothing is chosen and covered before
            similar = tl.load(
                similar_at + rows[:, None] * tokens + places[None, :], mask=inside[:, None] & real[None, :], other=0.0
            ).to(tl.float64)
            seen = tl.load(similar_at + chosen * tokens + rows, mask=old, other=0.0).to(tl.float64)
            covered = tl.maximum(tl.load(covered_at + rows, mask=old, other=0.0), seen)
            tl.store(covered_at + rows, covered, mask=inside)
            gains += tl.maximum(similar - covered[:, None], 0.0)
        # Where nothing is gained, the lowest index that is left, as with any other tie.
        value = tl.where(saliency < 0.0, saliency, tl.sum(gains, axis=0) * saliency)
        post = posts_at + (image * count + turn) * 3 * PARTS  # see _POSTED
        goal += PARTS
        _gain, chosen, _left = best(value, places, value, post, arrived, goal, part, PARTS, WIDTH)
        chosen = tl.minimum(chosen, tokens - 1)
        if part == 0:
            tl.store(picked_at + image * count + turn, chosen.to(tl.int64))
        saliency = tl.where(places == chosen, -1.0, saliency)
        tl.debug_barrier()  # what is covered is read by others of this program in the next step


def most_different(distances: Tensor, count: int, broken: Tensor, real: Tensor | None) -> Tensor:
    """``[B, count]`` int64; see ``greedy.most_different``. ``real`` is false on padding."""
    value = separation(distances, broken, real)
    return _walks(value, value, distances, count, marginal=False)


def marginal_relevance(importance: Tensor, similarity: Tensor, count: int, balance: float) -> Tensor:
    """``[B, count]`` int64; see ``greedy.marginal_relevance``. All is in the dtype of the arithmetic."""
    return _walks(importance, balance * importance, (1.0 - balance) * similarity, count, marginal=True)


def cover(saliency: Tensor, similarity: Tensor, count: int, wide: torch.dtype) -> Tensor:
    """``[B, count]`` int64; see ``greedy.cover``. ``saliency`` is below 0 on padding.

    Which programs share an image depends on its tokens and the device alone, so that rounding is the same in any batch. At a
    time there are as many images as have all their programs running.
    """
    images, tokens = saliency.shape
    block, most = _COLUMNS, processors(saliency.device)
    while triton.cdiv(tokens, block) > most:
        block *= 2
    parts = triton.cdiv(tokens, block)
    picked = torch.empty(images, count, dtype=torch.int64, device=saliency.device)
    some = max(most // parts, 1)
    for at in (slice(first, first + some) for first in range(0, images, some)):
        _covers(saliency[at].to(wide).contiguous(), similarity[at].contiguous(), picked[at], block, parts)
    return picked


def _walks(value: Tensor, worth: Tensor, rows: Tensor, count: int, marginal: bool) -> Tensor:
    images, tokens = value.shape
    picked = torch.empty(images, count, dtype=torch.int64, device=value.device)
    block = triton.next_power_of_2(tokens)
    _walk[(images,)](
        *(each.contiguous() for each in (value, worth, rows)),
        *(picked, tokens, count),
        BLOCK=block,
        MARGINAL=marginal,
        num_warps=max(min(block // _TOKENS_A_WARP, 16), 1),
    )
    return picked


def _covers(saliency: Tensor, similarity: Tensor, picked: Tensor, block: int, parts: int) -> None:
    images, tokens = saliency.shape
    count = picked.shape[1]
    covered = saliency.new_empty(images, parts, tokens)
    posts = saliency.new_empty(images, count, _POSTED, parts)
    arrived = torch.zeros(images, dtype=torch.int32, device=saliency.device)
    rows = max(min(triton.next_power_of_2(tokens), _TILE // block), 1)
    together: dict[str, bool] = {} if parts == 1 else {"launch_cooperative_grid": True}  # they wait for each other
    _cover[parts, images](
        *(saliency, similarity, covered, picked, posts, arrived, tokens, count),
        BLOCK=block,
        PARTS=parts,
        WIDTH=triton.next_power_of_2(parts),
        ROWS=rows,
        num_warps=max(min(rows * block // 512, 16), 1),
        **together,
    )
