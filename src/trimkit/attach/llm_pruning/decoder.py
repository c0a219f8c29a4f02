"""The language model of a model whose decoder layers can drop tokens, and what its caches hold."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

from torch import Tensor

from trimkit.attach.llm_pruning.attention import output_projection
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method

__all__ = ["PrunableDecoder"]


class PrunableDecoder:
    """The layers of a model's language model, and what caches are known to hold of calls that dropped tokens in it.

    Args:
        model: a transformers vision-language model.
        method: of ``stage`` ``llm``.
        own_positions: whether positions are not 1-D, and therefore stay whatever the method says.

    Attributes:
        stages: by layer, in ascending order, the number of the method's stage that comes before it.
        first: the first of these layers.
        renumber: what gives position embeddings, where those behind a cut are numbered anew; else None.

    Raises:
        UnsupportedError: its layers are not of the kind that can be cut.
        ConfigError: the method begins behind the last layer.
    """

    def __init__(self, model: Any, method: Method, *, own_positions: bool = False) -> None:
        self.module = model.get_decoder()
        self.layers = list(getattr(self.module, "layers", ()))
        self.name = type(model).__name__
        self._refuse()
        self.stages = self._stages(method.cuts(len(self.layers)))
        self.first = min(self.stages)
        self.renumber = self._renumbering(method.renumbers and not own_positions)
        self._calls: WeakKeyDictionary[Any, tuple[contextlib.AbstractContextManager[Any], int]] = WeakKeyDictionary()
        self.active: dict[int, list[object]] = {}  # by thread: calls within calls

    def remember(self, cache: Any, call: contextlib.AbstractContextManager[Any], length: int) -> None:
        """``cache`` is filled by a call that drops tokens of prompts of ``length``; later calls on it run within ``call``."""
        self._calls[cache] = (call, length)

    def of(self, cache: Any) -> contextlib.AbstractContextManager[Any]:
        """What has to be around a later call on ``cache``."""
        found = None if cache is None else self._calls.get(cache)
        if found is None or cache.get_seq_length() < found[1]:
            return contextlib.nullcontext()
        return found[0]

    def _stages(self, cuts: tuple[int, ...]) -> dict[int, int]:
        for layer in cuts:
            if layer < 1:
                raise ConfigError(f"layer {layer} is not possible: one layer at least sees all tokens, give 1 or more")
            if layer >= len(self.layers):
                raise ConfigError(
                    f"layer {layer} is behind the last of {self.name}'s {len(self.layers)} layers: give 1 to "
                    f"{len(self.layers) - 1}"
                )
        if list(cuts) != sorted(cuts):
            raise ConfigError(f"layers {list(cuts)} are not in ascending order: give for example {sorted(cuts)}")
        return {layer: stage for stage, layer in enumerate(cuts)}

    def _renumbering(self, wanted: bool) -> Callable[[Tensor, Tensor], Any] | None:
        if not wanted:
            return None
        embedding = getattr(self.module, "rotary_emb", None)
        if embedding is None:
            raise UnsupportedError(
                f"{self.name} has no rotary embedding that positions could be numbered anew with: give renumber=False"
            )
        return lambda hidden, positions: embedding(hidden, positions)

    def _refuse(self) -> None:
        config = self.module.config
        kinds = set(getattr(config, "layer_types", None) or ())
        reason = None
        if len(self.layers) < 2 or any(
            output_projection(getattr(each, "self_attn", None)) is None for each in self.layers
        ):
            reason = "its language model is not a row of layers with self_attn"
        elif kinds - {"full_attention"} or (not kinds and getattr(config, "sliding_window", None) is not None):
            reason = "some of its layers see a window or keep a state, not a cache of all tokens"
        if reason is not None:
            raise UnsupportedError(
                f"tokens of {self.name} cannot be dropped inside the language model ({reason}): use a method that drops them "
                "before it"
            )
