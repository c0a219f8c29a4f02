"""Which columns go on inside the language model, and how masks and hidden states are cut to them. Tensor bookkeeping alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.prompt_layout import check_mask
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

    def states(self, image: Tensor) -> Tensor:
        """``[R, 1, D]`` of the image's ``[R, N, D]``."""
        keep = self.keep.to(image.device).expand(len(image), -1)
        weights = None if self.weights is None else self.weights.to(image.device).expand(len(image), -1)
        return F.aggregate(image, keep, weights=weights).unsqueeze(1)

    @property
    def columns(self) -> Tensor:
        return self.places.new_tensor([self.column])


@dataclass(frozen=True)
class _Mixed:
    """What stands in the ``columns`` ``[k]`` of an image: ``rows`` ``[k, N]`` of the states at its ``places`` ``[N]``."""

    row: int
    columns: Tensor
    places: Tensor
    rows: Tensor

    def states(self, image: Tensor) -> Tensor:
        """``[R, k, D]`` of the image's ``[R, N, D]``."""
        wide = image.to(torch.promote_types(image.dtype, torch.float32))
        with torch.autocast(image.device.type, enabled=False):
            return (self.rows.to(wide) @ wide).to(image.dtype)


@dataclass(frozen=True)
class Columns:
    """Columns of a call, row by row, numbered as in the uncut sequence.

    Attributes:
        keys: ``[R, m]`` int64, ascending: what the layer's cache holds and is given.
        valid: ``[R, m]`` bool, false where a dropped column stands in, so that rows are equally long; no query attends to it.
        ragged: whether one is false.
        queries: ``[R, q]`` what the layer computes.
        first: column of the first query that the mask has.
        gone: ``[R, q]`` how many tokens before each query are no longer there, where positions are numbered anew; else None.
    """

    keys: Tensor
    valid: Tensor
    ragged: bool
    queries: Tensor
    first: int
    gone: Tensor | None = None


@dataclass(frozen=True)
class LayerLayout:
    """What of B prompts of L columns goes on.

    Attributes:
        columns: ``[B, k]`` int64, ascending.
        valid: ``[B, k]`` bool, see ``Columns``.
        ragged: whether one is false.
        length: L.
        merged: tokens that stand for what was dropped, and images whose tokens were mixed.
        gone: ``[B, L + 1]`` int64, how many real tokens before each column were dropped, and in all.
    """

    columns: Tensor
    valid: Tensor
    ragged: bool
    length: int
    merged: tuple[_Merged | _Mixed, ...] = ()
    gone: Tensor | None = None

    def at(self, offset: int, count: int, rows: int, device: torch.device, *, renumber: bool = False) -> Columns:
        """The columns of a pass over ``count`` columns from ``offset`` on, for ``rows`` sequences (beams are neighbours)."""
        every = rows // len(self.columns)
        columns, valid = (each.to(device).repeat_interleave(every, dim=0) for each in (self.columns, self.valid))
        after = torch.arange(self.length, offset + count, device=device).expand(rows, -1)
        keys = torch.cat([columns, after], dim=1)
        shown = torch.cat([valid, torch.ones_like(after, dtype=torch.bool)], dim=1)
        queries = keys if offset == 0 else torch.arange(offset, offset + count, device=device).expand(rows, -1)
        gone = None
        if renumber and self.gone is not None:
            gone = self.gone.to(device).repeat_interleave(every, dim=0).gather(1, queries.clamp(max=self.length))
        return Columns(keys, shown, self.ragged, queries, offset, gone)

    def cut(self, hidden: Tensor, at: Columns) -> Tensor:
        """``[R, L, D]`` hidden states to ``[R, k, D]``, with the merged tokens in their places."""
        short, every = take(hidden, at.queries), len(hidden) // len(self.columns)
        for merged in self.merged:
            rows = slice(merged.row * every, (merged.row + 1) * every)
            image = hidden[rows, merged.places.to(hidden.device)]
            places = torch.searchsorted(self.columns[merged.row], merged.columns).to(hidden.device)
            short[rows, places] = merged.states(image)
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
    """B prompts of L columns, and where their images stand.

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
        self.places, self.rows = places.bool(), list(rows)
        self.real = torch.ones_like(self.places) if mask is None else mask.bool().to(places.device)
        self.columns = _image_columns(self.places, [len(image) for image in images], rows)
        self.deepest = max((len(image.layers) for image in images), default=0)
        self.last = _last_of_prompt(self.real, inputs.get("labels"))


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
    places: Tensor, real: Tensor, selections: Sequence[Selection], rows: Sequence[int], images: Sequence[Tensor]
) -> LayerLayout | None:
    """What stays of every prompt; padding goes first. None where every image token stays.

    Args:
        places: ``[B, L]`` bool, the image placeholders.
        real: ``[B, L]`` bool, false on padding.
        selections, rows: of every image in order of the placeholders, and its prompt.
        images: the columns of every image that are still there, of which its selection speaks.
    """
    if all(selection.keeps_all and selection.mixing is None for selection in selections):
        return None
    places, real = places.cpu(), real.cpu()
    keep, merged = real & ~places, list[_Merged | _Mixed]()
    for selection, row, image in zip(selections, rows, images, strict=True):
        columns = image.cpu()
        kept = torch.zeros(selection.total, dtype=torch.bool)
        kept[selection.indices.cpu()] = True
        keep[row, columns[kept]] = True
        if selection.mixing is not None:
            merged.append(_Mixed(row, columns[kept], columns, selection.mixing))
        if selection.aggregated:
            merged.append(_Merged(row, _middle(columns[~kept]), columns, kept, selection.weights))
            keep[row, merged[-1].columns] = True
    counts = keep.sum(dim=1, keepdim=True)
    width = int(counts.max())
    stays = keep | (~keep & ((~keep).cumsum(dim=1) <= width - counts))
    columns = stays.nonzero()[:, 1].view(len(keep), width)
    valid = keep.gather(1, columns)
    gone = torch.nn.functional.pad((real & ~keep).long().cumsum(dim=1), (1, 0))
    return LayerLayout(columns, valid, not bool(valid.all()), places.shape[1], tuple(merged), gone)


def _middle(columns: Tensor) -> int:
    return int(columns[len(columns) // 2])


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
