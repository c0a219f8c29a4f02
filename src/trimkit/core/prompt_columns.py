"""Which columns of a prompt stay, in their order: by a sort on the device, or on the host alone where no choice changes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimkit.core.transfer import beside, upload
from trimkit.core.types import Selection
from trimkit.errors import InputError

__all__ = [
    "Flags",
    "KnownColumns",
    "Side",
    "counts_by_row",
    "kept_in_order",
    "known_columns",
    "real_span",
    "rows_of_counts",
]

Side = Literal["left", "right"]
Flags = NDArray[np.bool_]
Columns = NDArray[np.int64]


def counts_by_row(flags: Flags) -> list[int]:
    """How many are true in each row."""
    # Row by row: for a single one that takes a fraction of what a sum along an axis does.
    return [int(np.count_nonzero(row)) for row in flags]


def rows_of_counts(counts: Sequence[int], totals: Sequence[int], medium: str) -> list[int]:
    """Batch row of every image, from the placeholders of each row.

    Raises:
        InputError: the counts do not add up row by row.
    """
    rows, row, left = [], 0, counts[0] if counts else 0
    for total in totals:
        while left == 0 and row + 1 < len(counts):
            row += 1
            left = counts[row]
        if total > left:
            break
        left -= total
        rows.append(row)
    if len(rows) != len(totals) or sum(counts) != sum(totals):
        raise InputError(
            f"the prompts hold {sum(counts)} {medium} placeholders (per row: {counts}) but the {medium}s give {sum(totals)} "
            f"tokens ({len(totals)} {medium}s): put one {medium} placeholder per {medium} into the prompt, via the processor"
        )
    return rows


@dataclass(frozen=True)
class KnownColumns:
    """A shortened prompt as the host knows it before it knows what was chosen: any column of an image serves as any other.

    Attributes:
        columns: ``[B, L']`` the original column in the flattened batch, the first one of its image for an image's tokens; -1 on
            padding.
        images: ``[m]`` all placeholders, in the flattened batch.
        first: ``[m]`` the first one of each one's image.
    """

    columns: Columns
    images: Columns
    first: Columns

    def take(self, values: NDArray[Any], fill: int) -> NDArray[Any] | None:
        """``[B, L]`` values gathered; None where those of one image differ, so that it matters which of its tokens stay."""
        flat = values.reshape(-1)
        if (flat[self.images] != flat[self.first]).any():
            return None
        taken = flat[self.columns]
        taken[self.columns < 0] = fill
        return taken

    def padded_to(self, length: int, side: Side) -> KnownColumns:
        """The same with padding on ``side``, in ``length`` columns."""
        missing = length - self.columns.shape[1]
        where = (missing, 0) if side == "left" else (0, missing)
        return KnownColumns(np.pad(self.columns, ((0, 0), where), constant_values=-1), self.images, self.first)


def known_columns(
    text: Flags, placeholders: Flags, selections: Sequence[Selection], lengths: Sequence[int], new: tuple[int, Side]
) -> KnownColumns | None:
    """What the host knows of a plan, or None where text stands between the tokens of an image.

    Args:
        text, placeholders: ``[B, L]``, the text that stays, and all image tokens.
        selections: one an image, in order of the placeholders.
        lengths: columns of each row that stay.
        new: columns of the shortened prompt, and where its padding is.
    """
    images, words = np.flatnonzero(placeholders), np.flatnonzero(text)
    firsts, totals, pieces = list[int](), list[int](), list[Columns]()
    start = done = 0
    for each in selections:
        if each.total:
            first, start = int(images[start]), start + each.total
            at = int(words.searchsorted(first))
            if at != words.searchsorted(images[start - 1]):
                return None
            pieces += [words[done:at], np.full(len(each), first)]
            firsts.append(first)
            totals.append(each.total)
            done = at
    order = np.concatenate([*pieces, words[done:]])
    columns = np.full((len(text), new[0]), -1)
    start = 0
    for row, length in enumerate(lengths):
        at = new[0] - length if new[1] == "left" else 0
        columns[row, at : at + length] = order[start : start + length]
        start += length
    return KnownColumns(columns, images, np.repeat(firsts, totals).astype(np.int64))


def kept_in_order(text: Flags, placeholders: Flags, selections: Sequence[Selection], device: torch.device) -> Tensor:
    """``[n]`` int64, all columns that stay, row after row in their new order; column c of row b is ``b * L + c``."""
    counts = np.array([len(each.indices) for each in selections])
    totals = np.array([each.total for each in selections])
    offsets = np.cumsum(totals) - totals
    columns = upload(np.flatnonzero(placeholders), device)  # of all images, one after the other
    shift = upload(np.repeat(offsets, counts), device)
    chosen = torch.cat([beside(each.indices, device) for each in selections]) + shift
    slots = own = columns.index_select(0, chosen)
    if any(each.order is not None for each in selections):
        own = columns.index_select(0, torch.cat([beside(each.ordered, device) for each in selections]) + shift)
    words = upload(np.flatnonzero(text), device)
    # Sort keys: twice a column's number; a joined token's is just before the first or behind the last slot of its image.
    sources, keys = [words, own], [2 * words, 2 * slots]
    rest = torch.ones_like(columns).index_fill(0, chosen, 0).cumsum(0)  # dropped ones up to each column
    for joined, behind in (
        ([each.class_token for each in selections], 0),
        ([each.aggregated for each in selections], 1),
    ):
        extra = np.array(joined)
        if not extra.any():
            continue
        before, after = (_up_to(rest, offsets[extra] + part) for part in (0, totals[extra]))
        which = before + 1 + behind * ((after - before) // 2)  # the first of the dropped, or the one in the middle
        sources.append(columns.index_select(0, torch.searchsorted(rest, which)))
        # The end of what is kept, or the first column where nothing is.
        ends = np.cumsum(counts) - np.where(behind, 1, counts)
        ends = np.where(counts > 0, ends, len(chosen) + offsets)[extra]
        keys.append(2 * torch.cat([slots, columns]).index_select(0, upload(ends, device)) + (2 * behind - 1))
    return torch.cat(sources).index_select(0, torch.cat(keys).argsort(stable=True))


def _up_to(running: Tensor, places: NDArray[np.int64]) -> Tensor:
    """A running sum just before each place; 0 before the first."""
    found = running.index_select(0, upload(np.maximum(places - 1, 0), running.device))
    return found * upload((places > 0).astype(np.int64), running.device)


def real_span(real: Flags, to_end: bool) -> Flags:
    """``[B, L]`` bool: from a row's first unmasked column to its last; all of a row without one. With ``to_end`` to its end."""
    columns, some = np.arange(real.shape[1]), real.any(axis=1)
    start = np.where(some, real.argmax(axis=1), 0)[:, None]
    stop = np.where(some & (not to_end), real.shape[1] - real[:, ::-1].argmax(axis=1), real.shape[1])[:, None]
    found: Flags = (columns >= start) & (columns < stop)
    return found
