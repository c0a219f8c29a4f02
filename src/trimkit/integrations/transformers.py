"""Attach reduction to one transformers model: stock ``generate`` and ``forward`` then see fewer image tokens.

No model code is patched. ``generate`` and ``forward`` are shadowed on the instance; the shadows turn pixels into pre-encoded,
reduced images (``mm_encoder_outputs``, transformers >= 5.18) beside a prompt that is shortened to match, and call the stock
methods. The sequence, the KV cache and the projector's work really shrink. ``detach`` leaves the model as it was.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from packaging.version import Version
from torch import Tensor, nn

from trimkit.errors import ConfigError, TrimkitError, UnsupportedError
from trimkit.integrations._answers import QueryFrom
from trimkit.integrations._call import Pipeline, Reduced
from trimkit.integrations._chat import Chats, Held, reuse
from trimkit.integrations._generation import (
    infer_attention_mask,
    one_sequence_a_row,
    restore_prompt,
    shift_lengths,
    show_whole_prompt,
)
from trimkit.integrations._inputs import Positions, TurnPolicy
from trimkit.integrations._modes import drafts, refuse_paged
from trimkit.integrations._presence import Presence
from trimkit.integrations._shadow import Shadow
from trimkit.integrations._stages import Call, CallSlot
from trimkit.methods import Method
from trimkit.scorers import Scorer
from trimkit.types import Report

__all__ = ["MINIMUM_TRANSFORMERS", "Attachment", "Positions", "TurnPolicy", "attach", "reduce"]

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
        from trimkit.integrations._untraced import run_forward, untraced

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
        self._shadows: list[tuple[Shadow, ...]] = []
        self._presence = Presence(self.model, "forward", self._forward)
        self._prepare, self._finish = untraced(self._prepare_forward), untraced(Call.end_forward)
        self._run_forward = run_forward
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
        """What the last call did: this thread's own, or, where it made none, the last that any thread planned.

        Raises:
            ConfigError: no call with an image has been made yet.
        """
        report = self._slot.report or self._report
        if report is None:
            raise ConfigError("there is no report yet: call the model on an image first")
        return report

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
        handlers = {"generate": self._generate, "__getstate__": self._detached_state}
        self._shadows.append(tuple(Shadow(self.model, name, handler) for name, handler in handlers.items()))
        self._presence.enter()
        return self

    def detach(self) -> None:
        """Leave the model as it was. Harmless when not attached; a running call ends as it began."""
        with contextlib.suppress(IndexError):  # two threads may detach at once
            for shadow in self._shadows.pop():
                shadow.remove()
            self._presence.leave()

    def run_detached(self, stock: Any, inputs: dict[str, Any]) -> Any:
        """One reduced call of ``stock``, the model's own ``generate``, without being attached."""
        with self._presence.held():
            return self._generate(stock, **inputs)

    def __enter__(self) -> Attachment:
        return self if self.attached else self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.detach()

    def __reduce__(self) -> Any:
        """Refuse copying and pickling: it belongs to this one model.

        Raises:
            ConfigError: always.
        """
        raise ConfigError("an attachment cannot be copied or pickled: copy the model and attach the copy")

    def _detached_state(self, stock: Any) -> dict[str, Any]:
        """What a copy or a pickle of the model gets: the model without this attachment, whose methods run the original."""
        state = dict(stock())
        for shadow in itertools.chain.from_iterable(self._shadows):
            shadow.undo(state)
        self._presence.undo(state)
        return state

    def _generate(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock ``generate`` on a shortened prompt; what comes back starts with the prompt as it was given."""
        kwargs = _by_name(stock, args, kwargs)
        query = kwargs.pop("query", None)
        if kwargs.get("inputs") is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"] = kwargs.pop("inputs")
        call = Call(self._pipeline.clock)
        if drafts(kwargs):
            call.passes = True
            return self._run(stock, kwargs, call)
        cache = kwargs.get("past_key_values")
        held = self._chats.take(cache)
        if not self._has_ids(kwargs):
            held = None
        if held is None and not self._covers(kwargs):
            return self._plain(stock, kwargs, call)
        refuse_paged(kwargs)
        input_ids: Tensor = kwargs["input_ids"]
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = infer_attention_mask(self.model.generation_config, kwargs)
        with torch.no_grad():
            reduced = self._pipeline.reduce(kwargs, self._ask(query), call, generating=True, held=held)
        inputs, plan = dict(reduced.inputs), reduced.plan
        if held is not None and call.report is not None:
            call.report = replace(call.report, reused=self._reuse(held, cache, reduced))
        self._keep(call.report)
        if not plan.identity:
            shift_lengths(self.model.generation_config, inputs, input_ids.shape[1] - plan.length)
            show_whole_prompt(inputs, input_ids, plan.length)
        out = self._run(stock, inputs, call)
        if self._one_a_row(inputs):
            self._chats.put(out, cache, reduced.inputs, reduced.fed, reduced.pictures)
        return out if plan.identity else restore_prompt(out, input_ids, plan.length)

    def _plain(self, stock: Any, kwargs: dict[str, Any], call: Call) -> Any:
        """A call without a picture; a picture may come in a later turn."""
        out = self._run(stock, kwargs, call)
        if self._one_a_row(kwargs):
            self._chats.put_text(out, kwargs, self._pipeline.placeholders())
        return out

    def _one_a_row(self, inputs: dict[str, Any]) -> bool:
        return one_sequence_a_row(self.model.generation_config, inputs)

    def _reuse(self, held: Held, cache: Any, reduced: Reduced) -> int:
        """Columns of the cache that serve this turn too."""
        allowed, one_a_row = self._pipeline.family.continues(self.model), self._one_a_row(reduced.inputs)
        return reuse(held, cache, reduced.inputs, reduced.fed, allowed=allowed, one_a_row=one_a_row)

    def _run(self, stock: Any, inputs: dict[str, Any], call: Call) -> Any:
        """Stock ``generate`` as ``call``; its forward passes are seen to the end, though the model be detached meanwhile."""
        with self._presence.held(), self._slot.use(call):
            return stock(**inputs)

    def _forward(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock ``forward`` on shortened inputs; logits have the shortened length, or with ``full_logits`` the given one."""
        if torch.compiler.is_compiling() and not args and self._pipeline.is_plain(kwargs):
            return stock(**kwargs)  # a decoding step: a compiler finds nothing of ours in its way
        return self._run_forward(self._prepare, self._finish, stock, args, kwargs)

    def _prepare_forward(self, stock: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        call, inputs = self._own_forward(stock, args, kwargs)
        call.begin_forward()
        return call, inputs

    def _own_forward(self, stock: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        """The call that a forward pass belongs to, and what stock ``forward`` is to be given."""
        from trimkit.models._output import hand_over

        inputs = _by_name(stock, args, kwargs)
        call = self._slot.current
        if call is not None and (call.passes or not self._pipeline.has_images(inputs)):
            return call, hand_over(inputs)  # inside generate: the inputs are shrunk, only the clock is needed
        call = Call(self._pipeline.clock)
        if not self.attached:  # here for another thread's generate, which outlives the attachment
            return call, inputs
        query = inputs.pop("query", None)
        if not self._covers(inputs):
            return call, inputs
        reduced = self._pipeline.reduce(inputs, self._ask(query), call, generating=False)
        self._keep(call.report)
        if self._full_logits:
            call.mend = self._pipeline.spread(reduced, inputs["input_ids"])
        return call, hand_over(reduced.inputs)

    def _keep(self, report: Report | None) -> None:
        self._report = self._slot.report = report

    def _covers(self, inputs: dict[str, Any]) -> bool:
        """Whether there are images to reduce. Where everything stays, what reduction does not cover is left to the stock call.

        Raises:
            InputError, UnsupportedError: reduction does not cover these inputs, and the method drops tokens.
        """
        try:
            self._pipeline.refuse_cache(inputs)
            if not self._pipeline.has_images(inputs):
                return False
            if not self._has_ids(inputs):
                raise UnsupportedError(
                    "reduction finds the image tokens in input_ids: pass them, without inputs_embeds"
                )
        except TrimkitError:
            if self.method.keeps_all:
                return False
            raise
        return True

    @staticmethod
    def _has_ids(inputs: dict[str, Any]) -> bool:
        return isinstance(inputs.get("input_ids"), Tensor) and inputs.get("inputs_embeds") is None

    def _ask(self, query: str | Sequence[str] | None) -> str | Sequence[str] | None:
        return self.query if query is None else query


def _by_name(stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    names = inspect.signature(stock).parameters if args else ()
    return {**dict(zip(names, args, strict=False)), **kwargs}


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
        cache_images: how many images' (or videos') features are held, by content, on the model's device (LLaVA-1.5: 2.4 MB each
            in half precision); 0 holds none. Weights changed through ``.data`` go unnoticed: call ``clear_cache()`` then.
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
