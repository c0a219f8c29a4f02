"""What ``generate`` and ``forward`` of an attached model share: the reducer, the running call, and what a call may be given."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from trimkit.attach.cache_argument import cache_name, cache_of
from trimkit.attach.call_inputs import has_ids, refuse_filled_cache
from trimkit.attach.call_record import CallRecord, CurrentCall
from trimkit.attach.llm_pruning import Prompts, PrunableDecoder, PrunedCall
from trimkit.core.choices import OnUnreduced, check_choice
from trimkit.core.types import Report, Selection
from trimkit.errors import ConfigError, TrimkitError, UnsupportedError
from trimkit.methods import Method
from trimkit.models import ModelInputs
from trimkit.pipeline.input_reducer import InputReducer
from trimkit.pipeline.media import EarlierMedia, refuse_video
from trimkit.pipeline.reduced_inputs import ReducedInputs

__all__ = ["AttachedModel"]


class AttachedModel:
    """One model with what reduces its inputs.

    Args:
        model: the model.
        reducer: made for it.
        query: the question where a call names none; None to read it from the prompt.
        on_unreduced: what happens to a call that brings images and cannot be reduced, see ``trimkit.reduce``.

    Attributes:
        active: whether the model is attached now.
        cache_name: the argument in which the model takes a cache.
    """

    def __init__(
        self, model: Any, reducer: InputReducer, query: str | Sequence[str] | None, on_unreduced: OnUnreduced
    ) -> None:
        check_choice("on_unreduced", on_unreduced, OnUnreduced)
        self.model = model
        self.reducer = reducer
        self.query = query
        self.active = False
        self.cache_name = cache_name(model.forward)
        self._on_unreduced = on_unreduced
        self.current = CurrentCall()
        self.decoder: PrunableDecoder | None = None
        if self.method.prunes_llm:
            self.decoder = PrunableDecoder(model, self.method, own_positions=reducer.family.own_positions)
        self._report: Report | None = None
        self._pixels = tuple(medium.pixels(model) for medium in reducer.media)

    @property
    def method(self) -> Method:
        """What chooses."""
        return self.reducer.method

    @property
    def report(self) -> Report:
        """What the last call did: this thread's own, or, where it made none, the last that any thread made.

        Raises:
            ConfigError: no call with an image has been made yet.
        """
        report = self.current.report or self._report
        if report is None:
            raise ConfigError("there is no report yet, or the last call failed: call the model on an image")
        return report

    @property
    def continues(self) -> bool:
        """Whether a later turn may be run on top of a cache; not where its layers were cut for another question."""
        return self.decoder is None and self.reducer.family.continues(self.model)

    def keep(self, report: Report | None) -> None:
        """Make it the report of the last call; None while a call runs, and after one that failed."""
        self._report = self.current.report = report

    def sibling(self, reducer: InputReducer) -> AttachedModel:
        """The same model, its calls and reports shared, reduced by another reducer."""
        other = AttachedModel(self.model, reducer, self.query, self._on_unreduced)
        other.current = self.current
        return other

    def keep_empty(self, call: CallRecord) -> None:
        """The report of a call without pictures, or of one that ran with all image tokens because the user allows it."""
        call.report = Report(self.method.name, (), call.clock.seconds)
        self.keep(call.report)

    def new_call(self) -> CallRecord:
        """A record with its clock at zero."""
        return CallRecord(self.model.device)

    def reduce(
        self,
        inputs: ModelInputs,
        query: str | Sequence[str] | None,
        call: CallRecord,
        *,
        generating: bool,
        earlier: EarlierMedia | None = None,
    ) -> ReducedInputs:
        """Reduced inputs of ``call``; its report, and what drops tokens inside the language model, are left in it."""
        question = self.query if query is None else query
        self.keep(None)
        reduced = self.reducer.reduce(inputs, question, call.clock, generating=generating, earlier=earlier)
        call.report = reduced.report
        if self.decoder is not None and reduced.items:
            images, rows = [item.image for item in reduced.items], [item.row for item in reduced.items]

            def done(selections: Sequence[Selection]) -> None:
                call.report = reduced.report_of(selections)

            prompts = Prompts(reduced.inputs, reduced.placeholders.long(), images, rows)
            call.pruning = PrunedCall(self.decoder, self.method, prompts, lambda: call.clock.stage("select"), done)
        return reduced

    def has_pixels(self, inputs: ModelInputs) -> bool:
        """Whether pictures or videos are given as pixels, empty or not."""
        return any(inputs.get(name) is not None for name in self._pixels)

    def is_plain(self, inputs: ModelInputs) -> bool:
        """Whether there are neither pixels nor encoded images, nor a question: a decoding step, or text alone."""
        return not self.has_pixels(inputs) and all(inputs.get(name) is None for name in ("mm_encoder_outputs", "query"))

    def covers(self, inputs: ModelInputs) -> bool:
        """Whether there are images to reduce. Where everything stays, what reduction does not cover is left to the stock call.

        Raises:
            InputError, UnsupportedError: reduction does not cover these inputs, and the method drops tokens.
        """
        try:
            self.refuse_cache(inputs)
            if not self.reducer.has_images(inputs):
                return False
            if not has_ids(inputs):
                raise UnsupportedError(
                    "reduction finds the image tokens in input_ids: pass them, without inputs_embeds"
                )
        except TrimkitError as error:
            if self.method.keeps_all:
                return False
            self.keep(None)
            self.allow_unreduced(error)
            return False
        return True

    def allow_unreduced(self, error: TrimkitError) -> None:
        """Return where a call that cannot be reduced may run in full.

        Raises:
            TrimkitError: ``error``, where it may not.
        """
        if self._on_unreduced == "error":
            raise error
        if self._on_unreduced == "warn":
            warnings.warn(f"this call runs with all of its image tokens: {error}", stacklevel=2)

    def refuse_cache(self, inputs: ModelInputs) -> None:
        """Refuse a video that is not covered, and images on a cache that does not match.

        Raises:
            InputError, UnsupportedError: see ``refuse_filled_cache`` and ``refuse_video``.
        """
        refuse_video(self.reducer.family, self.model, inputs)
        for token in self.reducer.placeholder_ids():
            refuse_filled_cache(inputs, token, self.reducer.has_images(inputs))

    def pruning_of(self, inputs: ModelInputs) -> contextlib.AbstractContextManager[Any]:
        """The context of a call without pictures, whose cache may come from one inside which tokens were dropped."""
        return contextlib.nullcontext() if self.decoder is None else self.decoder.of(cache_of(inputs))

    def is_image(self, ids: Tensor) -> Tensor:
        """``[B, L]`` bool: where the placeholders of images and videos stand in ``ids``."""
        return torch.isin(ids, torch.tensor(self.reducer.placeholder_ids(), device=ids.device))
