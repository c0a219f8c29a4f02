"""Cached chat: what a key-value cache holds of a conversation's earlier turns, and how much of it a later prompt can use.

A later question may want other tokens of an earlier picture. The prompt is therefore planned anew from the whole conversation;
what its first columns have in common with the cache is used again, and only the rest is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from trimkit.errors import InputError
from trimkit.integrations._questions import Asked
from trimkit.models._output import EncodedImages
from trimkit.types import ImageTokens

__all__ = ["Chats", "Held", "Pictures", "reuse", "with_earlier"]


@dataclass(frozen=True)
class Pictures:
    """The images of a batch of prompts, in order of their placeholders: tokens, batch rows, and what was asked of each."""

    images: tuple[ImageTokens, ...] = ()
    rows: tuple[int, ...] = ()
    asked: tuple[Asked, ...] = ()

    def of_row(self, row: int) -> list[int]:
        """Which images stand in batch row ``row``."""
        return [i for i, at in enumerate(self.rows) if at == row]


@dataclass(frozen=True)
class Held:
    """What a cache holds.

    Attributes:
        ids, mask: ``[B, n]`` shortened prompts with what was generated, column by column of the cache.
        features: ``[k, D]`` language-model inputs at the placeholders in ``ids``, in their order.
        pictures: the images behind them.
    """

    ids: Tensor
    mask: Tensor
    features: Tensor
    pictures: Pictures


class Chats:
    """Remembers, for every cache that ``generate`` has filled here, what it holds; forgets with the cache."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()

    def get(self, cache: Any) -> Held | None:
        """What ``cache`` holds, or None where it is empty, or was filled by others since."""
        held = None if cache is None else self._held.get(cache)
        return held if held is not None and int(cache.get_seq_length()) == held.ids.shape[1] else None

    def forget(self, cache: Any) -> None:
        """A call is about to change ``cache``: should it fail, what is in there is unknown."""
        if cache is not None:
            self._held.pop(cache, None)

    def put(self, out: Any, given: Any, prompt: dict[str, Any], features: Tensor, pictures: Pictures) -> None:
        """Remember what a finished ``generate`` has left in its cache.

        Args:
            out: what it returned: sequences ``[B * n, L' + g]`` with the shortened prompt, or an output that has them.
            given: the cache it was called with, or None.
            prompt: the shortened inputs.
            features, pictures: as in ``Held``.
        """
        cache = given if given is not None else getattr(out, "past_key_values", None)
        sequences = out if isinstance(out, Tensor) else getattr(out, "sequences", None)
        ids = prompt["input_ids"]
        if cache is None or sequences is None or not hasattr(cache, "get_seq_length") or len(sequences) != len(ids):
            return
        length = int(cache.get_seq_length())
        if not ids.shape[1] <= length <= sequences.shape[1]:
            return
        new = sequences[:, ids.shape[1] : length].to(ids.device)
        mask = prompt.get("attention_mask")
        mask = torch.ones_like(ids) if mask is None else mask.long()
        self._held[cache] = Held(
            torch.cat([ids, new], dim=1), torch.cat([mask, torch.ones_like(new)], dim=1), features, pictures
        )


def with_earlier(
    earlier: Pictures, images: Sequence[ImageTokens], counts: Sequence[int]
) -> tuple[list[ImageTokens], int]:
    """All images of a conversation, whether the caller passed every picture again or the new ones alone.

    Args:
        earlier: the images of the turns before.
        images: those given now.
        counts: placeholders in each row of the whole conversation.

    Returns:
        The images in order of their placeholders, and how many were taken from earlier turns.
    """
    if sum(map(len, images)) == sum(counts):
        return list(images), 0
    merged, new = [], list(images)
    for row, count in enumerate(counts):
        mine = [earlier.images[i] for i in earlier.of_row(row)]
        left = count - sum(map(len, mine))
        while left > 0 and new:
            mine.append(new.pop(0))
            left -= len(mine[-1])
        merged += mine
    return [*merged, *new], len(earlier.images)


def reuse(
    held: Held,
    cache: Any,
    prompt: dict[str, Any],
    features: Tensor,
    image_token_id: int,
    *,
    allowed: bool,
    one_a_row: bool,
) -> int:
    """Cut ``cache`` back to the columns that it has in common with ``prompt``, and the images to those after them.

    The cut never falls into an image, whose tokens may see each other both ways.

    Args:
        held: what ``cache`` holds.
        cache: the cache; changed.
        prompt: shortened inputs of the whole conversation; ``mm_encoder_outputs`` in it are changed.
        features: as in ``Held``, of ``prompt``.
        image_token_id: the placeholder.
        allowed: false to use nothing again.
        one_a_row: false where beams or several sequences multiply the rows.

    Returns:
        Columns used again.

    Raises:
        InputError: the cache cannot serve as many sequences.
    """
    again = allowed and one_a_row
    common = _rewind(cache, _common(held, prompt, features, image_token_id) if again else 0)
    if not one_a_row and any(getattr(layer, "is_initialized", False) for layer in getattr(cache, "layers", ())):
        raise InputError("several sequences a row do not fit a cache of one a row: pass a new one for this turn")
    if common:
        _drop_images(prompt, features, image_token_id, common)
    return common


def _common(held: Held, prompt: dict[str, Any], features: Tensor, image_token_id: int) -> int:
    ids, mask = prompt["input_ids"], prompt.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if len(ids) != len(held.ids):
        return 0
    width = min(held.ids.shape[1], ids.shape[1] - 1)  # one column at least is run, for its logits
    cut = slice(0, width)
    same = (held.ids[:, cut] == ids[:, cut]) & (held.mask[:, cut] == mask[:, cut])
    image = same & (ids[:, cut] == image_token_id)
    if bool(image.any()):
        old, new = (_numbers(each == image_token_id)[:, cut][image] for each in (held.ids, ids))
        same[image] = (held.features[old] == features[new]).all(dim=-1)
    differs = (~same).any(dim=0).nonzero()
    common = int(differs[0]) if len(differs) else width
    inside = ids == image_token_id
    while common and bool((inside[:, common - 1] & inside[:, common]).any()):
        common -= 1
    return common


def _numbers(placeholders: Tensor) -> Tensor:
    """``[B, L]``: which placeholder of the batch each is."""
    return placeholders.flatten().cumsum(0).view_as(placeholders) - 1


def _rewind(cache: Any, length: int) -> int:
    """Keep the first ``length`` columns, or none where the cache cannot; returns how many are left."""
    if length == int(cache.get_seq_length()):
        return length
    if length:
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            cache.crop(length - int(cache.get_seq_length()))
            if int(cache.get_seq_length()) == length:
                return length
    cache.reset()  # static and recurrent caches, and windows that have slid, cannot be cut
    if int(cache.get_seq_length()):  # what older versions leave
        cache.crop(-int(cache.get_seq_length()))
    return 0


def _drop_images(prompt: dict[str, Any], features: Tensor, image_token_id: int, common: int) -> None:
    """Leave only images that stand behind the first ``common`` columns."""
    placeholders = prompt["input_ids"] == image_token_id
    fed = torch.zeros(len(features), dtype=torch.bool, device=placeholders.device)
    fed[_numbers(placeholders)[:, common:][placeholders[:, common:]]] = True
    output: EncodedImages = prompt["mm_encoder_outputs"]["image"]
    given: Any = output.pooler_output
    wanted = [bool(part.any()) for part in fed.split([len(image) for image in given])]
    if not any(wanted):
        prompt["mm_encoder_outputs"].pop("image")
        return

    def pick(images: Sequence[Tensor]) -> list[Tensor]:
        return [image for image, want in zip(images, wanted, strict=True) if want]

    deeper = output.deepstack_features
    prompt["mm_encoder_outputs"]["image"] = EncodedImages(
        pooler_output=pick(given),  # type: ignore[arg-type]
        deepstack_features=None if deeper is None else [pick(each) for each in deeper],
    )
