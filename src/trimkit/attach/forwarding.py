"""``forward`` of an attached model, and of the base model inside it, where pixels enter."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.cache_argument import with_cache_named
from trimkit.attach.call_inputs import by_name, continues_cache
from trimkit.attach.call_record import CallRecord
from trimkit.errors import UnsupportedError

__all__ = ["BaseForward", "ReducedForward"]

Prepared = tuple[CallRecord, contextlib.AbstractContextManager[Any], dict[str, Any]]


class ReducedForward:
    """The whole model's ``forward`` on shortened inputs.

    Args:
        attached: the model and what reduces it.
        full_logits: whether logits get the length of the prompt that was passed.
        base_shadowed: whether the ``forward`` of the base model is shadowed as well.
    """

    def __init__(self, attached: AttachedModel, *, full_logits: bool, base_shadowed: bool) -> None:
        from trimkit.attach.compile_boundary import run_forward, run_untraced

        self._attached = attached
        self._full_logits = full_logits
        self._base_shadowed = base_shadowed
        self._prunes = attached.decoder is not None
        self._run = run_untraced if self._prunes else run_forward

    def __call__(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        """Call ``stock``; logits have the shortened length, or with ``full_logits`` the given one."""
        kwargs = with_cache_named(self._attached.cache_name, kwargs)
        if torch.compiler.is_compiling() and not (args or self._prunes) and self.passes(kwargs):
            return stock(**kwargs)  # a decoding step: a compiler finds nothing of ours in its way
        return self._run(self, stock, args, kwargs)

    def passes(self, kwargs: dict[str, Any]) -> bool:
        """Whether a call is stock whatever else is true."""
        return self._attached.is_plain(kwargs)

    def prepare(self, stock: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Prepared:
        """The call that a forward pass belongs to, the context to run it in, and the inputs of stock ``forward``."""
        inputs = by_name(stock, args, kwargs)
        if self.leaves_to_base(stock, inputs):
            return self._attached.new_call(), contextlib.nullcontext(), inputs
        call, inputs = self.own_call(inputs)
        call.clock.start_prefill()
        return call, self._scope(call), inputs

    def leaves_to_base(self, stock: Any, inputs: dict[str, Any]) -> bool:
        """Whether pixels are reduced where they come to the base model: somebody else's ``forward`` stands in between.

        A trainer's fused loss, for example, whose output this one does not know. It calls the base model with pixels, and
        gets hidden states as long as its labels. Accelerate's hooks are no such thing.
        """
        if not self._base_shadowed:
            return False
        model = self._attached.model
        inner = getattr(stock, "_torchdynamo_orig_callable", stock)  # what torch.compile was given
        own = inspect.ismethod(inner) and inner.__func__ is type(model).forward
        return not own and not hasattr(model, "_hf_hook") and self._attached.has_pixels(inputs)

    def finish(self, call: CallRecord, out: Any) -> Any:
        """The output as the caller gets it."""
        call.clock.stop_prefill()
        if self._prunes and call.report is not None:  # only now is it known what was dropped
            self._attached.keep(call.report)
        return out if call.restore is None else call.restore(out)

    @contextlib.contextmanager
    def _scope(self, call: CallRecord) -> Iterator[None]:
        with self._attached.current.in_forward(), call.pruning:
            yield

    def own_call(self, inputs: dict[str, Any]) -> tuple[CallRecord, dict[str, Any]]:
        """The call that a forward pass belongs to, and what stock ``forward`` is to be given."""
        attached = self._attached
        call = attached.current.record
        if call is not None and (call.passes or not attached.reducer.has_images(inputs)):
            return call, inputs  # a pass of generate: its inputs are reduced, only the clock is needed
        return self.reduced(inputs)

    def reduced(self, inputs: dict[str, Any]) -> tuple[CallRecord, dict[str, Any]]:
        """A call of its own, and its reduced inputs."""
        attached = self._attached
        call = attached.new_call()
        if not attached.active:  # shadowed for another thread's generate, which outlives the attachment
            return call, inputs
        query = inputs.pop("query", None)
        try:
            reduced = attached.reduce(inputs, query, call, generating=False) if attached.covers(inputs) else None
        except UnsupportedError as error:
            attached.allow_unreduced(error)
            reduced = None
        if reduced is None:
            call.pruning = attached.pruning_of(inputs)
            if not continues_cache(inputs):
                attached.keep_empty(call)
            return call, inputs
        attached.keep(call.report)
        if self._full_logits:
            is_image = attached.is_image(inputs["input_ids"])
            call.restore = lambda out: reduced.layout.spread_output(out, is_image)
        return call, reduced.inputs


class BaseForward(ReducedForward):
    """The base model's ``forward``, for whoever calls it without the language-model head: a fused loss, a pooling model.

    Hidden states have the length of the prompt that was passed, so that labels, weights and masks of the caller fit: a text
    column has its own state, an image's columns that of the token before the next text.
    """

    def __init__(self, attached: AttachedModel) -> None:
        super().__init__(attached, full_logits=True, base_shadowed=False)

    def passes(self, kwargs: dict[str, Any]) -> bool:
        return not self._attached.has_pixels(kwargs)

    def __call__(self, stock: Any, *args: Any, **kwargs: Any) -> Any:
        kwargs = with_cache_named(self._attached.cache_name, kwargs)
        # Some models give input_ids by their place; pixels come behind them.
        if len(args) < 2 and self.passes(kwargs) and "query" not in kwargs and not self._on_pruned_layers():
            return stock(*args, **kwargs)  # reduced already, a decoding step, or text alone
        return super().__call__(stock, *args, **kwargs)

    def own_call(self, inputs: dict[str, Any]) -> tuple[CallRecord, dict[str, Any]]:
        call = self._attached.current.record
        if self._attached.current.forwards or (call is not None and call.passes):
            return self._attached.new_call(), inputs  # within the whole model's forward, which has decided
        return self.reduced(inputs)

    def _on_pruned_layers(self) -> bool:
        """Whether this call may go on from a cache whose layers differ in length, outside of the whole model's forward."""
        return self._prunes and not self._attached.current.forwards
