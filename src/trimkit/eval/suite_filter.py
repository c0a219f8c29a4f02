"""The filtered score of VTC-Bench (arXiv 2510.07143), and which question types a model has not learnt.

Many questions are answered as well from a picture that was made smaller: they do not tell whether the right tokens were kept.
The filtered score counts only those that the full model answers right and ``resize``, at the same budget, wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.eval.tally import wilson

__all__ = ["LEARNT", "RESIZE", "filtered", "not_learnt"]

RESIZE = "resize"
LEARNT = 0.85
"""Accuracy with all tokens from which on a question type counts as learnt."""


def filtered(
    full: Sequence[int],
    resized: Mapping[str, Sequence[int]],
    arms: Mapping[str, tuple[str, Sequence[int]]],
    types: Sequence[str],
) -> list[dict[str, Any]]:
    """Accuracy on the questions that are right with all tokens and wrong with a picture made smaller.

    Args:
        full: hits (0 or 1) of the full model, one a question.
        resized: hits of ``resize``, by budget.
        arms: budget and hits of every arm that is scored, by label.
        types: of the questions.

    Returns:
        For every budget of ``resized``, largest first: ``budget``, ``n`` (questions left), ``n_by_type``, ``arms`` (``label``,
        ``accuracy``, ``ci95`` by Wilson, ``accuracy_by_type``; None where no question is left).
    """
    found = []
    for budget in sorted(resized, key=lambda each: -float(each)):
        left = [i for i, (whole, small) in enumerate(zip(full, resized[budget], strict=True)) if whole and not small]
        kinds = {kind: [i for i in left if types[i] == kind] for kind in dict.fromkeys(types)}
        scored = [
            {
                "label": label,
                "accuracy": _share(hits, left),
                "ci95": wilson(sum(hits[i] for i in left), len(left)) if left else None,
                "accuracy_by_type": {kind: _share(hits, mine) for kind, mine in kinds.items()},
            }
            for label, (asked, hits) in arms.items()
            if asked == budget
        ]
        by_type = {kind: len(mine) for kind, mine in kinds.items()}
        found.append({"budget": budget, "n": len(left), "n_by_type": by_type, "arms": scored})
    return found


def not_learnt(accuracy_by_type: Mapping[str, float]) -> list[str]:
    """Types of question that the full model gets right less often than 85 % of the time."""
    return [kind for kind, accuracy in accuracy_by_type.items() if accuracy < LEARNT]


def _share(hits: Sequence[int], left: Sequence[int]) -> float | None:
    return sum(hits[i] for i in left) / len(left) if left else None
