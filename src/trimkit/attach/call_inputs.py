"""What has to be known of a call's inputs besides its images, and kinds of calls that are told apart."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor

from trimkit.attach.cache_argument import cache_of
from trimkit.errors import InputError, UnsupportedError

__all__ = ["by_name", "continues_cache", "has_ids", "is_draft", "refuse_filled_cache", "refuse_paged"]


def by_name(stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments of a call of ``stock`` by their names."""
    names = inspect.signature(stock).parameters if args else ()
    return {**dict(zip(names, args, strict=False)), **kwargs}


def has_ids(inputs: dict[str, Any]) -> bool:
    """Whether the prompt is given as token ids."""
    return isinstance(inputs.get("input_ids"), Tensor) and inputs.get("inputs_embeds") is None


def continues_cache(inputs: dict[str, Any]) -> bool:
    """Whether the call goes on from a filled cache: a decoding step, or a later turn."""
    cache = cache_of(inputs)
    return cache is not None and int(cache.get_seq_length()) > 0


def is_draft(kwargs: dict[str, Any]) -> bool:
    """Whether this ``generate`` is an assistant's (assisted decoding): the model that it drafts for has made its inputs."""
    return bool(getattr(kwargs.get("generation_config"), "is_assistant", False))


def refuse_paged(kwargs: dict[str, Any]) -> None:
    """Continuous batching would drop the images without a word.

    Raises:
        UnsupportedError: it is asked for.
    """
    if kwargs.get("cache_implementation") == "paged":
        raise UnsupportedError(
            "cache_implementation='paged' (continuous batching) takes token ids alone and would lose the images: leave it out"
        )


def refuse_filled_cache(inputs: dict[str, Any], image_token_id: int, has_images: bool) -> None:
    """A filled cache holds shortened images: a prompt with placeholders, or a mask as long as it, does not match.

    Raises:
        InputError: images, or a mask that is longer than what is cached and given, meet a filled cache.
    """
    cache, ids = cache_of(inputs), inputs.get("input_ids")
    if cache is None or ids is None or cache.get_seq_length() == 0:
        return
    mask = inputs.get("attention_mask")
    # A placeholder's id among new tokens alone was typed or generated; the stock model takes it as a word. A mask says what is
    # new; without one, no more than what is cached: a whole prompt is longer than it was when it was shortened.
    known = mask.shape[1] if isinstance(mask, Tensor) and mask.ndim == 2 else int(cache.get_seq_length())
    whole = ids.shape[1] >= known
    if has_images or (whole and bool((ids == image_token_id).any())):
        raise InputError(
            "images meet a past_key_values that no attached generate has filled, or one call with several sequences a row: "
            "pass the whole conversation with a new cache"
        )
    if not isinstance(mask, Tensor) or mask.ndim != 2 or getattr(cache, "is_compileable", False):
        return
    if mask.shape[1] > (length := int(cache.get_seq_length()) + ids.shape[1]):
        raise InputError(
            f"attention_mask has {mask.shape[1]} columns but cache and input_ids hold {length} shortened ones: cut it to "
            "the length of the logits that the first call gave"
        )
