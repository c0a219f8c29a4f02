"""Accuracy on held-out scenes of the demo world, drawn from a seed, by question type and with 95 % intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from trimkit._provenance import versions
from trimkit.ask import build_inputs, decode
from trimkit.errors import ConfigError
from trimkit.integrations.transformers import reduce
from trimkit.methods import Method, get_method

__all__ = ["check_arguments", "evaluate", "wilson"]

_Z = 1.959964  # 97.5 % quantile of the normal distribution
_NEW_TOKENS = 8  # answers are one word


def evaluate(
    model: Any,
    processor: Any,
    *,
    seed: int,
    n: int,
    method: str | Method = "trim",
    batch_size: int = 16,
    advance: Callable[[int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Ask ``n`` questions, each about its own scene, and grade the replies.

    Question i of a seed is the same whatever the method and batch size; types take turns. A reply is right where its first
    word is the answer.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        seed, n: which questions, how many.
        method, options: as ``trimkit.reduce`` takes them.
        batch_size: questions per ``generate`` call. ``trim-released`` takes its quartiles over the batch.
        advance: called with the number of questions done after each batch.

    Returns:
        ``n``, ``accuracy``, ``accuracy_by_type``, ``ci95`` (Wilson, ``[low, high]``), ``ci95_by_type``, ``n_by_type``,
        ``image_tokens_full``, ``image_tokens_kept_mean`` (per question), and what was run.

    Raises:
        ConfigError: seed, n or batch size; the method or its options.
    """
    check_arguments(seed, n, batch_size)
    chosen = get_method(method, **options)
    right: dict[str, list[bool]] = {}
    full, kept = 0, 0
    with reduce(model, processor, method=chosen, cache_images=0) as trim:
        for batch in _batches(seed, n, batch_size):
            texts = [question.text for _, question in batch]
            images = [image for image, _ in batch]
            inputs = build_inputs(model, processor, images, texts, max_new_tokens=_NEW_TOKENS)
            out = model.generate(**inputs, query=texts, max_new_tokens=_NEW_TOKENS, do_sample=False)
            for reply, (_, question) in zip(decode(processor, inputs, out), batch, strict=True):
                right.setdefault(question.type, []).append(_grade(reply, question))
            full, kept = full + trim.report.tokens_before, kept + trim.report.tokens_after
            if advance is not None:
                advance(len(batch))
    settings = {"method": chosen.name, "budget": chosen.budget.to_plain(), "seed": seed, "batch_size": batch_size}
    return {
        **_summary(right),
        "image_tokens_full": _whole(full / n),
        "image_tokens_kept_mean": kept / n,
        **settings,
    } | {
        "options": chosen.model_dump(mode="json"),
        "versions": versions(),
    }


def check_arguments(seed: int, n: int, batch_size: int = 1) -> None:
    """Refuse what names no questions.

    Raises:
        ConfigError: a negative seed, or less than one question or row.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")
    if n < 1:
        raise ConfigError(f"n {n} asks nothing: give 1 or more questions")
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size} holds nothing: give 1 or more")


def wilson(right: int, n: int) -> list[float]:
    """The 95 % score interval of ``right`` out of ``n``, as ``[low, high]``."""
    share, spread = right / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def _batches(seed: int, n: int, size: int) -> Iterator[list[tuple[Any, Any]]]:
    from trimkit.demo.items import sample_item

    for start in range(0, n, size):
        yield [sample_item(seed, index) for index in range(start, min(start + size, n))]


def _grade(reply: str, question: Any) -> bool:
    from trimkit.demo.questions import grade

    return grade(reply, question)


def _summary(right: dict[str, list[bool]]) -> dict[str, Any]:
    hits = [hit for group in right.values() for hit in group]
    return {
        "n": len(hits),
        "accuracy": sum(hits) / len(hits),
        "ci95": wilson(sum(hits), len(hits)),
        "accuracy_by_type": {kind: sum(group) / len(group) for kind, group in right.items()},
        "ci95_by_type": {kind: wilson(sum(group), len(group)) for kind, group in right.items()},
        "n_by_type": {kind: len(group) for kind, group in right.items()},
    }


def _whole(value: float) -> float | int:
    return int(value) if value == int(value) else value
