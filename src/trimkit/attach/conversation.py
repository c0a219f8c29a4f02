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

from trimkit.attach.cache_argument import cache_of, cache_of_output
from trimkit.errors import InputError
from trimkit.pipeline.media import EarlierMedia
from trimkit.pipeline.reduced_inputs import ReducedInputs

__all__ = ["CacheState", "ConversationMemory", "PlaceholderFeatures", "left_cache", "only_new", "reuse"]


@dataclass(frozen=True)
class PlaceholderFeatures:
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
    def of(cls, reduced: ReducedInputs) -> PlaceholderFeatures:
        """Of a reduced prompt."""
        places, features = reduced.placeholders, reduced.embeddings
        joined = torch.cat(list(features)) if features else torch.empty(0, 0, device=places.device)
        names = tuple(item.family.handed_as() for item in reduced.items)
        return cls(places, joined, tuple(map(len, features)), names)

    @classmethod
    def none(cls, places: Tensor) -> PlaceholderFeatures:
        """Of prompts without a picture; ``places`` is all false."""
        return cls(places, torch.empty(0, 0, device=places.device), (), ())


@dataclass(frozen=True)
class CacheState:
    """What a cache holds.

    Attributes:
        ids, mask: ``[B, n]`` shortened prompts with what was generated, column by column of the cache.
        placed: what the placeholders among them stand for (as wide as the prompts).
        media: the images behind them.
    """

    ids: Tensor
    mask: Tensor
    placed: PlaceholderFeatures
    media: EarlierMedia


class ConversationMemory:
    """Remembers, for every cache that ``generate`` has filled here, what it holds; forgets with the cache."""

    def __init__(self) -> None:
        self._states: WeakKeyDictionary[Any, CacheState] = WeakKeyDictionary()

    def take(self, cache: Any) -> CacheState | None:
        """What ``cache`` holds, or None where it is empty, or was filled by others since.

        Forgotten here: a call is about to change the cache, and should it fail, what is in there is unknown.
        """
        state = None if cache is None else self._states.pop(cache, None)
        return state if state is not None and int(cache.get_seq_length()) == state.ids.shape[1] else None

    @contextlib.contextmanager
    def untouched(self, cache: Any, state: CacheState | None) -> Iterator[None]:
        """What is done to ``cache`` has not begun: an error within leaves it usable."""
        try:
            yield
        except BaseException:
            if state is not None:
                self._states[cache] = state
            raise

    @contextlib.contextmanager
    def emptied(self, cache: Any, state: CacheState | None) -> Iterator[None]:
        """What fails within may have emptied ``cache``: its pictures are not forgotten, and the turn can be asked again."""
        try:
            yield
        except BaseException:
            if state is not None and int(cache.get_seq_length()) == 0:
                none = state.ids[:, :0]
                self._states[cache] = replace(state, ids=none, mask=none, placed=PlaceholderFeatures.none(none.bool()))
            raise

    def put(
        self, out: Any, given: Any, prompt: dict[str, Any], placed: PlaceholderFeatures, media: EarlierMedia
    ) -> None:
        """Remember what a finished ``generate`` has left in its cache.

        Args:
            out: what it returned: sequences ``[B * n, L' + g]`` with the shortened prompt, or an output that has them.
            given: the cache it was called with, or None.
            prompt: the shortened inputs.
            placed, media: as in ``CacheState``.
        """
        cache = left_cache(out, given)
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
        self._states[cache] = CacheState(
            torch.cat([ids, new], dim=1), torch.cat([mask, torch.ones_like(new)], dim=1), placed, media
        )

    def put_more(self, out: Any, prompt: dict[str, Any], state: CacheState) -> None:
        """The same after a call that gave only what is new, behind ``state``."""
        sequences = _sequences(out)
        if sequences is not None and len(sequences) == len(state.ids):
            whole = torch.cat([state.ids, prompt["input_ids"]], dim=1)
            after = torch.cat([state.ids, sequences.to(state.ids.device)], dim=1)
            given = {"input_ids": whole, "attention_mask": prompt["attention_mask"]}
            self.put(after, cache_of(prompt), given, state.placed, state.media)

    def put_text(self, out: Any, prompt: dict[str, Any], placeholders: Sequence[int]) -> None:
        """The same after a call without a picture."""
        ids = prompt.get("input_ids")
        if isinstance(ids, Tensor) and not any(bool((ids == token).any()) for token in placeholders):
            placed = PlaceholderFeatures.none(torch.zeros_like(ids, dtype=torch.bool))
            self.put(out, cache_of(prompt), prompt, placed, EarlierMedia())


def _sequences(out: Any) -> Any:
    """``[B * n, L]`` of what ``generate`` has returned, or None."""
    return out if isinstance(out, Tensor) else getattr(out, "sequences", None)


def left_cache(out: Any, given: Any) -> Any:
    """The cache that ``generate`` has filled, its own or the ``given`` one, as far as the caller has it; else None."""
    return given if given is not None else cache_of_output(out)


def only_new(inputs: dict[str, Any]) -> bool:
    """Whether a turn gives its new tokens alone, as stock ``generate`` allows with a mask over the cache and them."""
    mask = inputs.get("attention_mask")
    return isinstance(mask, Tensor) and mask.ndim == 2 and mask.shape[1] > inputs["input_ids"].shape[1]


def reuse(
    state: CacheState,
    cache: Any,
    prompt: dict[str, Any],
    placed: PlaceholderFeatures,
    *,
    allowed: bool,
    one_a_row: bool,
) -> int:
    """Cut ``cache`` back to the columns that it has in common with ``prompt``, and the images to those after them.

    The cut never falls into an image, whose tokens may see each other both ways.

    Args:
        state: what ``cache`` holds.
        cache: the cache; changed.
        prompt: shortened inputs of the whole conversation; ``mm_encoder_outputs`` in it are changed.
        placed: what stands at its placeholders.
        allowed: false to use nothing again.
        one_a_row: false where beams or several sequences multiply the rows.

    Returns:
        Columns used again.

    Raises:
        InputError: the cache cannot serve as many sequences.
    """
    again = allowed and one_a_row
    common = _rewind(cache, _common(state, prompt, placed) if again else 0)
    if not one_a_row and any(getattr(layer, "is_initialized", False) for layer in getattr(cache, "layers", ())):
        raise InputError("several sequences a row do not fit a cache of one a row: pass a new one for this turn")
    if common:
        _drop_images(prompt, placed, common)
    return common


def _common(state: CacheState, prompt: dict[str, Any], placed: PlaceholderFeatures) -> int:
    ids, mask = prompt["input_ids"], prompt.get("attention_mask")
    mask = torch.ones_like(ids) if mask is None else mask
    if len(ids) != len(state.ids):
        return 0
    width = min(state.ids.shape[1], ids.shape[1] - 1)  # one column at least is run, for its logits
    cut = slice(0, width)
    before = torch.nn.functional.pad(state.placed.places, (0, state.ids.shape[1] - state.placed.places.shape[1]))
    same = (state.ids[:, cut] == ids[:, cut]) & (state.mask[:, cut] == mask[:, cut])
    same &= before[:, cut] == placed.places[:, cut]
    image = same & placed.places[:, cut]
    if bool(image.any()):
        old, new = (_numbers(each)[:, cut][image] for each in (before, placed.places))
        same[image] = (state.placed.features[old] == placed.features[new]).all(dim=-1)
    differs = (~same).any(dim=0).nonzero()
    common = int(differs[0]) if len(differs) else width
    places = placed.places
    while common and bool((places[:, common - 1] & places[:, common]).any()):
        common -= 1
    return common


def _numbers(placeholders: Tensor) -> Tensor:
    """``[B, L]``: which placeholder of the batch each is."""
    return placeholders.flatten().cumsum(0).view_as(placeholders) - 1


def _rewind(cache: Any, length: int) -> int:
    """Keep the first ``length`` columns, or none where the cache cannot; returns how many are left."""
    if length == int(cache.get_seq_length()):
        return length
    if length and getattr(cache, "is_croppable", True):  # some that cannot be cut do not say so when they are
        with contextlib.suppress(AttributeError, NotImplementedError, RuntimeError, ValueError):
            cache.crop(length - int(cache.get_seq_length()))
            if int(cache.get_seq_length()) == length:
                return length
    cache.reset()  # static and recurrent caches, and windows that have slid, cannot be cut
    if int(cache.get_seq_length()):  # what older versions leave
        cache.crop(-int(cache.get_seq_length()))
    return 0


def _drop_images(prompt: dict[str, Any], placed: PlaceholderFeatures, common: int) -> None:
    """Leave only images that stand behind the first ``common`` columns."""
    behind = torch.zeros(len(placed.features), dtype=torch.bool, device=placed.places.device)
    behind[_numbers(placed.places)[:, common:][placed.places[:, common:]]] = True
    wanted = [bool(part.any()) for part in torch.split(behind, list(placed.lengths))]
    outputs = prompt.get("mm_encoder_outputs") or {}
    for name in set(placed.names):
        flags = [want for want, at in zip(wanted, placed.names, strict=True) if at == name]
        outputs[name] = _picked(outputs[name], flags)
        if not any(flags):
            outputs.pop(name)


def _picked(output: Any, wanted: Sequence[bool]) -> Any:
    def pick(images: Any) -> list[Tensor]:
        return [image for image, want in zip(images, wanted, strict=True) if want]

    deeper = output.deepstack_features
    return replace(
        output,
        pooler_output=pick(output.pooler_output),
        deepstack_features=None if deeper is None else [pick(each) for each in deeper],
    )
