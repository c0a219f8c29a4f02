"""The rungs of ``fallback=``: the same model, reduced to more and more image tokens, and to none fewer at last."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from trimkit.attach.attached_model import AttachedModel
from trimkit.attach.falling_back import FallbackGenerate, RungCall
from trimkit.attach.forward_shadows import ForwardShadows
from trimkit.attach.generating import ReducedGenerate
from trimkit.core.confidence import Fallback
from trimkit.errors import ConfigError
from trimkit.methods import Method, get_method
from trimkit.pipeline.call_settings import CallSettings
from trimkit.pipeline.input_reducer import InputReducer

__all__ = ["everything", "with_fallback"]


def everything() -> Method:
    """A method that keeps every token and takes features from the cache, as reducing methods do."""
    return get_method("random", budget=10**9, aggregate="none")  # a count that no picture reaches


def with_fallback(
    attached: AttachedModel,
    forwards: ForwardShadows,
    fallback: Fallback,
    source: tuple[Any, Any, CallSettings],
) -> FallbackGenerate:
    """``generate`` of an attached model with ``fallback``.

    Args:
        attached: the model as its first rung reduces it.
        forwards: the shadows of its ``forward``.
        fallback: the rungs between the first and all tokens.
        source: processor, scorer and settings of the first rung's reducer.

    Raises:
        ConfigError: the method keeps everything, or drops tokens inside the language model; no features are held.
    """
    method, (processor, scorer, settings) = attached.method, source
    if method.keeps_all or method.prunes_llm:
        what = "keeps every token" if method.keeps_all else "drops tokens inside the language model"
        raise ConfigError(f"method {method.name!r} {what}: fallback= goes with a method that drops them before it")
    if settings.cache_images == 0:
        raise ConfigError("fallback= asks about held features: leave cache_images=0 out")
    shared = replace(settings, cache_images=attached.reducer.cache)
    rungs = [RungCall(attached, ReducedGenerate(attached, forwards), method.budget.in_words())]
    for more in [*(get_method(method, budget=budget) for budget in fallback.ladder), everything()]:
        reducer = InputReducer(attached.model, processor, more, scorer if more.uses_text else None, shared, {})
        other = attached.sibling(reducer)
        words = more.budget.in_words() if more.name == method.name else "all tokens"
        rungs.append(RungCall(other, ReducedGenerate(other, forwards), words))
    return FallbackGenerate(rungs, fallback)
