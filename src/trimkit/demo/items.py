"""Numbered (picture, question) items: `sample_item(seed, index)` never changes, types cycle, training never sees them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from trimkit.demo.questions import TYPES, Question, sample_question
from trimkit.demo.render import render
from trimkit.demo.world import Scene, sample_scene

# The first word of every generator key. Users' seeds live in one namespace, the training recipe's in another, so no
# choice of seed can make an evaluation draw a training scene.
EVALUATION_NAMESPACE = 0x7E57
DIALOGUE_NAMESPACE = 0x7D1A
TRAINING_NAMESPACE = 0x7EA4


def item_rng(namespace: int, seed: int, index: int) -> np.random.Generator:
    """The generator of item `index` of `seed` in a namespace."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative (got seed {seed}, index {index})")
    return np.random.default_rng([namespace, seed, index])


def sample_scene_question(rng: np.random.Generator, type: str) -> tuple[Scene, Question]:
    """A scene that allows a question of `type`, and that question."""
    while True:
        scene = sample_scene(rng, sign=True if type == "reading" else None)
        try:
            return scene, sample_question(scene, rng, type)
        except ValueError:  # rare: no unique object on a disc, say; the next scene has one
            continue


def sample_item(seed: int, index: int) -> tuple[Image.Image, Question]:
    """Held-out item `index` of `seed`; item i asks a question of type TYPES[i % 6]."""
    scene, question = sample_scene_question(item_rng(EVALUATION_NAMESPACE, seed, index), TYPES[index % len(TYPES)])
    return render(scene), question


def sample_dialogue(seed: int, index: int, turns: int = 3) -> tuple[Image.Image, list[Question]]:
    """Held-out dialogue `index` of `seed`: `turns` questions, each of another type and about other objects."""
    rng = item_rng(DIALOGUE_NAMESPACE, seed, index)
    while True:
        scene = sample_scene(rng, sign=True)
        asked: list[Question] = []
        for kind in rng.permutation(TYPES)[:turns]:
            question = _about_something_else(scene, rng, str(kind), asked)
            if question is not None:
                asked.append(question)
        if len(asked) == turns:
            return render(scene), asked


def _about_something_else(
    scene: Scene, rng: np.random.Generator, kind: str, asked: Sequence[Question]
) -> Question | None:
    seen = {box for question in asked for box in question.boxes}
    for _ in range(8):
        try:
            question = sample_question(scene, rng, kind)
        except ValueError:  # the scene allows none
            return None
        if seen.isdisjoint(question.boxes):
            return question
    return None
