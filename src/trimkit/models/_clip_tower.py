"""CLIP's vision tower layer by layer: no further than the layer that is used, and on fewer patches behind one in the middle.

LLaVA reads the last layer but one; the stock call computes the last one too and throws it away. The modules are the model's
own, in its own order: what comes out is equal to the stock call's to the last bit.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from torch import Tensor

from trimkit.errors import ConfigError

__all__ = ["go_on", "layer_states"]


class _NoSuchLayerError(ConfigError, IndexError):
    """A state is asked for that the tower does not have."""


def layer_states(tower: Any, pixels: Tensor, wanted: Collection[int]) -> dict[int, Tensor]:
    """Hidden states ``[B, 1 + N, D]`` of a CLIP vision tower, by number as in ``output_hidden_states``.

    Args:
        tower: a ``CLIPVisionModel``; anything else, or one that somebody has hooked or wrapped, is called as a whole.
        pixels: ``[B, 3, H, W]``.
        wanted: their numbers, 0 to the number of layers, or negative from the end. No layer behind the last of them is run.

    Raises:
        ConfigError: the tower has no such layer.
    """
    inner = _stock(tower)
    if inner is None:
        hidden = tower(pixels, output_hidden_states=True, return_dict=True).hidden_states
        return {number: hidden[number] for number in wanted}
    count = len(inner.encoder.layers)
    places = {number: number + count + 1 if number < 0 else number for number in wanted}
    if any(not 0 <= place <= count for place in places.values()):
        raise _NoSuchLayerError(
            f"the vision tower has {count} layers, numbers {-count - 1} to {count}: {sorted(wanted)} are not all there"
        )
    state = inner.pre_layrnorm(inner.embeddings(pixels))
    held = {0: state} if 0 in places.values() else {}
    for number, layer in enumerate(inner.encoder.layers[: max(places.values())], start=1):
        state = _run(layer, state)
        if number in places.values():  # the others' memory is free again at once
            held[number] = state
    return {number: held[place] for number, place in places.items()}


def go_on(tower: Any, state: Tensor, first: int, last: int) -> Tensor:
    """``[B, 1 + k, D]`` hidden states ``first`` run on to number ``last``; any of the tower's tokens may be left out."""
    inner: Any = getattr(tower, "vision_model", tower)
    for layer in inner.encoder.layers[first:last]:
        state = _run(layer, state)
    return state


def _run(layer: Any, state: Tensor) -> Tensor:
    out: Tensor = layer(state, None)
    return out


def _stock(tower: Any) -> Any:
    """The module that holds the layers, or None where the call as a whole may be somebody else's."""
    from transformers import CLIPVisionModel

    inner: Any = getattr(tower, "vision_model", tower)
    whole = (tower, inner, inner.encoder) if isinstance(tower, CLIPVisionModel) else ()
    if not whole or any("forward" in vars(part) or part._forward_hooks or part._forward_pre_hooks for part in whole):
        return None
    if type(tower).forward is not CLIPVisionModel.forward or getattr(inner, "_compiled_call_impl", None) is not None:
        return None
    return inner
