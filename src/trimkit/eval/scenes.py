"""Accuracy on held-out scenes of the demo world, drawn from a seed, by question type and with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trimkit._provenance import versions
from trimkit.ask import build_inputs, decode
from trimkit.eval.tally import NEW_TOKENS, check_arguments, summary, whole
from trimkit.integrations.transformers import Positions, reduce
from trimkit.methods import Method, get_method

__all__ = ["evaluate"]


def evaluate(
    model: Any,
    processor: Any,
    *,
    seed: int,
    n: int,
    method: str | Method = "trim",
    batch_size: int = 16,
    positions: Positions = "auto",
    tower_keep: float | None = None,
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
        positions, tower_keep: as ``trimkit.reduce`` takes them.
        advance: called with the number of questions done after each batch.

    Returns:
        ``n``, ``accuracy``, ``accuracy_by_type``, ``ci95`` (Wilson, ``[low, high]``), ``ci95_by_type``, ``n_by_type``,
        ``image_tokens_full``, ``image_tokens_kept_mean`` (per question), and what was run.

    Raises:
        ConfigError: seed, n or batch size; the method or its options.
    """
    check_arguments(seed, n, batch_size, positions)
    chosen = get_method(method, **options)
    right: dict[str, list[bool]] = {}
    full, kept = 0, 0
    with reduce(model, processor, method=chosen, cache_images=0, positions=positions, tower_keep=tower_keep) as trim:
        for batch in _batches(seed, n, batch_size):
            texts = [question.text for _, question in batch]
            images = [image for image, _ in batch]
            inputs = build_inputs(model, processor, images, texts, max_new_tokens=NEW_TOKENS)
            out = model.generate(**inputs, query=texts, max_new_tokens=NEW_TOKENS, do_sample=False)
            for reply, (_, question) in zip(decode(processor, inputs, out), batch, strict=True):
                right.setdefault(question.type, []).append(_grade(reply, question))
            full, kept = full + trim.report.tokens_before, kept + trim.report.tokens_after
            if advance is not None:
                advance(len(batch))
    settings = {
        "method": chosen.name,
        "budget": chosen.budget.to_plain(),
        "seed": seed,
        "batch_size": batch_size,
        "positions": positions,
        "tower_keep": tower_keep,
    }
    return {
        **summary(right),
        "image_tokens_full": whole(full / n),
        "image_tokens_kept_mean": kept / n,
        **settings,
    } | {
        "options": chosen.model_dump(mode="json"),
        "versions": versions(),
    }


def _batches(seed: int, n: int, size: int) -> Iterator[list[tuple[Any, Any]]]:
    from trimkit.demo.items import sample_item

    for start in range(0, n, size):
        yield [sample_item(seed, index) for index in range(start, min(start + size, n))]


def _grade(reply: str, question: Any) -> bool:
    from trimkit.demo.questions import grade

    return grade(reply, question)
