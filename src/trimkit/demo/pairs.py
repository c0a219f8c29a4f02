"""Two named things: questions whose answer needs both, and a third where it says which of them is nearer."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from trimkit.demo.questions import MARGIN, Question
from trimkit.demo.wording import ask, one_of, spelling
from trimkit.demo.world import COLOURS, Scene, SceneObject, sample_scene

__all__ = ["TWO_THINGS", "WORDING", "sample_two_things"]

TWO_THINGS = "two_things"
CLEARLY = 1.4  # so many times as far is the other one

NEARER = (
    "Is the {a} nearer the {b} or the {c}?",
    "Which is nearer to the {a}, the {b} or the {c}?",
    "What is closer to the {a}, the {b} or the {c}?",
)
UPPER = ("Which is higher, the {b} or the {c}?", "Which of these is higher in the picture, the {b} or the {c}?")
LOWER = ("Which is lower, the {b} or the {c}?", "Which of these is lower in the picture, the {b} or the {c}?")
SAME = ("Are the {b} and the {c} on discs of the same {k}?", "Do the {b} and the {c} have the same {k} of disc?")

WORDING: tuple[str, ...] = (*NEARER, *UPPER, *LOWER, *SAME)


def sample_two_things(rng: np.random.Generator) -> tuple[Scene, Question]:
    """A scene and a question: half of them which of two is nearer, a quarter each higher or lower, and the same color."""
    draw = rng.random()
    make = _nearer if draw < 0.5 else _height if draw < 0.75 else _same
    while True:
        found = make(sample_scene(rng), rng)
        if found is not None:
            return found


def _nearer(scene: Scene, rng: np.random.Generator) -> tuple[Scene, Question] | None:
    things = scene.unique()
    triples = [
        (a, near, far)
        for a in things
        for near in things
        for far in things
        if a is not near and a is not far and near is not far and _clearly_nearer(a, near, far)
    ]
    if not triples:
        return None
    a, near, far = one_of(rng, triples)
    b, c = _either_way(rng, near, far)
    text = ask(rng, NEARER, a=a.name, b=b.name, c=c.name)
    return scene, Question(text, near.name, TWO_THINGS, (a.box, b.box, c.box))


def _clearly_nearer(a: SceneObject, near: SceneObject, far: SceneObject) -> bool:
    return CLEARLY * math.hypot(a.x - near.x, a.y - near.y) <= math.hypot(a.x - far.x, a.y - far.y)


def _height(scene: Scene, rng: np.random.Generator) -> tuple[Scene, Question] | None:
    things = scene.unique()
    pairs = [(upper, lower) for upper in things for lower in things if lower.y - upper.y >= MARGIN]
    if not pairs:
        return None
    upper, lower = one_of(rng, pairs)
    b, c = _either_way(rng, upper, lower)
    highest = bool(rng.random() < 0.5)
    text = ask(rng, UPPER if highest else LOWER, b=b.name, c=c.name)
    return scene, Question(text, (upper if highest else lower).name, TWO_THINGS, (b.box, c.box))


def _same(scene: Scene, rng: np.random.Generator) -> tuple[Scene, Question] | None:
    """The discs of two things are painted anew, so that "yes" is as often right as "no"."""
    things = scene.unique()
    if len(things) < 2:
        return None
    first, second = rng.choice(len(things), size=2, replace=False)
    same = bool(rng.random() < 0.5)
    one, other = rng.choice(tuple(COLOURS), size=2, replace=False)
    painted = {
        things[first]: replace(things[first], disc=str(one)),
        things[second]: replace(things[second], disc=str(one if same else other)),
    }
    scene = replace(scene, objects=tuple(painted.get(thing, thing) for thing in scene.objects))
    boxes = (things[first].box, things[second].box)
    text = ask(rng, SAME, b=things[first].name, c=things[second].name, k=spelling(rng))
    return scene, Question(text, "yes" if same else "no", TWO_THINGS, boxes)


def _either_way(rng: np.random.Generator, first: SceneObject, second: SceneObject) -> tuple[SceneObject, SceneObject]:
    return (first, second) if rng.random() < 0.5 else (second, first)
