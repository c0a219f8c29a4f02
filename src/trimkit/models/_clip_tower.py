"""CLIP's vision tower layer by layer: no further than the layer that is used, and on fewer patches behind one in the middle.

LLaVA reads the last layer but one; the stock call computes the last one too and throws it away. The modules are the model's
own, in its own order: what comes out is equal to the stock call's to the last bit.
"""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from inspect import signature
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from trimkit.core.tower_plan import TowerRead
from trimkit.errors import ConfigError, UnsupportedError

__all__ = ["go_on", "layer_states", "resized_states", "run_stepwise"]

_PARTS = ("q_proj", "k_proj", "v_proj")

Step = Callable[[Sequence[TowerRead]], Sequence[tuple[Tensor | None, Tensor | None]]]


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
    for number, layer in enumerate(islice(inner.encoder.layers, max(places.values())), start=1):
        state = _run(layer, state)
        if number in places.values():  # the others' memory is free again at once
            held[number] = state
    return {number: held[place] for number, place in places.items()}


def go_on(tower: Any, state: Tensor, first: int, last: int) -> Tensor:
    """``[B, 1 + k, D]`` hidden states ``first`` run on to number ``last``; any of the tower's tokens may be left out."""
    inner: Any = getattr(tower, "vision_model", tower)
    for layer in islice(inner.encoder.layers, first, last):  # a slice would be a module
        state = _run(layer, state)
    return state


def resized_states(tower: Any, pixels: Tensor, grid: tuple[int, int], last: int) -> Tensor:
    """``[B, 1 + rows * columns, D]`` states behind ``last`` layers of pictures resized to a grid of patches.

    Position embeddings are interpolated, as the tower's own ``interpolate_pos_encoding`` does it.

    Raises:
        UnsupportedError: somebody has hooked or wrapped the tower, or it takes one size alone.
    """
    inner = _stock(tower)
    if inner is None or "interpolate_pos_encoding" not in signature(inner.embeddings.forward).parameters:
        raise UnsupportedError("this vision tower takes pictures of one size alone: resize them before the processor")
    side = inner.embeddings.patch_size
    size = (grid[0] * side, grid[1] * side)
    small = interpolate(pixels.float(), size=size, mode="bicubic", antialias=True, align_corners=False)
    state = inner.pre_layrnorm(inner.embeddings(small.to(pixels.dtype), interpolate_pos_encoding=True))
    return go_on(tower, state, 0, last)


def run_stepwise(tower: Any, pixels: Tensor, last: int, step: Step) -> list[tuple[Tensor, Tensor]]:
    """Pictures through ``last`` layers, each on its own, with patches that leave on the way.

    Args:
        tower: a ``CLIPVisionModel`` that nobody has hooked or wrapped.
        pixels: ``[B, 3, H, W]``.
        last: how many layers are run.
        step: see ``TowerPlan``.

    Returns:
        Of each picture ``[N, D]`` the state of every patch when it left, and ``[k]`` int64, which patches went all the way.

    Raises:
        UnsupportedError: another tower.
    """
    inner = _stock(tower)
    if inner is None:
        raise UnsupportedError(
            "this vision tower is not CLIP's own, or somebody has hooked or wrapped it: no patches can leave it on the way"
        )
    ways = [_Way(inner.pre_layrnorm(inner.embeddings(each[None]))) for each in pixels]
    for number, layer in enumerate(inner.encoder.layers[:last]):
        reads = [way.through(layer, number, last) for way in ways]
        with torch.no_grad():
            steps = step(reads)
        for way, (going, carried) in zip(ways, steps, strict=True):
            way.go_on(going, carried)
    return [(way.whole[1:], way.left) for way in ways]


class _Way:
    """One picture on its way through the tower: its state ``[1, 1 + n, D]``, and the patches that are left, ``[n]``."""

    def __init__(self, state: Tensor) -> None:
        self.state, self.whole = state, state[0]
        self.left = torch.arange(state.shape[1] - 1, device=state.device)
        self.carried: Tensor | None = None

    def through(self, layer: Any, number: int, last: int) -> TowerRead:
        with _watched(layer.self_attn) as seen:
            self.state = _run(layer, self.state)
        at = torch.cat([self.left.new_zeros(1), self.left + 1])
        self.whole = self.whole.index_copy(0, at, self.state[0])
        return _tower_read(layer.self_attn, seen, number, last, len(self.whole) - 1, self.carried)

    def go_on(self, going: Tensor | None, carried: Tensor | None) -> None:
        self.carried = carried
        if going is not None:
            self.left = self.left[going]
            self.state = torch.cat([self.state[:, :1], self.state[:, 1 + going]], dim=1)


def _tower_read(
    attention: Any, seen: dict[str, Tensor], number: int, last: int, total: int, carried: Tensor | None
) -> TowerRead:
    """What a layer's queries, keys and values ``[1, 1 + n, D]`` say."""
    rows, heads = len(seen[_PARTS[0]][0]), attention.num_heads
    query, key, value = (seen[part][0].float().reshape(rows, heads, -1) for part in _PARTS)
    with torch.autocast(key.device.type, enabled=False):
        scores = torch.einsum("hd,thd->ht", query[0], key) * attention.scale
    return TowerRead(number, last, total, scores.softmax(dim=1).mean(dim=0)[1:], value, carried)


@contextlib.contextmanager
def _watched(attention: Any) -> Iterator[dict[str, Tensor]]:
    """Queries, keys and values of an attention module while it runs within."""
    seen: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(part: str, module: Any, args: Any, output: Tensor) -> None:
        if threading.get_ident() == thread:  # another thread may run the same model
            seen[part] = output.detach()

    handles = []
    try:
        for part in _PARTS:
            handles.append(getattr(attention, part).register_forward_hook(functools.partial(keep, part)))
        yield seen
    finally:
        for handle in handles:
            handle.remove()


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
