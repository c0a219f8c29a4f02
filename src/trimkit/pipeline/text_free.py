"""What is kept of a picture that nobody says a word about, by a method that reads the text: patches at equal distances.

The budget stays the method's. A fixed one keeps as many tokens. ``top-p`` keeps as many as its rule keeps of equal scores.
``iqr`` keeps a quarter of the patches, the most that its rule can keep; on equal scores the rule would leave a single one.
"""

from __future__ import annotations

from collections.abc import Sequence

from trimkit.core.budget import Budget
from trimkit.core.types import EncoderProfile, ImageTokens, Selection
from trimkit.methods import Method, get_method
from trimkit.pipeline.selecting import relevance_of, select_tokens
from trimkit.scorers import Scorer

__all__ = ["select_asked", "text_free"]

_MOST_OUTLIERS = 0.25


def text_free(method: Method) -> Method:
    """The method that chooses in the place of ``method`` where there is no question."""
    return get_method(
        "uniform",
        budget=Budget("top-p", _MOST_OUTLIERS) if method.budget.kind == "iqr" else method.budget,
        aggregate="mean" if method.aggregate == "weighted" else method.aggregate,
        min_tokens=method.min_tokens,
        max_tokens=method.max_tokens,
        share=method.share,
    )


def select_asked(
    images: Sequence[ImageTokens],
    asked: Sequence[str | None],
    method: Method,
    scorer: Scorer | None,
    profile: EncoderProfile,
    rows: Sequence[int],
) -> list[Selection]:
    """Choose the tokens of every image for its question; at equal distances where ``asked`` has None and the method reads text.

    Args:
        images: B images.
        asked: B questions, or None. Images of one row have all one or none.
        method: what chooses.
        scorer: where relevance comes from.
        profile: how to read it.
        rows: the prompt of each image.
    """
    if not method.needs_question:
        return select_tokens(images, None, asked, method, profile, rows)
    found: dict[int, Selection] = {}
    for silent in (False, True):
        group = [i for i, question in enumerate(asked) if (question is None) == silent]
        if not group:
            continue
        mine, said, where = [images[i] for i in group], [asked[i] for i in group], [rows[i] for i in group]
        relevance = None if silent else relevance_of(mine, said, method, scorer)
        chosen = select_tokens(mine, relevance, said, text_free(method) if silent else method, profile, where)
        found.update(zip(group, chosen, strict=True))
    return [found[i] for i in range(len(images))]
