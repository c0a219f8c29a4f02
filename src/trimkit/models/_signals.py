"""What layers of a CLIP tower attend to, and their keys: read in passing, while the tower runs as it always does.

Only queries and keys of the layers asked for are listened to, and attention is computed from them a head of one image at a
time. The model keeps its attention implementation (no switch to eager), and no other layer's attention is ever made. A layer
behind the one that gives the features is not run by the tower: it is computed from the features' layer on, up to its keys.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.signals import OF_LAYERS, parse_signal
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError, UnsupportedError

__all__ = ["SignalRecorder", "SignalSource", "layer_signals", "record_signals", "signal_source"]

_PARTS = ("q_proj", "k_proj", "num_heads", "scale")


@dataclass(frozen=True)
class SignalSource:
    """The layers of a vision tower with a class token, and the number (from 1) of the one that gives the features."""

    layers: Sequence[Any]
    deepest: int

    def number(self, layer: int | float | None) -> int:
        """The number of a layer counted from 1, from the end with -1, by its share of the depth, or None for the features' own.

        Raises:
            ConfigError: there is no such layer.
        """
        if layer is None:
            return self.deepest
        if isinstance(layer, float):
            return max(1, round(layer * len(self.layers)))
        number = layer if layer > 0 else len(self.layers) + 1 + layer
        if not 1 <= number <= len(self.layers):
            raise ConfigError(f"the vision tower has {len(self.layers)} layers, and the method reads layer {layer}")
        return number


def signal_source(tower: Any, feature_layer: int | Sequence[int]) -> SignalSource | None:
    """Where signals beside ``hidden_states[feature_layer]`` come from; beside the deepest one of several.

    For LLaVA-1.5 (-2 of 24 layers) that is the last layer but one, as in FasterVLM, VisionZip and SCOPE.

    Returns:
        The layers, or None where the features are the embeddings or the tower is not built as CLIP's is.
    """
    layers = getattr(getattr(getattr(tower, "vision_model", tower), "encoder", None), "layers", None)
    if layers is None:
        return None
    asked = [feature_layer] if isinstance(feature_layer, int) else list(feature_layer)
    deepest = max(layer if layer >= 0 else len(layers) + 1 + layer for layer in asked)
    attention = layers[deepest - 1].self_attn if 1 <= deepest <= len(layers) else None
    return SignalSource(layers, deepest) if all(hasattr(attention, part) for part in _PARTS) else None


@dataclass
class _LayerRecord:
    """Queries and keys ``[1 + N, D]`` of one layer, an entry an image; of queries only what is needed."""

    layer: Any
    kinds: set[str]
    queries: list[Tensor] = field(default_factory=list)
    keys: list[Tensor] = field(default_factory=list)

    @property
    def all_queries(self) -> bool:
        return "received" in self.kinds

    def signals(self, image: int, first: int) -> dict[str, Tensor]:
        """By kind, of one image; the patches begin at row ``first``."""
        attention = self.layer.self_attn
        return layer_signals(
            self.kinds, self.queries[image], self.keys[image], attention.num_heads, attention.scale, first
        )


def layer_signals(
    kinds: Collection[str], queries: Tensor, keys: Tensor, heads: int, scale: float, first: int
) -> dict[str, Tensor]:
    """Signals of one image in one layer, by kind; see ``trimkit.core.signals``.

    Args:
        kinds: which.
        queries: ``[T, D]``, heads side by side, the class token's first; for kinds but ``received`` that one is enough.
        keys: ``[T, D]``.
        heads: how many.
        scale: of the products.
        first: row at which the patches begin.
    """
    found = {}
    with torch.autocast(keys.device.type, enabled=False):
        if "cls_attention" in kinds:
            found["cls_attention"] = _attention(queries[:1], keys, heads, scale)[first:]
        if "cls_attention_wide" in kinds:
            found["cls_attention_wide"] = _attention(queries[:1], keys, 1, keys.shape[1] ** -0.5)[first:]
        if "received" in kinds:
            found["received"] = _attention(queries, keys, heads, scale)[first:]
        if "keys" in kinds:
            found["keys"] = keys[first:]
        if "keys_mean" in kinds:
            found["keys_mean"] = keys[first:].view(len(keys) - first, heads, -1).mean(dim=1)
    return found


def _attention(queries: Tensor, keys: Tensor, heads: int, scale: float) -> Tensor:
    """``[T]`` attention of ``queries`` ``[Q, D]`` to ``keys`` ``[T, D]``: softmax in float32, mean over queries and heads."""
    if len(queries) == 1:  # small enough for all heads at a time
        query, key = queries.float().view(heads, -1), keys.float().view(len(keys), heads, -1)
        return torch.softmax(torch.einsum("hd,thd->ht", query, key) * scale, dim=-1).mean(dim=0)
    parts = zip(queries.float().chunk(heads, dim=1), keys.float().chunk(heads, dim=1), strict=True)
    rows = [torch.softmax(query @ key.T * scale, dim=1).mean(dim=0) for query, key in parts]
    return torch.stack(rows).mean(dim=0)


class SignalRecorder:
    """Queries and keys of layers, as they have computed them.

    Args:
        source: the tower's layers, or None for nothing.
        names: which signals to give; those that no layer gives are left to others.

    Raises:
        ConfigError: a layer that is not there.
    """

    def __init__(self, source: SignalSource | None, names: Iterable[str]) -> None:
        self._source, self._thread = source, threading.get_ident()
        self._wanted: dict[str, tuple[int, str]] = {}
        self._records: dict[int, _LayerRecord] = {}
        self._states: list[Tensor] = []
        for name in sorted(names):
            kind, layer = parse_signal(name)
            if source is not None and kind in OF_LAYERS:
                number = source.number(layer)
                self._wanted[name] = number, kind
                record = self._records.setdefault(number, _LayerRecord(source.layers[number - 1], set()))
                record.kinds.add(kind)

    def hooks(self) -> Iterator[Any]:
        """Handles of hooks on the layers, to be removed by the caller; registered one by one."""
        source = self._source
        if source is None:
            return
        for number, record in self._records.items():
            if number <= source.deepest:
                attention = record.layer.self_attn
                yield attention.q_proj.register_forward_hook(self._on_queries(record))
                yield attention.k_proj.register_forward_hook(self._on_keys(record))
        if any(number > source.deepest for number in self._records):
            yield source.layers[source.deepest - 1].register_forward_hook(self._on_state)

    def _on_queries(self, record: _LayerRecord) -> Any:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == self._thread:  # another thread may run the same model
                record.queries += (output if record.all_queries else output[:, :1]).detach()

        return hook

    def _on_keys(self, record: _LayerRecord) -> Any:
        def hook(module: Any, inputs: Any, output: Tensor) -> None:
            if threading.get_ident() == self._thread:
                record.keys += output.detach()

        return hook

    def _on_state(self, module: Any, inputs: Any, output: Any) -> None:
        if threading.get_ident() == self._thread:
            self._states.append((output[0] if isinstance(output, tuple) else output).detach())

    def onto(self, images: Sequence[ImageTokens]) -> list[ImageTokens]:
        """The images with their signals.

        Raises:
            UnsupportedError: what a layer saw is not one row an image.
        """
        if not self._wanted or not images:
            return list(images)
        self._go_on()
        first = self._first(images)
        done = []
        for i, image in enumerate(images):
            found = {number: record.signals(i, first) for number, record in self._records.items()}
            signals = {name: found[number][kind] for name, (number, kind) in self._wanted.items()}
            row, keys = signals.pop("cls_attention", None), signals.pop("keys", None)
            done.append(replace(image, cls_attention=row, keys=keys, signals={**image.signals, **signals}))
        return done

    @torch.no_grad()
    def _go_on(self) -> None:
        """Run the layers behind the features' one, each only as far as it is asked for."""
        source = self._source
        last = max(self._records)
        if source is None or last <= source.deepest:
            return
        for state in self._states:
            for number in range(source.deepest + 1, last + 1):
                layer = source.layers[number - 1]
                if (record := self._records.get(number)) is not None:
                    inner = layer.layer_norm1(state)
                    record.queries += layer.self_attn.q_proj(inner if record.all_queries else inner[:, :1])
                    record.keys += layer.self_attn.k_proj(inner)
                if number < last:
                    state = layer(state, None)

    def _first(self, images: Sequence[ImageTokens]) -> int:
        """Where the patches begin: behind the class token, or with it where the family hands it on as one of its tokens."""
        lead: set[int] = set()
        for record in self._records.values():
            whole = len(record.keys) == len(record.queries) == len(images)
            pairs = zip(record.keys, images, strict=True) if whole else ()
            lead |= {len(key) - len(image) for key, image in pairs} or {-1}
        if len(lead) != 1 or not lead <= {0, 1}:
            raise UnsupportedError(
                "the vision tower's attention does not match its tokens one by one: use a method without signals "
                "(`trimkit methods` lists what each needs)"
            )
        return lead.pop()


@contextmanager
def record_signals(source: SignalSource | None, names: Iterable[str]) -> Iterator[SignalRecorder]:
    """Record signals while the tower runs within; no hook is left on it afterwards, whatever happens."""
    recorder = SignalRecorder(source, names)
    handles: list[Any] = []
    try:
        for handle in recorder.hooks():
            handles.append(handle)  # one by one: those there are removed where the next one fails
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
