"""What a CLIP tower of vLLM attends to, and its keys, for methods that ask: read in passing, as transformers' towers are read.

vLLM's layers compute queries, keys and values in one step, shared out by heads among tensor-parallel processes, and build no
layer behind the one that gives the features.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trimkit.core.signals import OF_LAYERS, OF_TOWER, parse_signal
from trimkit.models import layer_signals

__all__ = ["LayerNumbers", "TowerRecord", "recorded"]


@dataclass(frozen=True)
class LayerNumbers:
    """The layers of a CLIP tower.

    Attributes:
        total: how many the checkpoint has.
        deepest: number, from 1, of the one that gives the features; vLLM builds none behind it.
    """

    total: int
    deepest: int

    @classmethod
    def of(cls, config: Any) -> LayerNumbers | None:
        """Of LLaVA-1.5 with a CLIP tower, the features of one layer without the class token; None of others."""
        layer = getattr(config, "vision_feature_layer", None)
        vision: Any = getattr(config, "vision_config", None)
        plain = config.model_type == "llava" and getattr(vision, "model_type", None) == "clip_vision_model"
        if not plain or not isinstance(layer, int) or config.vision_feature_select_strategy != "default":
            return None
        total = int(vision.num_hidden_layers)
        deepest = layer if layer >= 0 else total + 1 + layer
        return cls(total, deepest) if 1 <= deepest <= total else None

    def number(self, name: str) -> int | None:
        """Of the layer that gives the signal ``name``; None where vLLM's tower cannot give it."""
        kind, layer = parse_signal(name)
        if kind not in OF_TOWER:
            return None
        if layer is None:
            return self.deepest
        if isinstance(layer, float):
            found = max(1, round(layer * self.total))
        else:
            found = layer if layer > 0 else self.total + 1 + layer
        return found if 1 <= found <= self.deepest else None


class TowerRecord:
    """Queries and keys of layers, as they have computed them, images of a batch one behind the other."""

    def __init__(self, layers: Sequence[Any], numbers: LayerNumbers, names: Iterable[str]) -> None:
        self._layers = layers
        self._wanted: dict[str, tuple[int, str]] = {}
        for name in names:
            number, kind = numbers.number(name), parse_signal(name).kind
            if number is not None and kind in OF_LAYERS:
                self._wanted[name] = number, kind
        self._seen: dict[int, list[tuple[Tensor, Tensor]]] = {}

    def hooks(self) -> Iterator[Any]:
        """Handles of hooks on the layers."""
        for number in {number for number, _ in self._wanted.values()}:
            yield self._layers[number - 1].self_attn.qkv_proj.register_forward_hook(self._on(number))

    def _on(self, number: int) -> Any:
        attention = self._layers[number - 1].self_attn

        def hook(module: Any, inputs: Any, output: Any) -> None:
            queries, keys, _ = (output[0] if isinstance(output, tuple) else output).detach().chunk(3, dim=-1)
            if attention.tp_size > 1:
                queries, keys = _gathered(queries), _gathered(keys)
            self._seen.setdefault(number, []).extend(zip(queries, keys, strict=True))

        return hook

    def signals(self, image: int) -> dict[str, Tensor]:
        """By name, of one image, whose class token stands first."""
        found: dict[int, dict[str, Tensor]] = {}
        for number, seen in self._seen.items():
            attention = self._layers[number - 1].self_attn
            kinds = {kind for at, kind in self._wanted.values() if at == number}
            found[number] = layer_signals(kinds, *seen[image], attention.num_heads, attention.scale, 1)
        return {name: found[number][kind] for name, (number, kind) in self._wanted.items()}


def _gathered(part: Tensor) -> Tensor:
    """All heads of a layer that several processes share; the same in each of them."""
    from vllm.distributed import tensor_model_parallel_all_gather

    whole: Tensor = tensor_model_parallel_all_gather(part.contiguous(), dim=-1)
    return whole


@contextmanager
def recorded(layers: Sequence[Any], numbers: LayerNumbers, names: Iterable[str]) -> Iterator[TowerRecord]:
    """Record while the tower runs within; no hook is left on it afterwards, whatever happens."""
    record = TowerRecord(layers, numbers, names)
    handles: list[Any] = []
    try:
        for handle in record.hooks():
            handles.append(handle)  # one by one: those there are removed where the next one fails
        with torch.no_grad():
            yield record
    finally:
        for handle in handles:
            handle.remove()
