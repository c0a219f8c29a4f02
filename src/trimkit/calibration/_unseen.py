"""Pictures that a fitted scorer has learned from prove nothing about others: they are left out, and named."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from trimkit.calibration._notes import Pair
from trimkit.errors import InputError
from trimkit.scorers import FittedScorer
from trimkit.scorers.fitted_pictures import picture_mark

__all__ = ["UNKNOWN", "unseen"]

UNKNOWN = (
    "the scorer does not say which pictures it was fitted on (an older trimkit wrote it): what is found here holds only if it "
    "was not fitted on these"
)


def unseen(pairs: Sequence[Pair], scorer: Any) -> tuple[list[Pair], list[tuple[str, str]], tuple[str, ...]]:
    """Pairs about pictures that ``scorer`` was not fitted on; ``(name, reason)`` of the other pictures; and notes.

    Raises:
        InputError: it was fitted on all of them.
    """
    if not isinstance(scorer, FittedScorer):
        return list(pairs), [], ()
    if scorer.fitted_on is None:
        return list(pairs), [], (UNKNOWN,)
    images = {pair.picture: pair.image for pair in pairs}
    known = {number for number, image in images.items() if picture_mark(image) in scorer.fitted_on}
    kept = [pair for pair in pairs if pair.picture not in known]
    if not kept:
        raise InputError(f"the scorer was fitted on all of these {len(images)} pictures: give others")
    names = {pair.name: "the scorer was fitted on it" for pair in pairs if pair.picture in known}
    return kept, list(names.items()), ()
