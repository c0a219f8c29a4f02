"""Numbered (picture, question) items of all ten types: the six that the demo model was first trained on, and four harder ones.

    dense_reading  tables, receipts and charts of numbers
    two_things     which of two things is nearer a third, higher, lower; whether their discs have the same color
    global         how many discs in all, which color is commonest, more of this color or of that
    grounding      the cell of a 4 x 4 grid that a thing is in

Nothing in a question tells its answer: of what can be answered, each is drawn as often as another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from trimkit.demo.dense import DENSE, sample_dense
from trimkit.demo.grounding import GROUNDING, sample_grounding
from trimkit.demo.items import EVALUATION_NAMESPACE, item_rng, sample_scene_question
from trimkit.demo.overall import GLOBAL, sample_global
from trimkit.demo.page_drawing import render_page
from trimkit.demo.pages import Page
from trimkit.demo.pairs import TWO_THINGS, sample_two_things
from trimkit.demo.questions import TYPES, Question
from trimkit.demo.render import render
from trimkit.demo.world import Scene

__all__ = ["ALL_TYPES", "HARD_TYPES", "draw", "sample_typed", "sample_typed_item"]

_MAKERS: dict[str, Callable[[np.random.Generator], tuple[Scene | Page, Question]]] = {
    DENSE: sample_dense,
    TWO_THINGS: sample_two_things,
    GLOBAL: sample_global,
    GROUNDING: sample_grounding,
}
HARD_TYPES: tuple[str, ...] = tuple(_MAKERS)
ALL_TYPES: tuple[str, ...] = (*TYPES, *HARD_TYPES)


def sample_typed(rng: np.random.Generator, type: str) -> tuple[Scene | Page, Question]:
    """What a picture shows, and a question of this type about it.

    Raises:
        ValueError: no such type.
    """
    if type in _MAKERS:
        return _MAKERS[type](rng)
    if type not in TYPES:
        raise ValueError(f"unknown question type {type!r}; one of {', '.join(ALL_TYPES)}")
    return sample_scene_question(rng, type)


def draw(content: Scene | Page) -> Image.Image:
    """The RGB picture of 336 x 336 pixels; the same content gives the same pixels."""
    return render_page(content) if isinstance(content, Page) else render(content)


def sample_typed_item(seed: int, index: int, types: Sequence[str] = ALL_TYPES) -> tuple[Image.Image, Question]:
    """Held-out item `index` of `seed`; item i asks a question of type types[i % len(types)].

    With ``types=TYPES`` these are the items of ``trimkit.demo.items.sample_item``.
    """
    content, question = sample_typed(item_rng(EVALUATION_NAMESPACE, seed, index), types[index % len(types)])
    return draw(content), question
