"""What a method inside the language model may ask for beside attention: keys and states of the layer that ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.llm_pruning.layer_layout import Prompts
from trimkit.errors import UnsupportedError

__all__ = ["llm_signals"]


def llm_signals(
    names: frozenset[str],
    prompts: Prompts,
    images: Sequence[Tensor],
    hidden: Tensor,
    keys: Tensor,
    decoder: Any,
    place: Callable[[Tensor, int], Tensor],
) -> list[dict[str, Tensor]]:
    """By name, for every image.

    Args:
        names: those asked for; ``trimkit.core.signals`` says what they are. Text is what stands behind the image in its prompt,
            without other images, up to where an answer begins that is to be learnt.
        prompts: B prompts.
        images: the columns of what is left of each image.
        hidden: ``[B, L, H]`` what the layer that ranks has given.
        keys: ``[B, heads, l, K]`` its keys, rotated, of the columns that it was given.
        decoder: the language model, whose last norm is used.
        place: columns of a row as the layer numbers them.

    Raises:
        UnsupportedError: it has no last norm that is known.
    """
    norm = getattr(decoder, "norm", None)
    if norm is None:
        raise UnsupportedError(
            f"{type(decoder).__name__} has no last norm where one is looked for: use another method inside the language model"
        )
    found = []
    for columns, row in zip(images, prompts.rows, strict=True):
        real = prompts.real[row]
        behind = torch.arange(len(real), device=real.device)
        first = columns[-1] if len(columns) else -1
        text = behind[(behind > first) & (behind <= prompts.last[row]) & real & ~prompts.places[row]]
        places = real.long().cumsum(0) - 1
        own: dict[str, Tensor] = {}
        for prefix, at in (("llm", columns), ("llm_text", text)):
            own[f"{prefix}_keys"] = keys[row].transpose(0, 1)[place(at, row).to(keys.device)].flatten(1)
            own[f"{prefix}_states"] = norm(hidden[row, at.to(hidden.device)])
            own[f"{prefix}_places"] = places[at]
        found.append({name: each.detach() for name, each in own.items() if name in names})
    return found
