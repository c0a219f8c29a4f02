"""What is attached to one model instance: shadows of ``generate`` and ``forward``, and the reports of its calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.falling_back import FallbackGenerate
from trimkit.attach.forward_shadows import ForwardShadows
from trimkit.attach.generating import ReducedGenerate
from trimkit.attach.ladder import with_fallback
from trimkit.attach.requirements import check_version
from trimkit.attach.shadow import SHADOWING, Shadow
from trimkit.core.choices import OnUnreduced
from trimkit.core.confidence import Fallback, fallback_of
from trimkit.core.types import Report
from trimkit.engines import TowerEngine
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import Method
from trimkit.pipeline.call_settings import CallSettings
from trimkit.pipeline.input_reducer import InputReducer
from trimkit.scorers import Scorer

if TYPE_CHECKING:
    from trimkit.attach.compiled import CompiledGeneration

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
        on_unreduced: OnUnreduced = "error",
        vision_engine: str | TowerEngine | None = None,
        fallback: str | Mapping[str, Any] | Fallback | None = None,
        **options: Any,
    ) -> None:
        check_version()
        if hasattr(model, "_orig_mod"):
            raise UnsupportedError("a compiled model cannot be attached: attach the model first, then compile it")
        self.model = model.get_base_model() if hasattr(model, "get_base_model") else model
        self._engine = TowerEngine(vision_engine) if isinstance(vision_engine, str) else vision_engine
        self._closes_engine = isinstance(vision_engine, str)
        options["vision_engine"] = self._engine
        settings = CallSettings.taken_from(options)
        self._buckets = tuple(settings.buckets)
        reducer = InputReducer(self.model, processor, method, scorer, settings, options)
        self._attached_model = AttachedModel(self.model, reducer, query, on_unreduced)
        self._forwards = ForwardShadows(self._attached_model, full_logits=full_logits)
        self._generate: ReducedGenerate | FallbackGenerate = ReducedGenerate(self._attached_model, self._forwards)
        self.fallback = fallback_of(fallback)
        if self.fallback is not None:
            source = (processor, scorer, settings)
            self._generate = with_fallback(self._attached_model, self._forwards, self.fallback, source)
        self._shadows: list[Shadow] = []

    @property
    def method(self) -> Method:
        """The method in use, with its options."""
        return self._attached_model.method

    @property
    def query(self) -> str | Sequence[str] | None:
        """The question where a call names none."""
        return self._attached_model.query

    @query.setter
    def query(self, query: str | Sequence[str] | None) -> None:
        self._attached_model.query = query

    @property
    def attached(self) -> bool:
        """Whether the model is being reduced now."""
        return self._attached_model.active

    @property
    def report(self) -> Report:
        """What the last call did: this thread's own, or, where it made none, the last that any thread planned.

        Raises:
            ConfigError: no call with an image has been made yet.
        """
        return self._attached_model.report

    @property
    def cached_images(self) -> int:
        """How many images' features are held."""
        return len(self._attached_model.reducer.cache)

    def clear_cache(self) -> None:
        """Forget cached image features and question embeddings."""
        self._attached_model.reducer.clear_caches()

    def reduced_lengths(self, inputs: Any, query: str | Sequence[str] | None = None) -> list[int]:
        """Tokens of every row's prompt as the language model would get it, without padding; nothing is generated or reported.

        Args:
            inputs: what ``generate`` would be called with, on the model's device: ``input_ids`` ``[B, L]``, their
                ``attention_mask``, pixels.
            query: as ``generate`` takes it.
        """
        given, attached = dict(inputs), self._attached_model
        if not attached.reducer.has_images(given):
            return [int(count) for count in given["attention_mask"].sum(dim=1)]
        with torch.no_grad():
            question = self.query if query is None else query  # by the reducer itself: the report stays the last call's
            return attached.reducer.reduce(given, question, attached.new_call().clock, generating=True).lengths

    @property
    def buckets(self) -> tuple[int, ...]:
        """Lengths that shortened prompts are padded to; none by default."""
        return self._buckets

    @property
    def prunes_llm(self) -> bool:
        """Whether the method drops tokens inside the language model."""
        return self.method.prunes_llm

    def compiled(
        self, *, max_new_tokens: int = 128, backend: Any = "inductor", mode: str | None = None
    ) -> CompiledGeneration:
        """``generate`` with the language model compiled once for each of ``buckets`` and once for decoding.

        Args, raises: as ``CompiledGeneration``.
        """
        from trimkit.attach.compiled import CompiledGeneration

        return CompiledGeneration(self, max_new_tokens=max_new_tokens, backend=backend, mode=mode)

    def attach(self) -> Attachment:
        """Start reducing.

        Raises:
            ConfigError: this model has an attachment already.
            TrimkitError: what ``vision_engine`` raises where it cannot run the tower.
        """
        if self._engine is not None and not self.attached:
            self._engine.open(self.model, self._attached_model.reducer)
        try:
            self._place_shadows()
        except BaseException:
            self._close_engine()
            raise
        return self

    def _place_shadows(self) -> None:
        with SHADOWING:
            if isinstance(vars(self.model).get("__getstate__"), Shadow):
                raise ConfigError("this model is attached already: detach it (or leave its `with` block) first")
            for owner in self._forwards.owners:
                state_of = _StateWithoutShadows(self._shadows, self._forwards)
                self._shadows.append(Shadow(owner, "__getstate__", state_of))
            if hasattr(self.model, "generate"):
                self._shadows.append(Shadow(self.model, "generate", self._generate))
            self._forwards.enter()
            self._attached_model.active = True

    def _close_engine(self) -> None:
        if self._engine is not None and self._closes_engine and not self.attached:
            self._engine.close()

    def detach(self) -> None:
        """Leave the model as it was. Harmless when not attached; a running call ends as it began."""
        with SHADOWING:
            if not self._attached_model.active:
                return
            self._attached_model.active = False
            while self._shadows:
                self._shadows.pop().remove()
            self._forwards.leave()
        self._close_engine()

    def run_detached(self, stock: Any, inputs: dict[str, Any]) -> Any:
        """One reduced call of ``stock``, the model's own ``generate``, without being attached."""
        with self._forwards.placed():
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


class _StateWithoutShadows:
    """What a copy or a pickle of a module gets: the module without this attachment, whose methods run the original."""

    def __init__(self, shadows: list[Shadow], forwards: ForwardShadows) -> None:
        self._shadows, self._forwards = shadows, forwards

    def __call__(self, stock: Any) -> dict[str, Any]:
        state = dict(stock())
        for shadow in self._shadows:
            shadow.undo(state)
        self._forwards.undo(state)
        return state
