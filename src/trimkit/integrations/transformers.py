"""Attach reduction to one transformers model: stock ``generate`` and ``forward`` then see fewer image tokens.

No model code is patched. ``generate`` and ``forward`` are shadowed on the instance; the shadows turn pixels into pre-encoded,
reduced images (``mm_encoder_outputs``, transformers >= 5.18) beside a prompt that is shortened to match, and call the stock
methods. The sequence, the KV cache and the projector's work really shrink. ``detach`` leaves the model as it was.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from trimkit.errors import ConfigError, UnsupportedError
from trimkit.integrations._answers import QueryFrom
from trimkit.integrations._call import Call, CallSlot, Pipeline, Positions, Reduced
from trimkit.integrations._chat import Chats, Held, Pictures, reuse
from trimkit.integrations._generation import (
    infer_attention_mask,
    one_sequence_a_row,
    restore_prompt,
    shift_lengths,
    show_whole_prompt,
)
from trimkit.integrations._questions import TurnPolicy
from trimkit.integrations._shadow import Shadow
from trimkit.methods import Method
from trimkit.scorers import Scorer
from trimkit.types import Report

__all__ = ["MINIMUM_TRANSFORMERS", "Attachment", "attach", "reduce"]

MINIMUM_TRANSFORMERS = "5.18"


class Attachment:
    """Reduction on one model instance; a context manager, or ``attach`` and ``detach`` by hand.

    Built by ``trimkit.reduce`` and ``trimkit.attach``, which document the arguments.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        method: str | Method = "trim",
        scorer: Scorer | nn.Module | str | Path | None = None,
        query: str | Sequence[str] | None = None,
        cache_images: int = 32,
        turns: TurnPolicy = "refresh",
        positions: Positions = "auto",
        query_from: QueryFrom = "question",
        full_logits: bool = False,
        **options: Any,
    ) -> None:
        _check_version()
        if hasattr(model, "_orig_mod"):
            raise UnsupportedError("a compiled model cannot be attached: attach the model first, then compile it")
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.query = query
        self._pipeline = Pipeline(
            self.model, processor, method, scorer, cache_images, turns, positions, options, query_from
        )
        self._full_logits = full_logits
        self._chats = Chats()
        self._slot = CallSlot()
        self._shadows: dict[str, Shadow] = {}
        self._report: Report | None = None

    @property
    def method(self) -> Method:
        """The method in use, with its options."""
        return self._pipeline.method

    @property
    def attached(self) -> bool:
        """Whether the model is being reduced now."""
        return bool(self._shadows)

    @property
    def report(self) -> Report:
        """What the last call did; of several threads', the one that was planned last.

        Raises:
            ConfigError: no call with an image has been made yet.
        """
        if self._report is None:
            raise ConfigError("there is no report yet: call the model on an image first")
        return self._report

    def clear_cache(self) -> None:
        """Forget cached image features and question embeddings."""
        self._pipeline.clear_caches()

    def attach(self) -> Attachment:
        """Start reducing.

        Raises:
            ConfigError: this model has an attachment already.
        """
        if isinstance(getattr(self.model, "generate", None), Shadow):
            raise ConfigError("this model is attached already: detach it (or leave its `with` block) first")
        for name, handler in (("generate", self._generate), ("forward", self._forward)):
            self._shadows[name] = Shadow(self.model, name, handler)
        return self

    def detach(self) -> None:
        """Leave the model as it was. Harmless when not attached; a running call ends as it began."""
        while self._shadows:
            self._shadows.popitem()[1].remove()

    def __enter__(self) -> Attachment:
        return self if self.attached else self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def _generate(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock ``generate`` on a shortened prompt; what comes back starts with the prompt as it was given."""
        kwargs = {**dict(zip(inspect.signature(stock).parameters, args, strict=False)), **kwargs}
        query = kwargs.pop("query", None)
        inputs = kwargs.pop("inputs", None)
        if inputs is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"] = inputs
        cache = kwargs.get("past_key_values")
        held = self._chats.get(cache)
        self._chats.forget(cache)
        call = Call(self._pipeline.clock)
        if held is None:
            self._pipeline.refuse_cache(kwargs)
            if not self._pipeline.has_images(kwargs):
                return self._plain(stock, kwargs, call)
        input_ids = self._ids(kwargs)
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = infer_attention_mask(self.model.generation_config, kwargs)
        with torch.no_grad():
            reduced = self._pipeline.reduce(kwargs, self._ask(query), call, generating=True, held=held)
        inputs, plan = dict(reduced.inputs), reduced.plan
        if held is not None and call.report is not None:
            call.report = replace(call.report, reused=self._reuse(held, cache, reduced))
        self._report = call.report
        if not plan.identity:
            shift_lengths(self.model.generation_config, inputs, input_ids.shape[1] - plan.length)
            show_whole_prompt(inputs, input_ids, plan.length)
        with self._slot.use(call):
            out = stock(**inputs)
        self._remember(out, cache, reduced.inputs, reduced.features, reduced.pictures)
        return out if plan.identity else restore_prompt(out, input_ids, plan.length)

    def _plain(self, stock: Any, kwargs: dict[str, Any], call: Call) -> Any:
        """A call without a picture; a picture may come in a later turn."""
        with self._slot.use(call):
            out = stock(**kwargs)
        if isinstance(kwargs.get("input_ids"), Tensor):
            self._remember(out, kwargs.get("past_key_values"), kwargs, torch.empty(0, 0), Pictures())
        return out

    def _remember(self, out: Any, cache: Any, prompt: dict[str, Any], features: Tensor, pictures: Pictures) -> None:
        """Note what the cache of a finished call holds, for the turns that follow."""
        if one_sequence_a_row(self.model.generation_config, prompt):
            self._chats.put(out, cache, prompt, features, pictures)

    def _reuse(self, held: Held, cache: Any, reduced: Reduced) -> int:
        """Columns of the cache that serve this turn too."""
        return reuse(
            held,
            cache,
            reduced.inputs,
            reduced.features,
            self._pipeline.image_token_id,
            allowed=self._pipeline.family.continues(self.model),
            one_a_row=one_sequence_a_row(self.model.generation_config, reduced.inputs),
        )

    def _forward(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock ``forward`` on shortened inputs; logits have the shortened length, or with ``full_logits`` the given one."""
        from trimkit.models._output import hand_over

        call = self._slot.current
        if call is not None:  # inside generate: the inputs are shrunk, only the clock is needed
            with call.prefill():
                return stock(*args, **hand_over(kwargs))
        inputs = {**dict(zip(inspect.signature(stock).parameters, args, strict=False)), **kwargs}
        query = inputs.pop("query", None)
        self._pipeline.refuse_cache(inputs)
        if not self._pipeline.has_images(inputs):
            return stock(**inputs)
        is_image = self._ids(inputs) == self._pipeline.image_token_id
        call = Call(self._pipeline.clock)
        reduced = self._pipeline.reduce(inputs, self._ask(query), call, generating=False)
        self._report = call.report
        with call.prefill():
            out = stock(**hand_over(reduced.inputs))
        return reduced.plan.spread_logits(out, is_image) if self._full_logits else out

    def _ids(self, inputs: dict[str, Any]) -> Tensor:
        input_ids = inputs.get("input_ids")
        if not isinstance(input_ids, Tensor) or inputs.get("inputs_embeds") is not None:
            raise UnsupportedError("reduction finds the image tokens in input_ids: pass them, without inputs_embeds")
        return input_ids

    def _ask(self, query: str | Sequence[str] | None) -> str | Sequence[str] | None:
        return self.query if query is None else query


def reduce(
    model: Any,
    processor: Any = None,
    *,
    method: str | Method = "trim",
    scorer: Scorer | nn.Module | str | Path | None = None,
    query: str | Sequence[str] | None = None,
    cache_images: int = 32,
    turns: TurnPolicy = "refresh",
    positions: Positions = "auto",
    query_from: QueryFrom = "question",
    full_logits: bool = False,
    **options: Any,
) -> Attachment:
    """Reduce a model's image tokens within a ``with`` block.

    Args:
        model: a transformers vision-language model, or a PEFT model around one.
        processor: its processor; reads the question back from the prompt. Not needed with ``query`` or without text.
        method: a name from ``trimkit methods`` or a ``Method``.
        scorer: where text relevance comes from: a ``Scorer``, a ``CLIPModel``, a directory or a hub id. By default what the
            checkpoint's ``trimkit.json`` names, else the public CLIP that the family's tower was taken from.
        query: the question (one for all rows, or one a row); by default the last user turn of each prompt. A call may
            override it: ``model.generate(..., query=[...])``.
        cache_images: how many images' features are held, by content, on the model's device (LLaVA-1.5: 2.4 MB each in half
            precision); 0 holds none. Weights changed through ``.data`` go unnoticed: call ``clear_cache()`` then.
        turns: what a later question of a conversation sees of an earlier picture: the tokens relevant to it (``refresh``),
            those chosen for the first question about the picture (``first``), or for any question so far (``union``). With a
            ``past_key_values`` of earlier turns, what is the same at the head of the prompt is not run again.
        positions: ``contiguous`` numbers the tokens that are left, ``original`` leaves each its place in the full prompt.
            ``auto``: contiguous; original where positions are 3-D (M-RoPE).
        query_from: what is read from a prompt where no ``query`` is given. ``question``: no answer, in training either.
            ``conversation-with-answers``: all that both sides say, as the released training recipe does; there the answers
            that are to be learnt choose the patches, which they cannot do when the model is asked.
        full_logits: direct calls return logits as long as the prompt was passed, at every text token those that it gave: for a
            loss or a metric outside the model, which compares them with uncut labels.
        **options: fields of the method, for example ``budget=0.2``.

    Raises:
        UnknownNameError, ConfigError: the method or its options.
        UnsupportedError: the model takes no pre-encoded images.
        ModelError: the scorer's checkpoint (on first use).
    """
    return Attachment(
        model,
        processor,
        method=method,
        scorer=scorer,
        query=query,
        cache_images=cache_images,
        turns=turns,
        positions=positions,
        query_from=query_from,
        full_logits=full_logits,
        **options,
    )


def attach(model: Any, processor: Any = None, **arguments: Any) -> Attachment:
    """Reduce a model's image tokens until ``detach()``. Takes what ``reduce`` takes."""
    return Attachment(model, processor, **arguments).attach()


def _check_version() -> None:
    import transformers

    if Version(transformers.__version__).release < Version(MINIMUM_TRANSFORMERS).release:
        raise UnsupportedError(
            f"transformers {transformers.__version__} is too old: trimkit needs {MINIMUM_TRANSFORMERS} or newer, where "
            "models take pre-encoded images; upgrade with `pip install -U transformers`"
        )
