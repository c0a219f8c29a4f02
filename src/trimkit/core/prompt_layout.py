"""Cut image placeholders out of a token batch, and carry everything that runs along the sequence with them.

Pure bookkeeping on ids and masks; the only code that knows how a shortened sequence is laid out. A layout is one tensor:
``sources[b, i]`` is the original column of new column i of row b, or -1 where it is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from trimkit.core.types import Selection
from trimkit.errors import InputError, UnsupportedError

__all__ = ["PromptLayout", "check_mask", "image_rows", "pad_left", "plan_prompt"]

Side = Literal["left", "right"]

_OWN_RULE = frozenset({"input_ids", "attention_mask", "position_ids", "shift_labels"})


@dataclass(frozen=True)
class PromptLayout:
    """How a ``[B, L]`` batch becomes ``[B, L']``.

    Attributes:
        sources: ``[B, L']`` int64, -1 on padding.
        identity: every token stays in its place, so that nothing need be touched.
    """

    sources: Tensor
    identity: bool

    @property
    def length(self) -> int:
        """L', columns after."""
        return int(self.sources.shape[1])

    def padded_to(self, length: int, side: Side) -> PromptLayout:
        """The same tokens in ``length`` columns, with padding on ``side``; as it is where it has that many or more."""
        missing = length - self.length
        if missing <= 0:
            return self
        where = (missing, 0) if side == "left" else (0, missing)
        return PromptLayout(sources=torch.nn.functional.pad(self.sources, where, value=-1), identity=False)

    def take(self, tensor: Tensor, fill: int) -> Tensor:
        """Gather the last dimension of ``[B, L]`` or ``[axes, B, L]`` through the plan; ``fill`` on padding."""
        sources = self.sources.to(tensor.device)
        index = sources.clamp(min=0).expand(*tensor.shape[:-1], -1)
        return tensor.gather(-1, index).masked_fill(sources.expand_as(index) < 0, fill)

    def spread(self, logits: Tensor, is_image: Tensor) -> Tensor:
        """``[B, L', V]`` logits or hidden states to ``[B, L, V]``, so that uncut labels meet what was predicted for them.

        Args:
            logits: of the shortened sequence.
            is_image: ``[B, L]``, where the placeholders are. Such a column gets what was predicted for the next text.

        Returns:
            Logits of the full sequence; on padding, any.
        """
        sources, text = self.sources, ~is_image.to(self.sources.device)
        new = torch.arange(self.length, device=sources.device).expand_as(sources)
        stays = (sources >= 0) & text.gather(1, sources.clamp(min=0))
        place = torch.full((len(sources), text.shape[1] + 1), self.length, device=sources.device)
        place.scatter_(1, torch.where(stays, sources, text.shape[1]), torch.where(stays, new, self.length))
        following = place[:, :-1].flip(1).cummin(dim=1).values.flip(1)  # new place of the first text from here on
        at = torch.where(text, following, following - 1).clamp(0, self.length - 1).to(logits.device)
        return logits.gather(1, at.unsqueeze(-1).expand(-1, -1, logits.shape[-1]))

    def spread_output(self, out: Any, is_image: Tensor) -> Any:
        """A model's output with its logits, or else its last hidden states, ``spread``.

        Where a call asked for its last few logits alone, they stay as they are.

        Raises:
            UnsupportedError: the output is a tuple.
        """
        if self.identity:
            return out
        name = next((each for each in ("logits", "last_hidden_state") if getattr(out, each, None) is not None), None)
        if isinstance(out, tuple) or name is None:
            raise UnsupportedError("full_logits finds the logits by name: leave return_dict at its default")
        values = getattr(out, name)
        if values.shape[1] == self.length:
            setattr(out, name, self.spread(values, is_image))
        return out

    def apply(self, inputs: dict[str, Any], pad_token_id: int) -> dict[str, Any]:
        """A copy of ``inputs`` with ids, mask, labels and all else with one entry a column (token types, weights) shortened.

        Raises:
            UnsupportedError: a mask that is not 2-D, or packed position ids.
        """
        if self.identity:
            return dict(inputs)
        out = dict(inputs)
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        check_mask(mask)
        out["input_ids"] = self.take(ids, pad_token_id)
        out["attention_mask"] = self.take(torch.ones_like(ids) if mask is None else mask, 0)
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == ids.shape and name not in _OWN_RULE:
                out[name] = self.take(value, -100 if name == "labels" else 0)
        if inputs.get("shift_labels") is not None:
            out["shift_labels"] = self._shift_labels(inputs["shift_labels"])
        position_ids = out.pop("position_ids", None)
        if position_ids is not None and position_ids.ndim == 2:
            _refuse_packed(position_ids, mask)
        return out

    def _shift_labels(self, labels: Tensor) -> Tensor:
        """Labels that stand where they are predicted, one column before their token: each meets the column now before it."""
        sources = self.sources.to(labels.device)
        following = torch.cat([sources[:, 1:] - 1, sources[:, -1:]], dim=1)
        stays = (sources >= 0) & (following >= 0)
        last = torch.ones_like(sources, dtype=torch.bool)
        last[:, :-1] = sources[:, 1:] < 0  # padding follows, or nothing
        index = torch.where(last, sources, following).clamp(min=0)
        return labels.gather(1, index).masked_fill(~(stays | (last & (sources >= 0))), -100)


def check_mask(mask: Any) -> None:
    """Refuse an attention mask that is not one entry a column.

    Raises:
        UnsupportedError: as it says.
    """
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise UnsupportedError("image tokens cannot be cut from a custom attention mask: pass a 2-D one")


def image_rows(input_ids: Tensor, image_token_id: int, totals: Sequence[int], medium: str = "image") -> list[int]:
    """Batch row of every image, by placeholder counts.

    Args:
        input_ids: ``[B, L]``.
        totals: placeholders of each image, in order.
        medium: what they are called in a message.

    Raises:
        InputError: the counts do not add up row by row.
    """
    counts = (input_ids == image_token_id).sum(dim=1).tolist()
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


def plan_prompt(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_token_id: int,
    selections: Sequence[Selection],
    side: Side,
    *,
    keep_end: bool = False,
    multiple: int = 1,
) -> PromptLayout:
    """Plan which columns stay.

    Kept tokens stay in order; the aggregated token follows the last kept one of its image and takes the place of the
    middle one of those it stands for. Padding at either end is stripped, then rows are padded anew on ``side``.

    Args:
        input_ids, attention_mask: ``[B, L]``.
        selections: one an image, in order of the placeholders.
        side: where padding goes.
        keep_end: with ``side="left"``, leave padding behind a row's text where it is, so that the last columns of all rows
            stay the last ones.
        multiple: of which the new length is to be one, by padding, where the full length leaves room: pictures of many
            lengths then meet a compiled model in few.
    """
    width = input_ids.shape[1]
    if all(selection.keeps_all for selection in selections):
        columns = torch.arange(width, device=input_ids.device).expand(input_ids.shape[0], -1)
        return PromptLayout(sources=columns, identity=True)
    rows = image_rows(input_ids, image_token_id, [selection.total for selection in selections])
    ids, mask = input_ids.cpu(), None if attention_mask is None else attention_mask.cpu()
    sources = []
    for row in range(len(ids)):
        mine = [selection for selection, at in zip(selections, rows, strict=True) if at == row]
        start, stop = (0, width) if mask is None else _real_span(mask[row])
        stop = width if keep_end and side == "left" else stop
        sources.append(_row_sources(ids[row], image_token_id, mine, start, stop))
    length = max(len(row) for row in sources)
    length = max(length, min(-(-length // multiple) * multiple, width))
    return PromptLayout(sources=_pad(sources, side, length).to(input_ids.device), identity=False)


def pad_left(mask: Tensor) -> PromptLayout:
    """Plan to move all padding of ``mask`` ``[B, L]`` to the left, and nothing else."""
    order = torch.argsort(mask.bool().long(), dim=1, stable=True)
    return PromptLayout(order.masked_fill(~mask.bool().gather(1, order), -1), identity=False)


def _row_sources(ids: Tensor, image_token_id: int, selections: Sequence[Selection], start: int, stop: int) -> Tensor:
    """Kept columns of one row, in their new order."""
    placeholders = (ids == image_token_id).nonzero().squeeze(1)
    # Sort keys: a column's own number; an aggregated token's is just behind the last kept column of its image.
    keep = torch.zeros(len(ids), dtype=torch.bool)
    keep[start:stop] = True
    keep[placeholders] = False
    extra_at, extra_key, first = [], [], 0
    for selection in selections:
        columns = placeholders[first : first + selection.total]
        first += selection.total
        indices = selection.indices.cpu()
        keep[columns[indices]] = True
        if selection.aggregated:
            dropped = torch.ones(selection.total, dtype=torch.bool)
            dropped[indices] = False
            rest = columns[dropped]
            extra_at.append(int(rest[len(rest) // 2]))
            extra_key.append(float(columns[indices[-1]] if indices.numel() else columns[0]) + 0.5)
    columns = keep.nonzero().squeeze(1)
    keys = torch.cat([columns.double(), torch.tensor(extra_key, dtype=torch.float64)])
    return torch.cat([columns, torch.tensor(extra_at, dtype=torch.int64)])[keys.argsort(stable=True)]


def _real_span(mask: Tensor) -> tuple[int, int]:
    """First and last-plus-one unmasked column of ``[L]``."""
    real = mask.nonzero().squeeze(1)
    return (int(real[0]), int(real[-1]) + 1) if real.numel() else (0, len(mask))


def _pad(rows: Sequence[Tensor], side: Side, width: int) -> Tensor:
    out = torch.full((len(rows), width), -1, dtype=torch.int64)
    for target, row in zip(out, rows, strict=True):
        if side == "left":
            target[width - len(row) :] = row
        else:
            target[: len(row)] = row
    return out


def _refuse_packed(position_ids: Tensor, mask: Tensor | None) -> None:
    """Plain positions are simply renumbered; packed sequences cannot be told apart once they are."""
    plain = torch.arange(position_ids.shape[1], device=position_ids.device).expand_as(position_ids)
    if torch.equal(position_ids, plain):
        return
    if mask is not None:
        real = mask.bool()
        if torch.equal(position_ids[real], (mask.long().cumsum(-1) - 1)[real]):
            return
    raise UnsupportedError(
        "position_ids restart or have gaps (packed sequences): pass one sequence a row, without them"
    )
