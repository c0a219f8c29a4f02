"""What a CLIP tower's class token attends to, and the patches' keys: read in passing, while the tower runs as it always does.

Only queries and keys of one layer are listened to, and one row of its attention is computed from them. The model keeps its
attention implementation (no switch to eager), and no other layer's attention matrix is ever made.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError

__all__ = ["SignalRecorder", "attention_of", "record_signals"]


def attention_of(tower: Any, feature_layer: int | Sequence[int]) -> Any:
    """The self-attention of the layer whose output is ``hidden_states[feature_layer]``; the deepest one of several.

    For LLaVA-1.5 (-2 of 24 layers) that is the last but one, as in FasterVLM, VisionZip and SCOPE.

    Returns:
        The module, or None where the features are the embeddings or the tower is not built as CLIP's is.
    """
    layers = getattr(getattr(getattr(tower, "vision_model", tower), "encoder", None), "layers", None)
    if layers is None:
        return None
    asked = [feature_layer] if isinstance(feature_layer, int) else list(feature_layer)
    deepest = max(layer if layer >= 0 else len(layers) + 1 + layer for layer in asked)
    attention = layers[deepest - 1].self_attn if 1 <= deepest <= len(layers) else None
    return attention if all(hasattr(attention, part) for part in ("q_proj", "k_proj", "num_heads", "scale")) else None


class SignalRecorder:
    """The class token's queries and all keys, as the layer has computed them.

    Args:
        attention: the layer's self-attention, or None for nothing.
        signals: which to give: ``cls_attention``, ``keys``.
    """

    def __init__(self, attention: Any, signals: frozenset[str]) -> None:
        self._attention = attention
        self._signals = signals
        self._queries: list[Tensor] = []
        self._keys: list[Tensor] = []
        self._thread = threading.get_ident()

    def query(self, module: Any, inputs: Any, output: Tensor) -> None:
        """Hook on the queries ``[B, T, C]``: only the first token's are held."""
        if threading.get_ident() == self._thread:  # another thread may run the same model
            self._queries.append(output[:, 0].detach())

    def key(self, module: Any, inputs: Any, output: Tensor) -> None:
        """Hook on the keys ``[B, T, C]``."""
        if threading.get_ident() == self._thread:
            self._keys.append(output.detach())

    def onto(self, images: Sequence[ImageTokens]) -> list[ImageTokens]:
        """The images with their signals.

        Raises:
            UnsupportedError: what the layer saw is not one row an image.
        """
        if self._attention is None or not images:
            return list(images)
        queries = [row for rows in self._queries for row in rows]
        keys = [row for rows in self._keys for row in rows]
        lead = {len(key) - len(image) for key, image in zip(keys, images, strict=False)}
        if len(keys) != len(images) or len(queries) != len(keys) or len(lead) != 1 or not lead <= {0, 1}:
            raise UnsupportedError(
                "the vision tower's attention does not match its tokens one by one: use a method without signals "
                "(`trimkit methods` lists what each needs)"
            )
        first = lead.pop()
        return [
            replace(
                image,
                cls_attention=self._row(query, key)[first:] if "cls_attention" in self._signals else None,
                keys=key[first:] if "keys" in self._signals else None,
            )
            for image, query, key in zip(images, queries, keys, strict=True)
        ]

    def _row(self, query: Tensor, keys: Tensor) -> Tensor:
        """``[T]`` attention of ``query`` ``[C]`` over ``keys`` ``[T, C]``: softmax in float32, mean over heads."""
        heads = self._attention.num_heads
        with torch.autocast(query.device.type, enabled=False):
            scores = torch.einsum("hd,thd->ht", query.float().view(heads, -1), keys.float().view(len(keys), heads, -1))
            return torch.softmax(scores * self._attention.scale, dim=-1).mean(dim=0)


@contextmanager
def record_signals(attention: Any, signals: frozenset[str]) -> Iterator[SignalRecorder]:
    """Record the signals of ``attention`` while the tower runs within; no hook is left on it afterwards, whatever happens."""
    recorder = SignalRecorder(attention, signals)
    handles = []
    try:
        if attention is not None and signals:
            handles.append(attention.q_proj.register_forward_hook(recorder.query))
            handles.append(attention.k_proj.register_forward_hook(recorder.key))
        yield recorder
    finally:
        for handle in handles:
            handle.remove()
