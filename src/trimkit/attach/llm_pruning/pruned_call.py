"""Dropping image tokens inside the language model: hooks on the decoder layers of one model, there for one call.

Up to layer K everything is as ever. Before layer K the image tokens are ranked by what the last prompt token attends to in
layer K - 1, and dropped columns leave: hidden states, masks, rotary embeddings and from there on the caches are shorter. Behind
the last layer each column is put back where it was, so that whoever called sees nothing of it. No class is patched.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.cache_argument import cache_of
from trimkit.attach.llm_pruning.attention import REGISTERING, AttentionProbe
from trimkit.attach.llm_pruning.decoder import PrunableDecoder
from trimkit.attach.llm_pruning.layer_layout import LayerLayout, Prompts, plan_layers
from trimkit.attach.llm_pruning.short_pass import ShortPass, hidden_and_rest
from trimkit.core.types import Selection
from trimkit.errors import UnsupportedError
from trimkit.methods import Method
from trimkit.pipeline.selecting import select_by_attention

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
        self._decoder, self._method, self._prompts = decoder, method, prompts
        self._stage, self._done = stage, done
        self._probe = AttentionProbe(decoder.layers[decoder.first - 1].self_attn)
        self._decided = False
        self._layout: LayerLayout | None = None
        self._pass: ShortPass | None = None
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
            record = layers[first - 1].self_attn.register_forward_pre_hook(self._record, with_kwargs=True)
            cut = [layer.register_forward_pre_hook(self._cut, with_kwargs=True) for layer in layers[first:]]
            # In front: whoever collects hidden states sees the last layer's spread.
            self._hooks = [record, *cut, layers[-1].register_forward_hook(self._spread, prepend=True)]

    def _mine(self) -> bool:
        """Whether this pass is of this call, and not of one within it or of another thread's."""
        calls = self._decoder.active.get(threading.get_ident(), [])
        return bool(calls) and calls[-1] is self

    # A hook that is being removed may be called once more by another thread, without kwargs.
    def _record(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if self._decided or not self._mine():
            return None
        return args, self._probe.record(args, kwargs)

    def _cut(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if not self._mine():
            return None
        hidden, args, kwargs = hidden_and_rest(args, kwargs)
        if module is self._decoder.layers[self._decoder.first]:
            self._pass = self._begin(hidden, cache_of(kwargs))
            if self._pass is not None:
                hidden = self._pass.hidden()
        if self._pass is None:
            return None
        return (hidden, *args), self._pass.arguments(kwargs)

    def _spread(self, module: Any, args: tuple[Any, ...], out: Any) -> Any:
        if not self._mine() or self._pass is None:
            return None
        done, self._pass = self._pass, None
        return (done.spread(out[0]), *out[1:]) if isinstance(out, tuple) else done.spread(out)

    def _begin(self, hidden: Tensor, cache: Any) -> ShortPass | None:
        """What this pass is to run on; in the first one, what goes on is chosen."""
        count = hidden.shape[1]
        offset = 0 if cache is None else int(cache.get_seq_length()) - count
        if not self._decided:
            self._refuse(offset, count, cache)
            with self._stage():
                self._layout = self._choose(hidden)
            self._decided = True
            self._stage, self._done = contextlib.nullcontext, _nothing  # the call and its tensors are let go
            if cache is not None:
                self._cache = weakref.ref(cache)
                self._decoder.remember(cache, self, self.length)
        # A call within this one, or guidance, runs on a cache of its own.
        if self._layout is None or cache is not self._cache():
            return None
        at = self._layout.at(offset, count, len(hidden), hidden.device)
        return ShortPass(self._layout, at, hidden, self._decoder.module.config._attn_implementation)

    def _choose(self, hidden: Tensor) -> LayerLayout | None:
        """Rank the images' tokens, and plan what goes on."""
        prompts = self._prompts
        every = len(hidden) // len(prompts.places)
        rows = list(dict.fromkeys(prompts.rows))
        of_row = [
            torch.cat([c for c, at in zip(prompts.columns, prompts.rows, strict=True) if at == row]) for row in rows
        ]
        columns = torch.zeros(len(prompts.places), max(map(len, of_row)), dtype=torch.int64, device=hidden.device)
        for row, each in zip(rows, of_row, strict=True):
            columns[row, : len(each)] = each.to(hidden.device, non_blocking=True)
        weights = self._probe.attention_to(columns, prompts.last, self.length, whole=prompts.whole)
        attention, features, used = [], [], dict.fromkeys(rows, 0)
        for places, row in zip(prompts.columns, prompts.rows, strict=True):
            attention.append(weights[row, used[row] : used[row] + len(places)])
            used[row] += len(places)
            features.append(hidden[row * every, places.to(hidden.device, non_blocking=True)].detach())
        with torch.no_grad():
            selections = select_by_attention(attention, features, prompts.rows, self._method)
        self._done(selections)
        return plan_layers(prompts.places, prompts.real, selections, prompts.rows)

    def _refuse(self, offset: int, count: int, cache: Any) -> None:
        name = self._method.name
        if offset != 0 or count < self.length:
            raise UnsupportedError(
                f"method {name!r} ranks by the last token of the whole prompt: run it in one pass (no prefill_chunk_size)"
            )
        layers = getattr(cache, "layers", ())
        if getattr(cache, "is_compileable", False) or any(getattr(layer, "is_sliding", False) for layer in layers):
            raise UnsupportedError(
                f"method {name!r} needs a cache whose layers differ in length, and {type(cache).__name__}'s do not: leave "
                "cache_implementation and the cache (past_key_values) at the default, a DynamicCache"
            )


def _nothing(selections: list[Selection]) -> None:
    """What is told of a choice that was told already."""
