"""Grounding: in which cell of a grid a thing is. What is kept has to keep its position for this."""

from __future__ import annotations

import numpy as np

from trimkit.demo.questions import Question
from trimkit.demo.wording import ask, one_of
from trimkit.demo.world import Scene, SceneObject, sample_scene

__all__ = ["CELLS", "GROUNDING", "WORDING", "cell_of", "sample_grounding"]

GROUNDING = "grounding"
SIDE = 4  # cells a row and a column
CELLS = "ABCDEFGHIJKLMNOP"  # row by row
APART = 10.0  # pixels between a centre and the next cell

WHERE = (
    "In which cell, A to P, is the {n}?",
    "Which cell, A to P, holds the {n}?",
    "The picture has four rows of four cells, A to P. Which cell is the {n} in?",
)

WORDING: tuple[str, ...] = WHERE


def sample_grounding(rng: np.random.Generator) -> tuple[Scene, Question]:
    """A scene and a question about a thing whose centre lies well inside one of 4 x 4 cells, each as often as another."""
    wanted = one_of(rng, CELLS)
    while True:
        scene = sample_scene(rng)
        here = [thing for thing in scene.unique() if cell_of(thing, scene.size) == wanted]
        if here:
            thing = one_of(rng, here)
            return scene, Question(ask(rng, WHERE, n=thing.name), wanted, GROUNDING, (thing.box,))


def cell_of(thing: SceneObject, size: int) -> str | None:
    """The letter of the cell that holds the thing's centre; None within 10 pixels of another cell."""
    side = size / SIDE
    if any(not APART <= value % side <= side - APART for value in (thing.x, thing.y)):
        return None
    return CELLS[int(thing.y // side) * SIDE + int(thing.x // side)]
