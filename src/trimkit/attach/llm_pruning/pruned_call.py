"""Dropping image tokens inside the language model: hooks on the decoder layers of one model, there for one call.

Up to layer K everything is as ever. Before layer K the image tokens are ranked by what the prompt attends to in layer K - 1 (or
K), and dropped columns leave: hidden states, masks, rotary embeddings and from there on the caches are shorter. A method may
cut at several layers, each time among what is left. Behind the last layer each column is put back where it was, so that whoever
called sees nothing of it. No class is patched.
"""

from __future__ import annotations

import contextlib
import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor

from trimkit.attach.cache_argument import cache_of
from trimkit.attach.llm_pruning.attention import REGISTERING, AttentionProbe
from trimkit.attach.llm_pruning.decoder import PrunableDecoder
from trimkit.attach.llm_pruning.layer_layout import LayerLayout, Prompts
from trimkit.attach.llm_pruning.short_pass import ShortPass, hidden_and_rest
from trimkit.attach.llm_pruning.stage_choice import StageChooser
from trimkit.core.types import Selection
from trimkit.errors import UnsupportedError
from trimkit.methods import Method

__all__ = ["PrunedCall"]


class PrunedCall:
    """One call during which tokens are dropped; a context manager, which may be entered again within itself.

    Args:
        decoder: where.
        method: what chooses.
        prompts: the prompts.
        stage: gives a context that times the choice.
        done: is called with the selections.
    """

    def __init__(
        self,
        decoder: PrunableDecoder,
        method: Method,
        prompts: Prompts,
        stage: Callable[[], contextlib.AbstractContextManager[Any]],
        done: Callable[[list[Selection]], None],
    ) -> None:
        self.length = int(prompts.places.shape[1])
        self._decoder, self._method = decoder, method
        self._stage, self._done = stage, done
        self._chooser = StageChooser(method, prompts, decoder.module)
        asked = {layer: layer if method.asks_next else layer - 1 for layer in decoder.stages}
        self._probes = {layer: AttentionProbe(decoder.layers[at].self_attn) for layer, at in asked.items()}
        self._layouts: dict[int, LayerLayout | None] = {}  # by layer: what goes on from there, once it is decided
        self._pass: ShortPass | None = None
        self._span = 0, 0  # of the pass that runs: its first column, and how many it has
        self._cache: Callable[[], Any] = lambda: None  # that of the prompts, weakly
        self._depth, self._thread = 0, 0
        self._hooks: list[Any] = []
        if prompts.deepest > decoder.first:
            raise UnsupportedError(
                f"{decoder.name} adds image features up to layer {prompts.deepest}: give layer={prompts.deepest} or more"
            )

    def __enter__(self) -> PrunedCall:
        if self._depth == 0:
            module = self._decoder.module
            modules = (module, *self._decoder.layers)
            if module.training and any(getattr(each, "gradient_checkpointing", False) for each in modules):
                raise UnsupportedError(
                    f"method {self._method.name!r} does not train with gradient checkpointing: switch it off"
                )
            self._thread = threading.get_ident()
            self._register()
        self._depth += 1
        self._decoder.active.setdefault(self._thread, []).append(self)
        return self

    def __exit__(self, *error: object) -> None:
        self._depth -= 1
        calls = self._decoder.active[self._thread]
        calls.pop()
        if not calls:
            del self._decoder.active[self._thread]
        if self._depth == 0:
            self._pass = None
            while self._hooks:
                self._hooks.pop().remove()

    def _register(self) -> None:
        layers, first = self._decoder.layers, self._decoder.first
        with REGISTERING:
            if self._method.asks_raters:
                self._hooks.append(layers[0].register_forward_pre_hook(self._read_embeddings, with_kwargs=True))
            if not self._method.asks_next:
                for layer, probe in self._probes.items():
                    record = functools.partial(self._record, layer, probe)
                    attention = layers[layer - 1].self_attn
                    self._hooks.append(attention.register_forward_pre_hook(record, with_kwargs=True))
            for number, layer in enumerate(layers[first:], start=first):
                cut = functools.partial(self._cut, number)
                self._hooks.append(layer.register_forward_pre_hook(cut, with_kwargs=True))
            # In front: whoever collects hidden states sees the last layer's spread.
            self._hooks.append(layers[-1].register_forward_hook(self._spread, prepend=True))

    def _mine(self) -> bool:
        """Whether this pass is of this call, and not of one within it or of another thread's."""
        calls = self._decoder.active.get(threading.get_ident(), [])
        return bool(calls) and calls[-1] is self

    # A hook that is being removed may be called once more by another thread, without kwargs.
    def _read_embeddings(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> None:
        if not self._layouts and self._mine():
            self._chooser.read_embeddings(hidden_and_rest(args, kwargs)[0].detach())

    def _record(self, layer: int, probe: AttentionProbe, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if layer in self._layouts or not self._mine():
            return None
        return args, probe.record(args, kwargs)

    def _cut(self, number: int, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if not self._mine():
            return None
        hidden, args, kwargs = hidden_and_rest(args, kwargs)
        if number in self._decoder.stages:
            begun = self._begin(number, hidden, kwargs)
            if begun is not None:
                self._pass, hidden = begun, begun.hidden()
        if self._pass is None:
            return None
        return (hidden, *args), self._pass.arguments(kwargs)

    def _spread(self, module: Any, args: tuple[Any, ...], out: Any) -> Any:
        if not self._mine() or self._pass is None:
            return None
        done, self._pass = self._pass, None
        return (done.spread(out[0]), *out[1:]) if isinstance(out, tuple) else done.spread(out)

    def _begin(self, number: int, hidden: Tensor, kwargs: dict[str, Any]) -> ShortPass | None:
        """What this pass is to run on from layer ``number`` on; in the first one, what goes on is chosen. None: no other."""
        cache = cache_of(kwargs)
        if number == self._decoder.first:
            count = hidden.shape[1]
            self._span = 0 if cache is None else int(cache.get_seq_length()) - count, count
        if number not in self._layouts:
            self._decide(number, hidden, kwargs, cache)
        # A call within this one, or guidance, runs on a cache of its own.
        layout = self._layouts[number]
        if layout is None or cache is not self._cache():
            return None
        whole = hidden if self._pass is None else self._pass.spread(hidden)
        at = layout.at(*self._span, len(hidden), hidden.device, renumber=self._decoder.renumber is not None)
        implementation = self._decoder.module.config._attn_implementation
        return ShortPass(layout, at, whole, implementation, self._decoder.renumber)

    def _decide(self, number: int, hidden: Tensor, kwargs: dict[str, Any], cache: Any) -> None:
        """Choose at the cut before layer ``number``."""
        first = number == self._decoder.first
        if first:
            self._refuse(*self._span, cache)
        probe, before = self._probes[number], self._pass
        with self._stage():
            if self._method.asks_next:
                given = kwargs if before is None else before.arguments(kwargs)
                probe.peek(self._decoder.layers[number], (hidden,), given)
            whole = hidden if before is None else before.spread(hidden)
            layout = None if before is None else before.layout
            self._layouts[number] = self._chooser.choose(self._decoder.stages[number], probe, whole, layout)
        self._done(list(self._chooser.selections))
        if first and cache is not None:
            self._cache = weakref.ref(cache)
            self._decoder.remember(cache, self, self.length)
        if len(self._layouts) == len(self._decoder.stages):
            self._stage, self._done = contextlib.nullcontext, _nothing  # the call and its tensors are let go

    def _refuse(self, offset: int, count: int, cache: Any) -> None:
        name = self._method.name
        if offset != 0 or count < self.length:
            raise UnsupportedError(
                f"method {name!r} ranks by the text of the whole prompt: run it in one pass (no prefill_chunk_size)"
            )
        layers = getattr(cache, "layers", ())
        if getattr(cache, "is_compileable", False) or any(getattr(layer, "is_sliding", False) for layer in layers):
            raise UnsupportedError(
                f"method {name!r} needs a cache whose layers differ in length, and {type(cache).__name__}'s do not: leave "
                "cache_implementation and the cache (past_key_values) at the default, a DynamicCache"
            )


def _nothing(selections: list[Selection]) -> None:
    """What is told of a choice that was told already."""
