"""Cached chat: what a key-value cache holds of a conversation's earlier turns, and how much of it a later prompt can use.

A later question may want other tokens of an earlier picture. The prompt is therefore planned anew from the whole conversation;
what its first columns have in common with the cache is used again, and only the rest is run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from trimkit.errors import InputError
from trimkit.integrations._media import Item, Seen, in_order
from trimkit.integrations._questions import Asked
from trimkit.types import ImageTokens

__all__ = ["Chats", "Fed", "Held", "Pictures", "only_new", "reuse", "with_earlier"]


@dataclass(frozen=True)
class Pictures:
    """The images and videos of a batch of prompts (medium, batch row, tokens), and what was asked of each that is ranked."""

    images: tuple[tuple[str, int, ImageTokens], ...] = ()
    asked: tuple[tuple[int, Asked], ...] = ()

    @classmethod
    def of(cls, seen: Sequence[Seen], items: Sequence[Item], asked: Sequence[Asked]) -> Pictures:
        """Of what was seen in a call."""
        placed = [(item.family.medium, item.row, replace(item.image, views=())) for item in in_order(seen)]
        return cls(tuple(placed), tuple((item.row, each) for item, each in zip(items, asked, strict=True)))

    def of_medium(self, medium: str) -> list[tuple[int, ImageTokens]]:
        """Rows and tokens of all images, or all videos."""
        return [(row, image) for kind, row, image in self.images if kind == medium]

    def asked_of(self, row: int) -> list[Asked]:
        """What was asked of each that is ranked in batch row ``row``."""
        return [asked for at, asked in self.asked if at == row]


@dataclass(frozen=True)
class Fed:
    """What stands at the placeholders of a shortened prompt.

    Attributes:
        places: ``[B, L']`` bool, the placeholders.
        features: ``[k, D]`` language-model inputs there, in order.
        lengths, names: tokens of each image or video, in order, and its entry of ``mm_encoder_outputs``.
    """

    places: Tensor
    features: Tensor
    lengths: tuple[int, ...]
    names: tuple[str, ...]

    @classmethod
    def of(cls, places: Tensor, encoded: dict[str, Any], names: Sequence[str]) -> Fed:
        """From ``mm_encoder_outputs`` and the entry that each image or video went to."""
        left = {name: iter(output.pooler_output) for name, output in encoded.items()}
        features = [next(left[name]) for name in names]
        joined = torch.cat(features) if features else torch.empty(0, 0, device=places.device)
        return cls(places, joined, tuple(map(len, features)), tuple(names))


@dataclass(frozen=True)
class Held:
    """What a cache holds.

    Attributes:
        ids, mask: ``[B, n]`` shortened prompts with what was generated, column by column of the cache.
        fed: what the placeholders among them stand for (as wide as the prompts).
        pictures: the images behind them.
    """

    ids: Tensor
    mask: Tensor
    fed: Fed
    pictures: Pictures


class Chats:
    """Remembers, for every cache that ``generate`` has filled here, what it holds; forgets with the cache."""

    def __init__(self) -> None:
        self._held: WeakKeyDictionary[Any, Held] = WeakKeyDictionary()

    def take(self, cache: Any) -> Held | None:
        """What ``cache`` holds, or None where it is empty, or was filled by others since.

        Forgotten here: a call is about to change the cache, and should it fail, what is in there is unknown.
        """
        held = None if cache is None else self._held.pop(cache, None)
        return held if held is not None and int(cache.get_seq_length()) == held.ids.shape[1] else None

    @contextlib.contextmanager
    def untouched(self, cache: Any, held: Held | None) -> Iterator[None]:
        """What is done to ``cache`` has not begun: an error within leaves it usable."""
        try:
            yield
        except BaseException:
            if held is not None:
                self._held[cache] = held
            raise

    @contextlib.contextmanager
    def emptied(self, cache: Any, held: Held | None) -> Iterator[None]:
        """What fails within may have emptied ``cache``: its pictures are not forgotten, and the turn can be asked again."""
        try:
            yield
        except BaseException:
            if held is not None and int(cache.get_seq_length()) == 0:
                none = held.ids[:, :0]
                self._held[cache] = replace(held, ids=none, mask=none, fed=Fed.of(none.bool(), {}, ()))
            raise

    def put(self, out: Any, given: Any, prompt: dict[str, Any], fed: Fed, pictures: Pictures) -> None:
        """Remember what a finished ``generate`` has left in its cache.

        Args:
            out: what it returned: sequences ``[B * n, L' + g]`` with the shortened prompt, or an output that has them.
            given: the cache it was called with, or None.
            prompt: the shortened inputs.
            fed, pictures: as in ``Held``.
        """
        cache = given if given is not None else getattr(out, "past_key_values", None)
        sequences = _sequences(out)
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
            torch.cat([ids, new], dim=1), torch.cat([mask, torch.ones_like(new)], dim=1), fed, pictures
        )

    def put_more(self, out: Any, prompt: dict[str, Any], held: Held) -> None:
        """The same after a call that gave only what is new, behind what was ``held``."""
        sequences = _sequences(out)
        if sequences is not None and len(sequences) == len(held.ids):
            whole = torch.cat([held.ids, prompt["input_ids"]], dim=1)
            after = torch.cat([held.ids, sequences.to(held.ids.device)], dim=1)
            given = {"input_ids": whole, "attention_mask": prompt["attention_mask"]}
            self.put(after, prompt["past_key_values"], given, held.fed, held.pictures)

    def put_text(self, out: Any, prompt: dict[str, Any], placeholders: Sequence[int]) -> None:
        """The same after a call without a picture."""
        ids = prompt.get("input_ids")
        if isinstance(ids, Tensor) and not any(bool((ids == token).any()) for token in placeholders):
            fed = Fed.of(torch.zeros_like(ids, dtype=torch.bool), {}, ())
            self.put(out, prompt.get("past_key_values"), prompt, fed, Pictures())


def _sequences(out: Any) -> Any:
    """``[B * n, L]`` of what ``generate`` has returned, or None."""
    return out if isinstance(out, Tensor) else getattr(out, "sequences", None)


def only_new(inputs: dict[str, Any]) -> bool:
    """Whether a turn gives its new tokens alone, as stock ``generate`` allows with a mask over the cache and them."""
    mask = inputs.get("attention_mask")
    return isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > inputs["input_ids"].shape[1]


def with_earlier(earlier: Pictures, seen: Seen) -> tuple[list[ImageTokens], list[bool], bool]:
    """All images (or videos) of a conversation, whether the caller passed every one again or the new ones alone.

    Args:
        earlier: those of the turns before.
        seen: those given now, and where their placeholders stand in the whole conversation.

    Returns:
        The images in order of their placeholders, which cost no encoding now, and whether any was taken from earlier turns.
    """
    counts = seen.places.sum(dim=1).tolist()
    if sum(map(len, seen.images)) == sum(counts):
        return seen.images, seen.cached, False
    merged, new = [], list(zip(seen.images, seen.cached, strict=True))
    for row, count in enumerate(counts):
        mine = [(image, True) for at, image in earlier.of_medium(seen.family.medium) if at == row]
        left = count - sum(len(image) for image, _ in mine)
        while left > 0 and new:
            mine.append(new.pop(0))
            left -= len(mine[-1][0])
        merged += mine
    merged += new
    return [image for image, _ in merged], [cached for _, cached in merged], True


def reuse(held: Held, cache: Any, prompt: dict[str, Any], fed: Fed, *, allowed: bool, one_a_row: bool) -> int:
    """Cut ``cache`` back to the columns that it has in common with ``prompt``, and the images to those after them.

    The cut never falls into an image, whose tokens may see each other both ways.

    Args:
        held: what ``cache`` holds.
        cache: the cache; changed.
        prompt: shortened inputs of the whole conversation; ``mm_encoder_outputs`` in it are changed.
        fed: what stands at its placeholders.
        allowed: false to use nothing again.
        one_a_row: false where beams or several sequences multiply the rows.

    Returns:
        Columns used again.

    Raises:
        InputError: the cache cannot serve as many sequences.
    """
    again = allowed and one_a_row
    common = _rewind(cache, _common(held, prompt, fed) if again else 0)
    if not one_a_row and any(getattr(layer, "is_initialized", False) for layer in getattr(cache, "layers", ())):
        raise InputError("several sequences a row do not fit a cache of one a row: pass a new one for this turn")
    if common:
        _drop_images(prompt, fed, common)
    return common


def _common(held: Held, prompt: dict[str, Any], fed: Fed) -> int:
    ids, mask = prompt["input_ids"], prompt.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if len(ids) != len(held.ids):
        return 0
    width = min(held.ids.shape[1], ids.shape[1] - 1)  # one column at least is run, for its logits
    cut = slice(0, width)
    before = torch.nn.functional.pad(held.fed.places, (0, held.ids.shape[1] - held.fed.places.shape[1]))
    same = (held.ids[:, cut] == ids[:, cut]) & (held.mask[:, cut] == mask[:, cut])
    same &= before[:, cut] == fed.places[:, cut]
    image = same & fed.places[:, cut]
    if bool(image.any()):
        old, new = (_numbers(each)[:, cut][image] for each in (before, fed.places))
        same[image] = (held.fed.features[old] == fed.features[new]).all(dim=-1)
    differs = (~same).any(dim=0).nonzero()
    common = int(differs[0]) if len(differs) else width
    inside = fed.places
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


def _drop_images(prompt: dict[str, Any], fed: Fed, common: int) -> None:
    """Leave only images that stand behind the first ``common`` columns."""
    behind = torch.zeros(len(fed.features), dtype=torch.bool, device=fed.places.device)
    behind[_numbers(fed.places)[:, common:][fed.places[:, common:]]] = True
    wanted = [bool(part.any()) for part in torch.split(behind, list(fed.lengths))]
    outputs = prompt.get("mm_encoder_outputs") or {}
    for name in set(fed.names):
        flags = [want for want, at in zip(wanted, fed.names, strict=True) if at == name]
        outputs[name] = _picked(outputs[name], flags)
        if not any(flags):
            outputs.pop(name)


def _picked(output: Any, wanted: Sequence[bool]) -> Any:
    def pick(images: Any) -> list[Tensor]:
        return [image for image, want in zip(images, wanted, strict=True) if want]

    deeper = output.deepstack_features
    return type(output)(
        pooler_output=pick(output.pooler_output),
        deepstack_features=None if deeper is None else [pick(each) for each in deeper],
    )
