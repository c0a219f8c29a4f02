"""Which columns go on inside the language model, and how masks and hidden states are cut to them. Tensor bookkeeping alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.prompt_layout import check_mask
from trimkit.core.transfer import fetch
from trimkit.core.types import ImageTokens, Selection
from trimkit.errors import UnsupportedError

__all__ = ["Columns", "LayerLayout", "Prompts", "cut_mask", "plan_layers", "take"]


@dataclass(frozen=True)
class _Merged:
    """One token for all that was dropped of an image: it stands at ``column`` of ``row``.

    ``places`` ``[N]`` are the image's columns, ``keep`` ``[N]`` what stays of them, ``weights`` ``[N]`` their shares or None.
    """

    row: int
    column: int
    places: Tensor
    keep: Tensor
    weights: Tensor | None


@dataclass(frozen=True)
class Columns:
    """Columns of a call, row by row, numbered as in the uncut sequence.

    Attributes:
        keys: ``[R, m]`` int64, ascending: what the layer's cache holds and is given.
        valid: ``[R, m]`` bool, false where a dropped column stands in, so that rows are equally long; no query attends to it.
        ragged: whether one is false.
        queries: ``[R, q]`` what the layer computes.
        first: column of the first query that the mask has.
    """

    keys: Tensor
    valid: Tensor
    ragged: bool
    queries: Tensor
    first: int


@dataclass(frozen=True)
class LayerLayout:
    """What of B prompts of L columns goes on.

    Attributes:
        columns: ``[B, k]`` int64, ascending.
        valid: ``[B, k]`` bool, see ``Columns``.
        ragged: whether one is false.
        length: L.
        merged: tokens that stand for what was dropped.
    """

    columns: Tensor
    valid: Tensor
    ragged: bool
    length: int
    merged: tuple[_Merged, ...] = ()

    def at(self, offset: int, count: int, rows: int, device: torch.device) -> Columns:
        """The columns of a pass over ``count`` columns from ``offset`` on, for ``rows`` sequences (beams are neighbours)."""
        every = rows // len(self.columns)
        there = (each.to(device, non_blocking=True) for each in (self.columns, self.valid))
        columns, valid = (each.repeat_interleave(every, dim=0) for each in there)
        after = torch.arange(self.length, offset + count, device=device).expand(rows, -1)
        keys = torch.cat([columns, after], dim=1)
        shown = torch.cat([valid, torch.ones_like(after, dtype=torch.bool)], dim=1)
        queries = keys if offset == 0 else torch.arange(offset, offset + count, device=device).expand(rows, -1)
        return Columns(keys, shown, self.ragged, queries, offset)

    def cut(self, hidden: Tensor, at: Columns) -> Tensor:
        """``[R, L, D]`` hidden states to ``[R, k, D]``, with the merged tokens in their places."""
        short, every = take(hidden, at.queries), len(hidden) // len(self.columns)
        for merged in self.merged:
            place = int((self.columns[merged.row] == merged.column).nonzero())
            rows = slice(merged.row * every, (merged.row + 1) * every)
            image = hidden[rows, merged.places.to(hidden.device, non_blocking=True)]
            keep = merged.keep.to(hidden.device, non_blocking=True).expand(every, -1)
            weights = None if merged.weights is None else merged.weights.to(hidden.device).expand(every, -1)
            short[rows, place] = F.aggregate(image, keep, weights=weights)
        return short

    def spread(self, short: Tensor, whole: Tensor, at: Columns) -> Tensor:
        """``[R, k, D]`` to ``[R, L, D]``: a dropped column keeps the hidden state with which it left, ``whole``'s.

        The last layer may be on another device than the first short one.
        """
        device, short = short.device, short.to(whole.device)
        index = at.queries.unsqueeze(-1).expand_as(short)
        values = torch.where(at.valid.unsqueeze(-1), short, whole.gather(1, index))
        return whole.scatter(1, index, values).to(device)


class Prompts:
    """B prompts of L columns, and where their images stand; on the host, but for ``last``.

    Args:
        inputs: what the model will be given.
        places: ``[B, L]`` int64, not 0 where a placeholder stands.
        images, rows: in order, and the prompt of each.

    Raises:
        UnsupportedError: a mask that is not 2-D.
    """

    def __init__(
        self, inputs: dict[str, Any], places: Tensor, images: Sequence[ImageTokens], rows: Sequence[int]
    ) -> None:
        mask = inputs.get("attention_mask")
        check_mask(mask)
        real = torch.ones_like(places, dtype=torch.bool) if mask is None else mask.bool().to(places.device)
        labels = inputs.get("labels")
        self.last = _last_of_prompt(real, labels)
        self.places, self.real = fetch([places.bool(), real])
        ends = self.real[:, -1] if labels is None else self.last == real.shape[1] - 1
        self.whole = bool(ends.all())
        self.rows = list(rows)
        self.columns = _image_columns(self.places, [len(image) for image in images], rows)
        self.deepest = max((len(image.layers) for image in images), default=0)


def _last_of_prompt(real: Tensor, labels: Tensor | None) -> Tensor:
    """``[B]`` the last column that is no padding; in training the last one before what is to be learnt."""
    columns = torch.arange(real.shape[1], device=real.device)
    last = torch.where(real, columns, 0).amax(dim=1)
    if labels is None:
        return last
    learnt = (labels.to(real.device) != -100) & real
    first = torch.where(learnt, columns, real.shape[1]).amin(dim=1)
    return torch.minimum(last, (first - 1).clamp(min=0))


def plan_layers(
    places: Tensor, real: Tensor, selections: Sequence[Selection], rows: Sequence[int]
) -> LayerLayout | None:
    """What stays of every prompt; padding goes first. None where every image token stays.

    Args:
        places: ``[B, L]`` bool, the image placeholders.
        real: ``[B, L]`` bool, false on padding.
        selections, rows: of every image in order of the placeholders, and its prompt.
    """
    if all(selection.keeps_all for selection in selections):
        return None
    places, real, *indices = fetch([places, real, *(selection.indices for selection in selections)])
    totals = [selection.total for selection in selections]
    keep, merged = real & ~places, []
    image_columns = _image_columns(places, totals, rows)
    for selection, chosen, row, columns in zip(selections, indices, rows, image_columns, strict=True):
        kept = torch.zeros(selection.total, dtype=torch.bool)
        kept[chosen] = True
        keep[row, columns[kept]] = True
        if selection.aggregated:
            rest = columns[~kept]
            middle = int(rest[len(rest) // 2])
            keep[row, middle] = True
            merged.append(_Merged(row, middle, columns, kept, selection.weights))
    counts = keep.sum(dim=1, keepdim=True)
    width = int(counts.max())
    stays = keep | (~keep & ((~keep).cumsum(dim=1) <= width - counts))
    columns = stays.nonzero()[:, 1].view(len(keep), width)
    valid = keep.gather(1, columns)
    return LayerLayout(columns, valid, not bool(valid.all()), places.shape[1], tuple(merged))


def _image_columns(places: Tensor, totals: Sequence[int], rows: Sequence[int]) -> list[Tensor]:
    """Columns of every image, from how many each has and its row."""
    found, used = [], dict.fromkeys(rows, 0)
    for total, row in zip(totals, rows, strict=True):
        found.append(places[row].nonzero().squeeze(1)[used[row] : used[row] + total])
        used[row] += total
    return found


def take(states: Tensor, columns: Tensor) -> Tensor:
    """Gather ``columns`` ``[R, k]`` along the last but one dimension of ``[R or 1, L, D]`` or ``[axes, R or 1, L, D]``."""
    states = states.expand(*states.shape[:-3], len(columns), -1, -1)
    index = columns.unsqueeze(-1).expand(*states.shape[:-2], -1, states.shape[-1])
    return states.gather(-2, index)


def cut_mask(mask: Any, at: Columns, implementation: str) -> Any:
    """A layer's attention mask for fewer columns, in the form in which it came.

    Args:
        mask: None, ``[R, n]`` (FlashAttention), or ``[R or 1, heads or 1, q, n]``, bool or additive.
        at: the columns.
        implementation: name of the model's attention, for a mask that has to be made.

    Raises:
        UnsupportedError: another kind of mask.
    """
    if mask is None:
        return None if not at.ragged else _made(at, implementation)
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 4):
        raise UnsupportedError(
            f"attention {implementation!r} has masks that cannot be cut: load the model with "
            "attn_implementation='sdpa', 'eager' or 'flash_attention_2'"
        )
    rows = len(at.keys)
    if mask.ndim == 2:
        return mask.expand(rows, -1).gather(1, at.keys).masked_fill(~at.valid, 0)
    mask = mask.expand(rows, -1, -1, -1)
    queries = (at.queries - at.first)[:, None, :, None].expand(-1, mask.shape[1], -1, mask.shape[3])
    mask = mask.gather(2, queries)
    keys = at.keys[:, None, None, :].expand(*mask.shape[:3], -1)
    hidden = False if mask.dtype == torch.bool else torch.finfo(mask.dtype).min
    return mask.gather(3, keys).masked_fill(~at.valid[:, None, None, :], hidden)


def _made(at: Columns, implementation: str) -> Tensor:
    """The mask of a ragged batch whose whole sequences needed none."""
    if "flash" in implementation:
        return at.valid
    if implementation != "sdpa":
        raise UnsupportedError(f"attention {implementation!r} makes no masks to cut: pass one prompt at a time")
    keys, queries = at.keys[:, None, :], at.queries[:, :, None]
    visible = ((keys <= queries) & at.valid[:, None, :]) | (keys == queries)  # a column attends to itself: no NaN
    return visible[:, None]
