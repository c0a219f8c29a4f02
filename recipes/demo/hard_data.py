"""Training pictures for the four harder question types: pages, scenes painted for global questions, pairs and cells."""

from __future__ import annotations

import numpy as np

from recipes.demo.targets import (
    BACKGROUND,
    CLASS_OF,
    COLOUR_OF,
    IGNORE,
    Ints,
    PatchTargets,
    Thing,
    thing_targets,
    things_of,
)
from trimkit.demo.dense import about_page, sample_dense
from trimkit.demo.grounding import about_cell
from trimkit.demo.overall import about_discs, sample_global
from trimkit.demo.pages import Page
from trimkit.demo.pairs import about_two, sample_two_things
from trimkit.demo.questions import NUMBER_WORDS, Question, sample_question
from trimkit.demo.world import COLOURS, PATCH_SIZE, Scene

KINDS = ("page", "global", "global", "two")  # global questions are the hardest
TRIES = 60
ONE_CELL = 3  # boxes of a cell at most: of its row, its column, its text


def content_and_questions(rng: np.random.Generator, total: int) -> tuple[Scene | Page, list[Question]]:
    """A picture for harder questions with `total` of them; on scenes a third are of the old types."""
    kind = KINDS[int(rng.integers(len(KINDS)))]
    if kind == "page":
        page, first = sample_dense(rng)
        return page, [first, *(about_page(page, rng) for _ in range(total - 1))]
    scene, first = _global(rng) if kind == "global" else sample_two_things(rng)
    asked = [first]
    for _ in range(TRIES * total):
        question = _about(scene, rng, kind)
        if question is not None:
            asked.append(question)
        if len(asked) == total:
            return scene, asked
    raise ValueError("a scene allows too few questions")


def _global(rng: np.random.Generator) -> tuple[Scene, Question]:
    """As it is asked, but for every other scene with a number of discs that is as often one as another."""
    counted = bool(rng.random() < 0.5)
    while True:
        scene, first = sample_global(rng)
        if not counted or first.answer in NUMBER_WORDS:
            return scene, first


def _about(scene: Scene, rng: np.random.Generator, kind: str) -> Question | None:
    draw = rng.random()
    if draw < 0.33:
        try:
            return sample_question(scene, rng)
        except ValueError:
            return None
    if draw < 0.55:
        return about_cell(scene, rng)
    return about_discs(scene, rng) if kind == "global" and draw < 0.85 else about_two(scene, rng)


def targets_of(content: Scene | Page) -> PatchTargets:
    """What every patch is. A page's words have the classes of signs; numbers have none and are not taken for background."""
    if isinstance(content, Scene):
        return thing_targets(things_of(content), content.size)
    colours = {rgb: name for name, rgb in COLOURS.items()}
    things: list[Thing] = [(o.box, o.extent / 2 * 0.92, CLASS_OF[o.name], 0, 1) for o in content.things]
    things += [(text.box, None, CLASS_OF[text.text], 0, 1) for text in content.texts if not text.text.isdigit()]
    numbers: list[Thing] = [(text.box, None, IGNORE, 0, 1) for text in content.texts if text.text.isdigit()]
    heads: list[Thing] = [
        (bar.box, None, IGNORE, COLOUR_OF[colours[bar.fill]], 1) for bar in content.bars if bar.fill in colours
    ]
    found = thing_targets([*heads, *numbers, *things], content.size)
    found.label[(found.label == BACKGROUND) & (found.owner >= 0)] = IGNORE
    return found


def numbers_of(content: Scene | Page) -> Ints:
    """The number that stands on every patch of a page, raster order; 0 where there is none."""
    texts = [] if isinstance(content, Scene) else [text for text in content.texts if text.text.isdigit()]
    label = thing_targets([(text.box, None, int(text.text), 0, 1) for text in texts], content.size).label
    return np.where(label > 0, label, 0).astype(np.int16)


def answer_spot(content: Scene | Page, question: Question) -> tuple[int, int, int, int]:
    """The patches that an answer is read off a page: left, top, right, bottom (exclusive); zeros where it is no one place."""
    if isinstance(content, Scene) or len(question.boxes) > ONE_CELL:
        return (0, 0, 0, 0)
    left, top, right, bottom = question.boxes[-1]
    return (
        round(left / PATCH_SIZE),
        int(top // PATCH_SIZE),
        max(round(right / PATCH_SIZE), round(left / PATCH_SIZE) + 1),
        int(bottom // PATCH_SIZE) + 1,
    )
