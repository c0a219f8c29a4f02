"""Global questions: how many discs in all, which color is commonest, more of this or of that. No one place holds the answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np

from trimkit.demo.questions import NUMBER_WORDS, Question
from trimkit.demo.wording import ask, pick, spelling
from trimkit.demo.world import COLOURS, Scene, sample_scene

__all__ = ["GLOBAL", "WORDING", "sample_global"]

GLOBAL = "global"
THINGS = (9, 12)  # in a scene, so that up to eight of them can have a disc
MOST_DISCS = 8

HOW_MANY = ("How many discs are there in all?", "How many discs are in the picture?", "Count all discs.")
COMMONEST = ("Which {c} is commonest?", "Which {c} do most discs have?", "What is the most common {c} of disc?")
MORE = ("Are there more {a} discs or more {b} discs?", "Which discs are there more of, {a} or {b}?")

WORDING: tuple[str, ...] = (*HOW_MANY, *COMMONEST, *MORE)


def sample_global(rng: np.random.Generator) -> tuple[Scene, Question]:
    """A scene whose discs are painted for the answer, which is drawn first: each is as often right as another."""
    kind = pick(rng, ("how many", "commonest", "more"))
    while True:
        scene = sample_scene(rng, objects=THINGS)
        if len(scene.objects) >= THINGS[0]:
            break
    if kind == "how many":
        count = int(rng.integers(1, MOST_DISCS + 1))
        scene = _painted(scene, rng, [pick(rng, tuple(COLOURS)) for _ in range(count)])
        return scene, Question(ask(rng, HOW_MANY), NUMBER_WORDS[count], GLOBAL, _discs(scene))
    if kind == "commonest":
        colours, answer = _with_a_mode(rng)
        scene = _painted(scene, rng, colours)
        return scene, Question(ask(rng, COMMONEST, c=spelling(rng)), answer, GLOBAL, _discs(scene))
    a, b = (str(colour) for colour in rng.choice(tuple(COLOURS), size=2, replace=False))
    few = int(rng.integers(1, 4))
    more = few + int(rng.integers(1, 5 - few))
    first = bool(rng.random() < 0.5)
    counts = (more, few) if first else (few, more)
    scene = _painted(scene, rng, [a] * counts[0] + [b] * counts[1])
    return scene, Question(ask(rng, MORE, a=a, b=b), a if first else b, GLOBAL, _discs(scene))


def _with_a_mode(rng: np.random.Generator) -> tuple[list[str], str]:
    """Colors of up to eight discs, one more often than every other, and that one."""
    answer = pick(rng, tuple(COLOURS))
    times = int(rng.integers(3, 5))
    colours = [answer] * times
    others = [colour for colour in COLOURS if colour != answer]
    for _ in range(int(rng.integers(2, MOST_DISCS + 1 - times))):
        held = Counter(colours)
        colours.append(pick(rng, [colour for colour in others if held[colour] < times - 1]))
    return colours, answer


def _painted(scene: Scene, rng: np.random.Generator, colours: list[str]) -> Scene:
    """The scene with these discs behind things drawn at random, and no other."""
    order = rng.permutation(len(scene.objects))
    discs = {int(order[place]): colour for place, colour in enumerate(colours)}
    return replace(scene, objects=tuple(replace(o, disc=discs.get(i)) for i, o in enumerate(scene.objects)))


def _discs(scene: Scene) -> tuple[tuple[float, float, float, float], ...]:
    return tuple(o.box for o in scene.objects if o.disc is not None)
