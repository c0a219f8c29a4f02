"""Accuracy on held-out scenes of the demo world, drawn from a seed, by question type and with 95 % intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from trimkit.attach import Attachment, reduce
from trimkit.core.choices import Positions
from trimkit.errors import InputError
from trimkit.eval.identity import method_identity, weights_identity
from trimkit.eval.journal import Journal
from trimkit.eval.rows import Reply, Row, answer
from trimkit.eval.tally import NEW_TOKENS, check_arguments, summary, whole
from trimkit.io.provenance import versions
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
    tower_layer: int | None = None,
    scorer: Any = None,
    journal: Journal | None = None,
    advance: Callable[[int], None] | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Ask ``n`` questions, each about its own scene, and grade the replies.

    Question i of a seed is the same whatever the method and batch size; types take turns. A reply is right where its first
    word is the answer.

    Args:
        model, processor: as ``trimkit.loading.load_model`` gives them.
        seed, n: which questions, how many.
        method, scorer, options: as ``trimkit.reduce`` takes them.
        batch_size: questions per ``generate`` call. ``trim-released`` takes its quartiles over the batch.
        positions, tower_keep, tower_layer: as ``trimkit.reduce`` takes them.
        journal: finished questions are taken from there, and go there. Its config has to tell apart all that is given here
            but the method; answers of other weights or of an earlier version of the method are not taken.
        advance: called with the number of questions done after each batch.

    Returns:
        ``n``, ``accuracy``, ``accuracy_by_type``, ``ci95`` (Wilson, ``[low, high]``), ``ci95_by_type``, ``n_by_type``,
        ``image_tokens_full``, ``image_tokens_kept_mean`` (per question), ``skipped``, and what was run. What the model has no
        room for is in ``skipped``, as ``{"id", "reason"}``, and in no other number.

    Raises:
        ConfigError: seed, n or batch size; the method or its options.
        InputError: there is no room for any question.
    """
    check_arguments(seed, n, batch_size, positions)
    chosen = get_method(method, **options)
    task = "" if journal is None else f"scenes/{method_identity(chosen)}/{weights_identity(model)}"
    rows: dict[int, dict[str, Any]] = {}
    tower: dict[str, Any] = {"tower_keep": tower_keep, "tower_layer": tower_layer}
    how: dict[str, Any] = {"method": chosen, "scorer": scorer, "cache_images": 0, "positions": positions}
    with reduce(model, processor, **how, **tower) as trim:
        for start in range(0, n, batch_size):
            wanted = range(start, min(start + batch_size, n))
            rows |= {i: row for i in wanted if journal is not None and (row := journal.get(task, i)) is not None}
            todo = [i for i in wanted if i not in rows]
            done = _ask(trim, processor, seed, todo)
            if journal is not None and done:
                journal.add(task, done)
            rows |= done
            if advance is not None:
                advance(len(wanted))
    asked = [rows[i] for i in range(n) if rows[i]["skipped"] is None]
    if not asked:
        raise InputError(f"none of the questions could be asked: {rows[0]['skipped']}")
    right = {kind: [row["right"] for row in asked if row["type"] == kind] for kind in _kinds(asked)}
    settings = {
        "method": chosen.name,
        "budget": chosen.budget.to_plain(),
        "seed": seed,
        "batch_size": batch_size,
        "positions": positions,
        **tower,
    }
    return {
        **summary(right),
        "image_tokens_full": whole(sum(row["full"] for row in asked) / len(asked)),
        "image_tokens_kept_mean": sum(row["kept"] for row in asked) / len(asked),
        "skipped": [{"id": i, "reason": rows[i]["skipped"]} for i in range(n) if rows[i]["skipped"] is not None],
        **settings,
    } | {
        "options": chosen.model_dump(mode="json"),
        "versions": versions(),
    }


def _ask(trim: Attachment, processor: Any, seed: int, indices: Sequence[int]) -> dict[int, dict[str, Any]]:
    """A batch of questions, asked and graded."""
    from trimkit.demo.items import sample_item
    from trimkit.demo.questions import grade

    if not indices:
        return {}
    items = [sample_item(seed, index) for index in indices]
    asked = [Row(question.text, [image]) for image, question in items]
    replies: list[Reply] = answer(trim, processor, asked, max_new_tokens=NEW_TOKENS, do_sample=False)
    return {
        index: {
            "type": question.type,
            "right": grade(reply.text, question),
            "full": reply.tokens_full,
            "kept": reply.tokens_kept,
            "skipped": reply.skipped,
        }
        for index, (_, question), reply in zip(indices, items, replies, strict=True)
    }


def _kinds(rows: list[dict[str, Any]]) -> list[str]:
    """Types of question, in the order in which they come."""
    return list(dict.fromkeys(row["type"] for row in rows))
