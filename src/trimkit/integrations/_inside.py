"""Dropping image tokens inside the language model: hooks on the decoder layers of one model, there for one call.

Up to layer K everything is as ever. Before layer K the image tokens are ranked by what the last prompt token attends to in
layer K - 1, and dropped columns leave: hidden states, masks, rotary embeddings and from there on the caches are shorter. Behind
the last layer each column is put back where it was, so that whoever called sees nothing of it. No class is patched.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from trimkit.errors import ConfigError, UnsupportedError
from trimkit.integrations._inside_attention import REGISTERING, Tap, output_projection
from trimkit.integrations._inside_layout import Columns, Layout, Prompts, cut_mask, plan_layout, take
from trimkit.methods import Method
from trimkit.reducer import select_inside
from trimkit.types import ImageTokens, Selection

__all__ = ["Decoder", "Inside", "everything"]

_ALONG_SEQUENCE = ("position_ids", "cache_position")


class Decoder:
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
        self._held: WeakKeyDictionary[Any, Inside] = WeakKeyDictionary()
        self.active: dict[int, list[Inside]] = {}  # by thread: calls within calls

    def remember(self, cache: Any, inside: Inside) -> None:
        """``cache`` is filled by a call that drops tokens."""
        self._held[cache] = inside

    def of(self, cache: Any) -> contextlib.AbstractContextManager[Any]:
        """What has to be around a later call on ``cache``."""
        inside = None if cache is None else self._held.get(cache)
        if inside is None or cache.get_seq_length() < inside.length:
            return contextlib.nullcontext()
        return inside

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


class Inside:
    """One call during which tokens are dropped; a context manager, which may be entered again within itself.

    Args:
        decoder: where.
        method: what chooses.
        prompts: the prompts.
        stage: gives a context that times the choice.
        done: is told the selections.
    """

    def __init__(
        self,
        decoder: Decoder,
        method: Method,
        prompts: Prompts,
        stage: Callable[[], contextlib.AbstractContextManager[Any]],
        done: Callable[[list[Selection]], None],
    ) -> None:
        self.length = int(prompts.places.shape[1])
        self._decoder, self._method, self._prompts = decoder, method, prompts
        self._stage, self._done = stage, done
        self._tap = Tap(decoder.layers[decoder.first - 1].self_attn)
        self._decided = False
        self._layout: Layout | None = None
        self._pass: _Pass | None = None
        self._cache: Callable[[], Any] = lambda: None  # that of the prompts, weakly
        self._depth, self._thread = 0, 0
        self._hooks: list[Any] = []
        if prompts.deepest > decoder.first:
            raise UnsupportedError(
                f"{decoder.name} adds image features up to layer {prompts.deepest}: give layer={prompts.deepest} or more"
            )

    def __enter__(self) -> Inside:
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
            tap = layers[first - 1].self_attn.register_forward_pre_hook(self._record, with_kwargs=True)
            cut = [layer.register_forward_pre_hook(self._cut, with_kwargs=True) for layer in layers[first:]]
            # In front: whoever collects hidden states sees the last layer's spread.
            self._hooks = [tap, *cut, layers[-1].register_forward_hook(self._spread, prepend=True)]

    def _mine(self) -> bool:
        """Whether this pass is of this call, and not of one within it or of another thread's."""
        calls = self._decoder.active.get(threading.get_ident(), [])
        return bool(calls) and calls[-1] is self

    # A hook that is being removed may be called once more by another thread, without kwargs.
    def _record(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if self._decided or not self._mine():
            return None
        return args, self._tap.record(args, kwargs)

    def _cut(self, module: Any, args: tuple[Any, ...], kwargs: Any = None) -> Any:
        if not self._mine():
            return None
        hidden, args, kwargs = _hidden_and_rest(args, kwargs)
        if module is self._decoder.layers[self._decoder.first]:
            self._pass = self._begin(hidden, kwargs.get("past_key_values"))
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

    def _begin(self, hidden: Tensor, cache: Any) -> _Pass | None:
        """What this pass is to run on; in the first one, what goes on is chosen."""
        count = hidden.shape[1]
        offset = 0 if cache is None else int(cache.get_seq_length()) - count
        if not self._decided:
            self._refuse(offset, count, cache)
            with self._stage():
                self._layout = self._choose(hidden)
            self._decided = True
            if cache is not None:
                self._cache = weakref.ref(cache)
                self._decoder.remember(cache, self)
        # A call within this one, or guidance, runs on a cache of its own.
        if self._layout is None or cache is not self._cache():
            return None
        at = self._layout.at(offset, count, len(hidden), hidden.device)
        return _Pass(self._layout, at, hidden, self._decoder.module.config._attn_implementation)

    def _choose(self, hidden: Tensor) -> Layout | None:
        """Rank the images' tokens, and plan what goes on."""
        prompts = self._prompts
        every = len(hidden) // len(prompts.places)
        rows = list(dict.fromkeys(prompts.rows))
        of_row = [
            torch.cat([c for c, at in zip(prompts.columns, prompts.rows, strict=True) if at == row]) for row in rows
        ]
        columns = torch.zeros(len(prompts.places), max(map(len, of_row)), dtype=torch.int64, device=hidden.device)
        for row, each in zip(rows, of_row, strict=True):
            columns[row, : len(each)] = each.to(hidden.device)
        weights = self._tap.attention_to(columns, prompts.last, self.length)
        attention, features, used = [], [], dict.fromkeys(rows, 0)
        for places, row in zip(prompts.columns, prompts.rows, strict=True):
            attention.append(weights[row, used[row] : used[row] + len(places)])
            used[row] += len(places)
            features.append(hidden[row * every, places.to(hidden.device)].detach())
        with torch.no_grad():
            selections = select_inside(attention, features, prompts.rows, self._method)
        self._done(selections)
        return plan_layout(prompts.places, prompts.real, selections, prompts.rows)

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
                "cache_implementation and past_key_values at the default, a DynamicCache"
            )


class _Pass:
    """One pass through the shortened layers."""

    def __init__(self, layout: Layout, at: Columns, whole: Tensor, implementation: str) -> None:
        self._layout, self._at, self._whole = layout, at, whole
        self._cuts = at.first == 0
        self._implementation = implementation
        self._masks: dict[int, tuple[Any, Any]] = {}

    def hidden(self) -> Tensor:
        return self._layout.cut(self._whole, self._at) if self._cuts else self._whole

    def spread(self, short: Tensor) -> Tensor:
        return self._layout.spread(short, self._whole, self._at) if self._cuts else short

    def arguments(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """A layer's keyword arguments for what is left of the sequence."""
        out = {**kwargs, "attention_mask": self._mask(kwargs.get("attention_mask"))}
        if not self._cuts:
            return out
        for name, value in kwargs.items():
            if name == "position_embeddings" and value is not None:
                out[name] = tuple(take(each, self._at.queries) for each in value)
            elif name in _ALONG_SEQUENCE and value is not None:
                # FlashAttention takes gaps for packed sequences; what layers rotate by is in position_embeddings
                flash = "flash" in self._implementation and kwargs.get("position_embeddings") is not None
                gone = flash or value.ndim == 1
                out[name] = None if gone else take(value.unsqueeze(-1), self._at.queries).squeeze(-1)
            elif name != "attention_mask" and isinstance(value, Tensor) and self._whole.shape[1] in value.shape:
                raise UnsupportedError(
                    f"layers are given {name!r}, which cannot be cut: use a method that drops tokens before"
                )
        return out

    def _mask(self, mask: Any) -> Any:
        if id(mask) not in self._masks:  # with the mask itself, so that its id stays its own
            self._masks[id(mask)] = mask, cut_mask(mask, self._at, self._implementation)
        return self._masks[id(mask)][1]


def _hidden_and_rest(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Tensor, tuple[Any, ...], dict[str, Any]]:
    """Hidden states, and the other arguments of a layer.

    Raises:
        UnsupportedError: others that have no name.
    """
    if len(args) > 1:
        raise UnsupportedError(
            "layers of this language model are given more than hidden states (inputs of their own): use a method that drops "
            "tokens before it"
        )
    rest = dict(kwargs)
    hidden = args[0] if args else rest.pop("hidden_states")
    return hidden, (), rest


def everything(images: Sequence[ImageTokens]) -> list[Selection]:
    """All tokens of every image."""
    return [Selection(torch.arange(len(image), device=image.features.device), len(image)) for image in images]
