"""``generate`` of an attached model: stock ``generate`` on a shortened prompt, turn after turn of a conversation."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.cache_argument import cache_of, with_cache_named
from trimkit.attach.call_inputs import by_name, has_ids, is_draft, refuse_paged
from trimkit.attach.call_record import CallRecord
from trimkit.attach.conversation import (
    CacheState,
    ConversationMemory,
    PlaceholderFeatures,
    left_cache,
    only_new,
    reuse,
)
from trimkit.attach.forward_shadows import ForwardShadows
from trimkit.attach.generation import (
    count_whole_prompt,
    infer_attention_mask,
    one_sequence_a_row,
    restore_prompt,
)
from trimkit.errors import UnsupportedError

__all__ = ["ReducedGenerate"]


class ReducedGenerate:
    """Calls stock ``generate`` with reduced inputs.

    Args:
        attached: the model and what reduces it.
        forwards: the shadows of ``forward``, which are there while it runs.
    """

    def __init__(self, attached: AttachedModel, forwards: ForwardShadows) -> None:
        self._attached = attached
        self._forwards = forwards
        self._memory = ConversationMemory()

    def __call__(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """What comes back starts with the prompt as it was given."""
        kwargs = with_cache_named(self._attached.cache_name, by_name(stock, args, kwargs))
        query = kwargs.pop("query", None)
        if kwargs.get("inputs") is not None and kwargs.get("input_ids") is None:
            kwargs["input_ids"] = kwargs.pop("inputs")
        call = self._attached.new_call()
        if is_draft(kwargs):
            call.passes = True
            return self._run(stock, kwargs, call)
        state = self._memory.take(cache_of(kwargs))
        state = state if has_ids(kwargs) else None
        if state is not None and only_new(kwargs):
            return self._continued(stock, kwargs, call, state)
        if not (self._attached.covers(kwargs) if state is None else self._plans_anew(kwargs)):
            return self._plain(stock, kwargs, call, state)
        return self._reduced(stock, kwargs, call, state, query)

    def _reduced(
        self, stock: Any, kwargs: dict[str, Any], call: CallRecord, state: CacheState | None, query: Any
    ) -> Any:
        """A call with pictures, of this turn or of earlier ones."""
        attached, cache = self._attached, cache_of(kwargs)
        refuse_paged(kwargs)
        input_ids: Tensor = kwargs["input_ids"]
        if kwargs.get("attention_mask") is None:
            kwargs["attention_mask"] = infer_attention_mask(attached.model.generation_config, kwargs)
        with torch.no_grad(), self._memory.untouched(cache, state):
            earlier = None if state is None else state.media
            try:
                reduced = attached.reduce(kwargs, query, call, generating=True, earlier=earlier)
            except UnsupportedError as error:
                if state is not None:
                    raise
                attached.allow_unreduced(error)
                return self._plain(stock, kwargs, call, state)
        # They are changed where a cache is gone on from, and read once more where what is in it is remembered.
        inputs, layout = dict(reduced.model_inputs) if state is None else reduced.inputs, reduced.layout
        with self._memory.emptied(cache, state):
            if state is not None and call.report is not None:
                placed, one_a_row = PlaceholderFeatures.of(reduced), self._one_a_row(inputs)
                reused = reuse(state, cache, inputs, placed, allowed=attached.continues, one_a_row=one_a_row)
                call.report = replace(call.report, reused=reused)
            attached.keep(call.report)
            if not layout.identity:
                count_whole_prompt(attached.model.generation_config, inputs, input_ids, layout.length)
            out = self._run(stock, inputs, call)
        if left_cache(out, cache) is not None and self._one_a_row(inputs):
            self._memory.put(out, cache, reduced.model_inputs, PlaceholderFeatures.of(reduced), reduced.media)
        return out if layout.identity else restore_prompt(out, input_ids, layout.length)

    def _plain(self, stock: Any, kwargs: dict[str, Any], call: CallRecord, state: CacheState | None) -> Any:
        """A call as the stock model runs it; pictures may come in a later turn."""
        call.pruning = self._attached.pruning_of(kwargs)
        self._attached.keep_empty(call)
        out = self._run(stock, kwargs, call)
        if self._one_a_row(kwargs) and state is not None:
            self._memory.put(out, cache_of(kwargs), kwargs, state.placed, state.media)
        elif self._one_a_row(kwargs):
            self._memory.put_text(out, kwargs, self._attached.reducer.placeholder_ids())
        return out

    def _continued(self, stock: Any, kwargs: dict[str, Any], call: CallRecord, state: CacheState) -> Any:
        """A turn that gives its new words alone, behind what is cached; refused with images, or a mask of another length."""
        with self._memory.untouched(cache_of(kwargs), state):
            self._attached.keep(None)
            self._attached.refuse_cache(kwargs)
        self._attached.keep_empty(call)
        call.pruning = self._attached.pruning_of(kwargs)
        out = self._run(stock, kwargs, call)
        if self._one_a_row(kwargs):
            self._memory.put_more(out, kwargs, state)
        return out

    def _plans_anew(self, inputs: dict[str, Any]) -> bool:
        """Whether a turn on a filled cache is planned anew; with everything kept, only to fit pictures in."""
        return not self._attached.method.keeps_all or self._attached.reducer.has_images(inputs)

    def _one_a_row(self, inputs: dict[str, Any]) -> bool:
        return one_sequence_a_row(self._attached.model.generation_config, inputs)

    def _run(self, stock: Any, inputs: dict[str, Any], call: CallRecord) -> Any:
        """Stock ``generate`` as ``call``; its forward passes stay shadowed to the end, whoever detaches the model."""
        with self._forwards.placed(), self._attached.current.generating(call), call.pruning:
            return stock(**inputs)
