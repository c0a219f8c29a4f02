"""Cut image placeholders out of a token batch, and carry everything that runs along the sequence with them.

Pure bookkeeping on ids and masks; with ``prompt_columns``, the only code that knows how a shortened sequence is laid out. A
layout is one tensor: ``sources[b, i]`` is the original column of new column i of row b, or -1 where it is padding. It is made
when something first needs it: ids and mask follow from what the host knows, where an image's tokens stand side by side.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trimkit.core.prompt_columns import (
    Flags,
    KnownColumns,
    Side,
    counts_by_row,
    kept_in_order,
    known_columns,
    real_span,
    rows_of_counts,
)
from trimkit.core.transfer import upload
from trimkit.core.types import Selection
from trimkit.errors import UnsupportedError

__all__ = ["PromptLayout", "Side", "check_mask", "pad_left", "plan_prompt"]

_OWN_RULE = frozenset({"input_ids", "attention_mask", "position_ids", "shift_labels"})


@dataclass(frozen=True)
class PromptLayout:
    """How a ``[B, L]`` batch becomes ``[B, L']``.

    Attributes:
        plan: gives ``sources``.
        length: L', columns after.
        identity: every token stays in its place, so that nothing need be touched.
        known: what the host knows of it, or None.
    """

    plan: Callable[[], Tensor]
    length: int
    identity: bool
    known: KnownColumns | None = None

    @cached_property
    def sources(self) -> Tensor:
        """``[B, L']`` int64, -1 on padding."""
        return self.plan()

    def __getstate__(self) -> dict[str, Any]:
        """For a pickle: the sources in place of what makes them."""
        return {**vars(self), "plan": None, "sources": self.sources}

    def padded_to(self, length: int, side: Side) -> PromptLayout:
        """The same tokens in ``length`` columns, with padding on ``side``; as it is where it has that many or more."""
        missing = length - self.length
        if missing <= 0:
            return self
        where = (missing, 0) if side == "left" else (0, missing)
        known = None if self.known is None else self.known.padded_to(length, side)
        return PromptLayout(lambda: torch.nn.functional.pad(self.sources, where, value=-1), length, False, known)

    def take(self, tensor: Tensor, fill: int) -> Tensor:
        """Gather the last dimension of ``[B, L]`` or ``[axes, B, L]`` through the plan; ``fill`` on padding."""
        sources = self.sources.to(tensor.device)
        index = sources.clamp(min=0).expand(*tensor.shape[:-1], -1)
        return tensor.gather(-1, index).masked_fill(sources.expand_as(index) < 0, fill)

    def places(self, placeholders: Tensor, device: torch.device) -> Tensor:
        """``[B, L']`` bool on ``device``: where image tokens stand that stood at ``placeholders`` ``[B, L]``, on the host."""
        if self.identity:
            return placeholders.bool().to(device, non_blocking=True)
        known = None if self.known is None else self.known.take(placeholders.bool().numpy(), 0)
        if known is not None:
            return upload(known, device)
        return self.take(placeholders.to(device, non_blocking=True), 0).bool()

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

    def apply(self, inputs: dict[str, Any], pad_token_id: int, host: dict[str, Any] | None = None) -> dict[str, Any]:
        """A copy of ``inputs`` with ids, mask, labels and all else with one entry a column (token types, weights) shortened.

        Args:
            inputs: of the model.
            pad_token_id: the id on padding.
            host: the same ids and mask on the host, where they are there.

        Raises:
            UnsupportedError: a mask that is not 2-D, or packed position ids.
        """
        if self.identity:
            return dict(inputs)
        out = dict(inputs)
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        check_mask(mask)
        out["input_ids"], out["attention_mask"] = self._ids_and_mask(ids, mask, pad_token_id, host or {})
        for name, value in inputs.items():
            if isinstance(value, Tensor) and value.shape == ids.shape and name not in _OWN_RULE:
                out[name] = self.take(value, -100 if name == "labels" else 0)
        if inputs.get("shift_labels") is not None:
            out["shift_labels"] = self._shift_labels(inputs["shift_labels"])
        position_ids = out.pop("position_ids", None)
        if position_ids is not None and position_ids.ndim == 2:
            _refuse_packed(position_ids, mask)
        return out

    def _ids_and_mask(self, ids: Tensor, mask: Tensor | None, pad: int, host: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Both shortened: on the host, and brought to the device in one, where they follow from what is known there."""
        given, real = (_on_host(host.get(name), ids) for name in ("input_ids", "attention_mask"))
        real = np.ones_like(given) if mask is None and given is not None else real
        if self.known is not None and given is not None and real is not None:
            new, still_real = self.known.take(given, pad), self.known.take(real, 0)
            if new is not None and still_real is not None:
                if new.dtype != still_real.dtype:
                    return upload(new, ids.device), upload(still_real, ids.device)
                both = upload([new, still_real], ids.device)
                return both[0], both[1]
        return self.take(ids, pad), self.take(torch.ones_like(ids) if mask is None else mask, 0)

    def _shift_labels(self, labels: Tensor) -> Tensor:
        """Labels that stand where they are predicted, one column before their token: each meets the column now before it."""
        sources = self.sources.to(labels.device)
        following = torch.cat([sources[:, 1:] - 1, sources[:, -1:]], dim=1)
        stays = (sources >= 0) & (following >= 0)
        last = torch.ones_like(sources, dtype=torch.bool)
        last[:, :-1] = sources[:, 1:] < 0  # padding follows, or nothing
        index = torch.where(last, sources, following).clamp(min=0)
        return labels.gather(1, index).masked_fill(~(stays | (last & (sources >= 0))), -100)


def _on_host(value: Any, ids: Tensor) -> NDArray[Any] | None:
    """What is on the host, and as large as ``ids``."""
    there = isinstance(value, Tensor) and value.device.type == "cpu" and value.shape == ids.shape
    return value.detach().numpy() if there else None


def check_mask(mask: Any) -> None:
    """Refuse an attention mask that is not one entry a column.

    Raises:
        UnsupportedError: as it says.
    """
    if mask is not None and not (isinstance(mask, Tensor) and mask.ndim == 2):
        raise UnsupportedError("image tokens cannot be cut from a custom attention mask: pass a 2-D one")


def plan_prompt(
    input_ids: Tensor,
    attention_mask: Tensor | None,
    image_token_id: int,
    selections: Sequence[Selection],
    side: Side,
    *,
    keep_end: bool = False,
    multiple: int = 1,
    device: torch.device | None = None,
) -> PromptLayout:
    """Plan which columns stay.

    The host waits for the ids and the mask, unless they are on it already, but not for what was selected.

    Kept tokens stay in order, or come in the selection's, in the columns that they have among them; each brings its own
    position. The aggregated token follows the last kept one of its image and takes the place of the middle one of those it
    stands for; the class token comes before the first, in the place of the first that is dropped. Padding at either end is
    stripped, then rows are padded anew on ``side``.

    Args:
        input_ids, attention_mask: ``[B, L]``; for ids, bool may say where the images are.
        selections: one an image, in order of the placeholders.
        side: where padding goes.
        keep_end: with ``side="left"``, leave padding behind a row's text where it is, so that the last columns of all rows
            stay the last ones.
        multiple: of which the new length is to be one, by padding, where the full length leaves room: pictures of many
            lengths then meet a compiled model in few.
        device: where the layout is to be; by default, where the ids are.
    """
    to_end = keep_end and side == "left"
    width, device = input_ids.shape[1], input_ids.device if device is None else device
    if all(selection.keeps_all for selection in selections):
        batch = input_ids.shape[0]
        return PromptLayout(lambda: torch.arange(width, device=device).expand(batch, -1), width, identity=True)
    at = input_ids if input_ids.dtype == torch.bool else input_ids == image_token_id
    placeholders: Flags = at.cpu().numpy()
    rows = rows_of_counts(counts_by_row(placeholders), [selection.total for selection in selections], "image")
    text, real = ~placeholders, None if attention_mask is None else attention_mask.cpu().numpy() != 0
    if real is not None and not real.all():
        text &= real_span(real, to_end)
    stay = counts_by_row(text)
    for row, selection in zip(rows, selections, strict=True):
        stay[row] += len(selection)
    length = max(stay)
    length = max(length, min(-(-length // multiple) * multiple, width))

    def sources() -> Tensor:
        lengths = np.array(stay)
        # Column i of a row is the row's first kept column and i more, where no padding is.
        starts = np.cumsum(lengths) - lengths - (length - lengths if side == "left" else 0)
        places = starts[:, None] + np.arange(length)
        first = (np.cumsum(lengths) - lengths)[:, None]
        padded = (places < first) | (places >= first + lengths[:, None])
        order = kept_in_order(text, placeholders, selections, device)
        found = order.index_select(0, upload(np.where(padded, 0, places).ravel(), device)) % width
        return found.masked_fill(upload(padded.ravel(), device), -1).view(places.shape)

    known = known_columns(text, placeholders, selections, stay, (length, side))
    return PromptLayout(sources, length, False, known)


def pad_left(mask: Tensor) -> PromptLayout:
    """Plan to move all padding of ``mask`` ``[B, L]`` to the left, and nothing else."""

    def sources() -> Tensor:
        order = torch.argsort(mask.bool().long(), dim=1, stable=True)
        return order.masked_fill(~mask.bool().gather(1, order), -1)

    return PromptLayout(sources, mask.shape[1], identity=False)


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
