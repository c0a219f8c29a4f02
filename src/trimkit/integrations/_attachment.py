"""What is attached to one model: shadows of ``generate`` and ``forward``, and what they do."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.errors import ConfigError, TrimkitError, UnsupportedError
from trimkit.integrations._call import Pipeline, Reduced
from trimkit.integrations._chat import Chats, Held, only_new, reuse
from trimkit.integrations._generation import (
    count_whole_prompt,
    infer_attention_mask,
    one_sequence_a_row,
    restore_prompt,
)
from trimkit.integrations._inputs import CallSettings, by_name, has_ids
from trimkit.integrations._modes import drafts, refuse_paged
from trimkit.integrations._presence import Presence
from trimkit.integrations._shadow import Shadow
from trimkit.integrations._stages import Call, CallSlot
from trimkit.integrations._version import check_version
from trimkit.methods import Method
from trimkit.scorers import Scorer
from trimkit.types import Report

__all__ = ["Attachment"]


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
        full_logits: bool = False,
        **options: Any,
    ) -> None:
        check_version()
        from trimkit.integrations._untraced import run_forward, untraced

        if hasattr(model, "_orig_mod"):
            raise UnsupportedError("a compiled model cannot be attached: attach the model first, then compile it")
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self.query = query
        named = {field.name for field in fields(CallSettings)} & set(options)
        settings = CallSettings(**{name: options.pop(name) for name in named})
        self._pipeline = Pipeline(self.model, processor, method, scorer, settings, options)
        self._full_logits = full_logits
        self._chats = Chats()
        self._slot = CallSlot()
        self._shadows: list[tuple[Shadow, ...]] = []
        self._presence = Presence(self.model, "forward", self._forward)
        self._prepare, self._finish = untraced(self._prepare_forward), untraced(self._finish_forward)
        self._inside = self._pipeline.decoder is not None  # compiled layers would not see its hooks
        self._run_forward = untraced(run_forward) if self._inside else run_forward
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

    def reduced_lengths(self, inputs: Any, query: str | Sequence[str] | None = None) -> list[int]:
        """Tokens of every row's prompt as the language model would get it, without padding; nothing is generated or reported.

        Args:
            inputs: what ``generate`` would be called with, on the model's device: ``input_ids`` ``[B, L]``, their
                ``attention_mask``, pixels.
            query: as ``generate`` takes it.
        """
        given = dict(inputs)
        if self._pipeline.has_images(given):
            with torch.no_grad():
                call = Call(self._pipeline.clock)
                given = self._pipeline.reduce(given, self._ask(query), call, generating=True).inputs
        return [int(count) for count in given["attention_mask"].sum(dim=1)]

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
        kwargs = by_name(stock, args, kwargs)
        query = kwargs.pop("query", None)
        if kwargs.get("inputs") is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"] = kwargs.pop("inputs")
        call = Call(self._pipeline.clock)
        if drafts(kwargs):
            call.passes = True
            return self._run(stock, kwargs, call)
        cache = kwargs.get("past_key_values")
        held = self._chats.take(cache)
        held = held if has_ids(kwargs) else None
        if held is not None and only_new(kwargs):
            return self._go_on(stock, kwargs, call, held)
        if not (self._covers(kwargs) if held is None else self._replans(kwargs)):
            return self._plain(stock, kwargs, call, held)
        refuse_paged(kwargs)
        input_ids: Tensor = kwargs["input_ids"]
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = infer_attention_mask(self.model.generation_config, kwargs)
        with torch.no_grad(), self._chats.untouched(cache, held):
            reduced = self._pipeline.reduce(kwargs, self._ask(query), call, generating=True, held=held)
        inputs, plan = dict(reduced.inputs), reduced.plan
        with self._chats.emptied(cache, held):
            if held is not None and call.report is not None:
                call.report = replace(call.report, reused=self._reuse(held, cache, reduced))
            self._keep(call.report)
            if not plan.identity:
                count_whole_prompt(self.model.generation_config, inputs, input_ids, plan.length)
            out = self._run(stock, inputs, call)
        if self._one_a_row(inputs):
            self._chats.put(out, cache, reduced.inputs, reduced.fed, reduced.pictures)
        return out if plan.identity else restore_prompt(out, input_ids, plan.length)

    def _plain(self, stock: Any, kwargs: dict[str, Any], call: Call, held: Held | None) -> Any:
        """A call as the stock model runs it; pictures may come in a later turn."""
        call.inside = self._pipeline.around(kwargs)
        out = self._run(stock, kwargs, call)
        if self._one_a_row(kwargs) and held is not None:
            self._chats.put(out, kwargs["past_key_values"], kwargs, held.fed, held.pictures)
        elif self._one_a_row(kwargs):
            self._chats.put_text(out, kwargs, self._pipeline.placeholders())
        return out

    def _go_on(self, stock: Any, kwargs: dict[str, Any], call: Call, held: Held) -> Any:
        """A turn that gives its new words alone, behind what is held; refused with images, or a mask of another length."""
        with self._chats.untouched(kwargs["past_key_values"], held):
            self._pipeline.refuse_cache(kwargs)
        call.inside = self._pipeline.around(kwargs)
        out = self._run(stock, kwargs, call)
        if self._one_a_row(kwargs):
            self._chats.put_more(out, kwargs, held)
        return out

    def _replans(self, inputs: dict[str, Any]) -> bool:
        """Whether a turn on a filled cache is planned anew; with everything kept, only to fit pictures in."""
        return not self.method.keeps_all or self._pipeline.has_images(inputs)

    def _one_a_row(self, inputs: dict[str, Any]) -> bool:
        return one_sequence_a_row(self.model.generation_config, inputs)

    def _reuse(self, held: Held, cache: Any, reduced: Reduced) -> int:
        """Columns of the cache that serve this turn too."""
        allowed, one_a_row = self._pipeline.continues, self._one_a_row(reduced.inputs)
        return reuse(held, cache, reduced.inputs, reduced.fed, allowed=allowed, one_a_row=one_a_row)

    def _run(self, stock: Any, inputs: dict[str, Any], call: Call) -> Any:
        """Stock ``generate`` as ``call``; its forward passes are seen to the end, though the model be detached meanwhile."""
        with self._presence.held(), self._slot.use(call), call.inside:
            return stock(**inputs)

    def _forward(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Stock ``forward`` on shortened inputs; logits have the shortened length, or with ``full_logits`` the given one."""
        if torch.compiler.is_compiling() and not (args or self._inside) and self._pipeline.is_plain(kwargs):
            return stock(**kwargs)  # a decoding step: a compiler finds nothing of ours in its way
        return self._run_forward(self._prepare, self._finish, stock, args, kwargs)

    def _prepare_forward(self, stock: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        call, inputs = self._own_forward(stock, args, kwargs)
        call.begin_forward()
        return call, inputs

    def _finish_forward(self, call: Call, out: Any) -> Any:
        out = call.end_forward(out)
        if self._inside and call.report is not None:  # only now is it known what was dropped
            self._keep(call.report)
        return out

    def _own_forward(self, stock: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Call, dict[str, Any]]:
        """The call that a forward pass belongs to, and what stock ``forward`` is to be given."""
        from trimkit.models._output import hand_over

        inputs = by_name(stock, args, kwargs)
        call = self._slot.current
        if call is not None and (call.passes or not self._pipeline.has_images(inputs)):
            return call, hand_over(inputs)  # inside generate: the inputs are shrunk, only the clock is needed
        call = Call(self._pipeline.clock)
        if not self.attached:  # here for another thread's generate, which outlives the attachment
            return call, inputs
        query = inputs.pop("query", None)
        if not self._covers(inputs):
            call.inside = self._pipeline.around(inputs)
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
            if not has_ids(inputs):
                raise UnsupportedError(
                    "reduction finds the image tokens in input_ids: pass them, without inputs_embeds"
                )
        except TrimkitError:
            if self.method.keeps_all:
                return False
            raise
        return True

    def _ask(self, query: str | Sequence[str] | None) -> str | Sequence[str] | None:
        return self.query if query is None else query
