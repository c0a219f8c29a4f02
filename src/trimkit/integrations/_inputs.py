"""What has to be known of a call's inputs besides its images: padding, and whether a filled cache fits them."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from trimkit.cache import FeatureCache
from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.integrations._answers import QueryFrom
from trimkit.methods import Method
from trimkit.models import Family
from trimkit.shrink import Side

__all__ = [
    "CallSettings",
    "Positions",
    "TurnPolicy",
    "by_name",
    "check_choice",
    "check_signals",
    "has_ids",
    "in_full_precision",
    "padding_id",
    "padding_side",
    "plain_positions",
    "refuse_cache",
]


TurnPolicy = Literal["refresh", "first", "union"]
Positions = Literal["auto", "contiguous", "original"]


@dataclass(frozen=True)
class CallSettings:
    """Options of ``trimkit.reduce`` that say how a call is reduced, beside the method's own.

    Raises:
        ConfigError: a number that cannot be, or an unknown choice.
    """

    cache_images: int | FeatureCache = 32
    turns: TurnPolicy = "refresh"
    positions: Positions = "auto"
    query_from: QueryFrom = "question"
    tower_keep: float | None = None
    tower_layer: int | None = None
    pad_to_multiple_of: int = 1

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        if isinstance(self.cache_images, int) and self.cache_images < 0:
            raise ConfigError(
                f"cache_images={self.cache_images} is negative: give the number of images to hold, 0 for none"
            )
        if self.pad_to_multiple_of < 1:
            raise ConfigError(
                f"pad_to_multiple_of={self.pad_to_multiple_of} is below 1: give for example 64, or 1 for no padding"
            )
        check_choice("positions", self.positions, Positions)

    def cache(self) -> FeatureCache:
        """The feature cache: one of its own, or the one that attachments of one model share."""
        return FeatureCache(self.cache_images) if isinstance(self.cache_images, int) else self.cache_images


def check_choice(option: str, value: str, kind: Any) -> None:
    """Refuse a ``value`` that the literal type ``kind`` does not have.

    Raises:
        ConfigError: as it says.
    """
    if value not in get_args(kind):
        raise ConfigError(f"{option}={value!r} is not known: choose one of {', '.join(get_args(kind))}")


def check_signals(family: Family, model: Any, method: Method) -> None:
    """Refuse a method that asks the vision tower for what this model's has not.

    Raises:
        UnsupportedError: as it says.
    """
    if method.signals and not method.keeps_all and family.signal_layer(model, {}) is None:
        raise UnsupportedError(
            f"method {method.name!r} needs {' and '.join(sorted(method.signals))} of a CLIP tower with a class token, which "
            f"{type(model).__name__} does not give: use a method without signals, such as 'trim' or 'divprune'"
        )


def in_full_precision(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Without autocast, where it is on: training in half precision is to keep the patches that asking keeps."""
    mixed = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if mixed else contextlib.nullcontext()


def by_name(stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of ``stock`` by their names."""
    names = inspect.signature(stock).parameters if args else ()
    return {**dict(zip(names, args, strict=False)), **kwargs}


def has_ids(inputs: dict[str, Any]) -> bool:
    """Whether the prompt is given as token ids."""
    return isinstance(inputs.get("input_ids"), Tensor) and inputs.get("inputs_embeds") is None


def refuse_cache(inputs: dict[str, Any], image_token_id: int, has_images: bool) -> None:
    """A filled cache holds shortened images: a prompt with placeholders, or a mask as long as it, does not match.

    Raises:
        InputError: images, or a mask that is longer than what is cached and given, meet a filled cache.
    """
    cache, ids = inputs.get("past_key_values"), inputs.get("input_ids")
    if cache is None or ids is None or cache.get_seq_length() == 0:
        return
    if has_images or bool((ids == image_token_id).any()):
        raise InputError(
            "images meet a past_key_values that no attached generate has filled, or one call with several sequences a row: "
            "pass the whole conversation with a new cache"
        )
    mask = inputs.get("attention_mask")
    if mask is None or mask.ndim != 2 or getattr(cache, "is_compileable", False):
        return
    if mask.shape[1] > (length := int(cache.get_seq_length()) + ids.shape[1]):
        raise InputError(
            f"attention_mask has {mask.shape[1]} columns but cache and input_ids hold {length} shortened ones: cut it to "
            "the length of the logits that the first call gave"
        )


def plain_positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    """``[B, L]`` positions of a sequence as transformers counts them: padding not counted."""
    real = torch.ones_like(ids) if mask is None else mask.long()
    return (real.cumsum(dim=-1) - 1).clamp(min=0)


def padding_id(owners: Iterable[Any], *placeholders: int) -> int:
    """Any id serves, since padding is masked; not one of an image's or a video's placeholders, which are counted."""
    for owner in owners:
        pad = getattr(owner, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and pad not in placeholders:
            return pad
    return next(free for free in range(len(placeholders) + 1) if free not in placeholders)


def padding_side(mask: Tensor | None, tokenizer: Any, generating: bool) -> Side:
    """Where ragged rows are padded: left to generate; else where the batch has its padding, or the tokenizer puts it."""
    if generating:
        return "left"
    if mask is not None and mask.ndim == 2:
        if bool((mask[:, 0] == 0).any()):
            return "left"
        if bool((mask[:, -1] == 0).any()):
            return "right"
    return "right" if getattr(tokenizer, "padding_side", "left") == "right" else "left"
