"""What a request will do, from its settings alone: lengths and counts for the formulas, before anything is run."""

from __future__ import annotations

from collections.abc import Sequence

from trimkit.bench.formula import LayerCall, Sizes, Work

__all__ = ["AT_ONCE", "planned"]

AT_ONCE = 8
"""Pictures that an attached model takes through the tower together (``trimkit.models``)."""


def planned(
    sizes: Sizes,
    batch: int,
    image_tokens: int,
    text_tokens: int,
    new_tokens: int,
    pictures: int = 1,
    *,
    texts: Sequence[int] = (),
    projected: int | None = None,
    tower_layers: int | None = None,
    at_once: int | None = None,
) -> Work:
    """The work of one call.

    Args:
        sizes: of the model.
        batch: rows.
        image_tokens: of all pictures of a row, that the language model is given.
        text_tokens: of a row beside them.
        new_tokens: that a row generates.
        pictures: of a row.
        texts: lengths of the questions that a text tower reads.
        projected: see ``Work``; None where everything is projected.
        tower_layers: of the vision tower that run; None is all.
        at_once: pictures that go through the tower together; None is all.
    """
    count = batch * pictures
    groups = [count] if at_once is None else [min(at_once, count - first) for first in range(0, count, at_once)]
    layers = sizes.vision.layers if tower_layers is None else tower_layers
    tower = [LayerCall(layer, each * sizes.crops, sizes.crop) for each in groups for layer in range(layers)]
    everything = count * sizes.crops * sizes.patches
    return Work(
        batch,
        tower,
        texts,
        everything // sizes.merge if texts else 0,
        everything if projected is None else projected,
        (image_tokens + text_tokens,) * sizes.language.layers,
        new_tokens,
    )
