"""The language model of a model whose decoder layers can drop tokens, and what its caches hold."""

from __future__ import annotations

import contextlib
from typing import Any
from weakref import WeakKeyDictionary

from trimkit.attach.llm_pruning.attention import output_projection
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method

__all__ = ["PrunableDecoder"]


class PrunableDecoder:
    """The layers of a model's language model, and what caches are known to hold of calls that dropped tokens in it.

    Args:
        model: a transformers vision-language model.
        method: of ``stage`` ``llm``.

    Raises:
        UnsupportedError: its layers are not of the kind that can be cut.
        ConfigError: the method begins behind the last layer.
    """

    def __init__(self, model: Any, method: Method) -> None:
        self.module = model.get_decoder()
        self.layers = list(getattr(self.module, "layers", ()))
        self.name = type(model).__name__
        self._refuse()
        self.first = method.first_short_layer(len(self.layers))
        if self.first >= len(self.layers):
            raise ConfigError(
                f"layer {self.first} is behind the last of {self.name}'s {len(self.layers)} layers: give 1 to "
                f"{len(self.layers) - 1}"
            )
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
