"""Image features by content, so that a second question on the same picture costs no vision pass. Bounded, thread-safe."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core.content import content_key
from trimkit.core.recent import Recent
from trimkit.core.types import ImageTokens

__all__ = ["FeatureCache", "content_key", "encoder_stamp"]


class FeatureCache:
    """Least-recently-used image features.

    Args:
        limit: how many images are held; 0 holds none.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._held: Recent[tuple[str, int], ImageTokens] = Recent(limit)

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str, stamp: int) -> ImageTokens | None:
        """The features of image ``key`` under weights ``stamp``, or None."""
        return self._held.get((key, stamp))

    def put(self, key: str, stamp: int, tokens: ImageTokens) -> None:
        """Hold ``tokens``, detached and on their device; the oldest go."""
        if self.limit == 0:
            return
        # A view would keep the whole batch's features alive.
        midway = tokens.midway
        held = replace(
            tokens,
            features=tokens.features.detach().clone(),
            layers=tuple(layer.detach().clone() for layer in tokens.layers),
            views=(),
            cls_attention=_copied(tokens.cls_attention),
            keys=_copied(tokens.keys),
            signals={name: each.detach().clone() for name, each in tokens.signals.items()},
            midway=None if midway is None else replace(midway, head=midway.head.detach().clone()),
        )
        self._held.put((key, stamp), held)

    def clear(self) -> None:
        """Forget everything."""
        self._held.clear()


def _copied(values: Tensor | None) -> Tensor | None:
    return None if values is None else values.detach().clone()


def encoder_stamp(modules: Iterable[nn.Module]) -> int:
    """Changes when weights of these modules are replaced or updated in place, adapters on them are switched, or autocast is.

    Writes through ``Tensor.data`` leave no trace that could be read without looking at every value: after those the cache has
    to be cleared by hand.
    """
    layers: list[Any] = list(modules)  # hundreds, in every call: nothing is looked up that need not be
    held: list[Tensor] = [p for layer in layers for p in layer._parameters.values() if p is not None]
    state: list[object] = [p.data_ptr() for p in held]
    state += [p.dtype for p in held]
    try:
        state += [p._version for p in held]
    except RuntimeError:  # those of inference mode have none
        state += [None if p.is_inference() else p._version for p in held]
    for layer in layers:
        if "merged_adapters" in layer.__dict__:  # a PEFT layer
            state.append((tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters))
    for kind in sorted({device.type for device in {p.device for p in held}}):
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            state.append((kind, torch.get_autocast_dtype(kind)))
    return hash(tuple(state))
