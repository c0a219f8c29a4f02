"""Padding and positions of a shortened prompt."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from trimkit.core.prompt_layout import Side

__all__ = ["padding_id", "padding_owners", "padding_side", "plain_positions"]


def plain_positions(ids: Tensor, mask: Tensor | None) -> Tensor:
    """``[B, L]`` positions of a sequence as transformers counts them: padding is not counted."""
    real = torch.ones_like(ids) if mask is None else mask.long()
    return (real.cumsum(dim=-1) - 1).clamp(min=0)


def padding_id(owners: Iterable[Any], *placeholders: int) -> int:
    """Any id serves, since padding is masked, but not a placeholder of an image or a video: those are counted."""
    for owner in owners:
        pad = getattr(owner, "pad_token_id", None)
        if isinstance(pad, int) and pad >= 0 and pad not in placeholders:
            return pad
    return next(free for free in range(len(placeholders) + 1) if free not in placeholders)


def padding_owners(model: Any, tokenizer: Any) -> Iterator[Any]:
    """What may name a padding token, looked up one by one."""
    yield getattr(model, "generation_config", None)
    yield model.config.get_text_config()
    yield tokenizer


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
