"""Questions about a scene with one-word answers read off the scene's geometry, and the grading of a model's reply."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trimkit.demo.wording import ask, one_of, pick, spelling
from trimkit.demo.world import COLOURS, NAMES, PLURALS, WORDS, Box, Scene

TYPES: tuple[str, ...] = ("existence", "attribute", "counting", "relation", "reading", "multiple_choice")
NUMBERS: tuple[str, ...] = ("zero", "one", "two", "three", "four")
NUMBER_WORDS: tuple[str, ...] = (*NUMBERS, "five", "six", "seven", "eight", "nine")
LETTERS = "ABCD"
MARGIN = 48.0  # pixels between two centres before left/right or above/below is asked

EXISTENCE_ONE = (
    "Is there a {n} in the picture?", "Is there a {n} in the image?", "Does the picture contain a {n}?",
    "Do you see a {n}?", "Can you see a {n} here?", "Is a {n} visible in the image?",
    "Does the image show a {n}?", "Is there a {n}?",
)  # fmt: skip
EXISTENCE_MANY = ("Are there any {p} in the picture?", "Are there any {p} in the image?", "Do you see any {p}?")
COLOUR_OF = (
    "What {c} is the disc behind the {n}?", "What is the {c} of the disc behind the {n}?",
    "Which {c} is the disc behind the {n}?", "The {n} is on a disc of which {c}?",
    "What {c} is the circle behind the {n}?", "What {c} is behind the {n}?",
)  # fmt: skip
OBJECT_ON = ("What is on the {k} disc?", "Which object is on the {k} disc?", "What object is in front of the {k} disc?")
COLOUR_IS = ("Is the disc behind the {n} {k}?", "Is the {n} on a {k} disc?", "Is there a {k} disc behind the {n}?")
COUNT_OF = (
    "How many {p} are in the picture?", "How many {p} are there?", "How many {p} do you see?",
    "How many {p} does the image show?", "Count the {p}.", "What is the number of {p} in the image?",
)  # fmt: skip
LEFT_RIGHT = (
    "Is the {a} to the left or to the right of the {b}?", "Is the {a} left or right of the {b}?",
    "On which side of the {b} is the {a}, left or right?",
)  # fmt: skip
ABOVE_BELOW = ("Is the {a} above or below the {b}?", "Is the {a} higher or lower, above or below the {b}?")
RELATION_IS = {
    "left": ("Is the {a} to the left of the {b}?", "Is the {a} left of the {b}?"),
    "right": ("Is the {a} to the right of the {b}?", "Is the {a} right of the {b}?"),
    "above": ("Is the {a} above the {b}?",),
    "below": ("Is the {a} below the {b}?",),
}
READING = (
    "What does the sign say?", "What word is on the sign?", "Which word is written on the sign?",
    "What is written on the sign?", "Read the word on the sign.", "What is the text on the sign?",
)  # fmt: skip
WHICH_THERE = (
    "Which of these is in the picture?", "What is in the picture?", "Which object does the image show?",
    "Which of these do you see?",
)  # fmt: skip
ENDINGS = ("", " Answer with the letter.")


@dataclass(frozen=True)
class Question:
    """A question, its one-word answer, its type, and the boxes (left, top, right, bottom) that hold what it is about."""

    text: str
    answer: str
    type: str
    boxes: tuple[Box, ...]


def sample_question(scene: Scene, rng: np.random.Generator, type: str | None = None) -> Question:
    """Draw a question of `type` (default: any the scene allows); ValueError if the scene allows none of that type."""
    kinds = [type] if type is not None else list(rng.permutation(TYPES))
    for kind in kinds:
        if kind not in _MAKERS:
            raise ValueError(f"unknown question type {kind!r}; one of {', '.join(TYPES)}")
        question = _MAKERS[kind](scene, rng)
        if question is not None:
            return question
    raise ValueError(f"this scene allows no question of type {type!r}")


def grade(answer_text: str, question: Question) -> bool:
    """Whether a reply's first word is the answer; case, punctuation and digits for number words do not matter."""
    found = re.findall(r"[a-z0-9]+", answer_text.lower())
    if not found:
        return False
    word = NUMBER_WORDS[int(found[0])] if found[0] in {str(i) for i in range(len(NUMBER_WORDS))} else found[0]
    return word == question.answer.lower()


def _absent(scene: Scene, rng: np.random.Generator, count: int) -> list[str]:
    present = {o.name for o in scene.objects}
    pool = [n for n in NAMES if n not in present]
    return [pool[i] for i in rng.choice(len(pool), size=count, replace=False)]


def _boxes(scene: Scene, name: str) -> tuple[Box, ...]:
    return tuple(o.box for o in scene.objects if o.name == name)


def _existence(scene: Scene, rng: np.random.Generator) -> Question | None:
    present = bool(rng.random() < 0.5)
    if present and not scene.objects:
        return None
    name = one_of(rng, scene.objects).name if present else _absent(scene, rng, 1)[0]
    templates = EXISTENCE_MANY if rng.random() < 0.25 else EXISTENCE_ONE
    text = ask(rng, templates, n=name, p=PLURALS[name])
    return Question(text, "yes" if present else "no", "existence", _boxes(scene, name))


def _attribute(scene: Scene, rng: np.random.Generator) -> Question | None:
    on_disc = tuple(o for o in scene.unique() if o.disc is not None)
    if not on_disc:
        return None
    item = one_of(rng, on_disc)
    colour = str(item.disc)
    draw = rng.random()
    if draw < 0.2 and sum(o.disc == colour for o in scene.objects) == 1:
        return Question(ask(rng, OBJECT_ON, k=colour), item.name, "attribute", (item.box,))
    if draw < 0.4:
        holds = bool(rng.random() < 0.5)
        others = tuple(k for k in COLOURS if k != colour)
        text = ask(rng, COLOUR_IS, n=item.name, k=colour if holds else pick(rng, others))
        return Question(text, "yes" if holds else "no", "attribute", (item.box,))
    return Question(ask(rng, COLOUR_OF, n=item.name, c=spelling(rng)), colour, "attribute", (item.box,))


def _counted(scene: Scene, rng: np.random.Generator) -> tuple[str, int] | None:
    """A name and its number in the scene; the numbers one to four come up about equally often."""
    by_count: dict[int, list[str]] = {}
    for name in sorted({o.name for o in scene.objects}):
        by_count.setdefault(scene.count(name), []).append(name)
    counts = [c for c in by_count if 1 <= c <= 4]
    if not counts:
        return None
    weights = np.array([0.25 if c == 1 else 1.0 for c in counts])
    count = counts[int(rng.choice(len(counts), p=weights / weights.sum()))]
    return pick(rng, tuple(by_count[count])), count


def _counting(scene: Scene, rng: np.random.Generator) -> Question | None:
    drawn = _counted(scene, rng)
    if drawn is None:
        return None
    name, count = drawn
    return Question(ask(rng, COUNT_OF, p=PLURALS[name]), NUMBERS[count], "counting", _boxes(scene, name))


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    objects = scene.unique()
    across = bool(rng.random() < 0.5)
    pairs = [
        (a, b) for a in objects for b in objects if a is not b and abs(a.x - b.x if across else a.y - b.y) >= MARGIN
    ]
    if not pairs:
        return None
    a, b = pairs[int(rng.integers(len(pairs)))]
    before = (a.x < b.x) if across else (a.y < b.y)
    words = ("left", "right") if across else ("above", "below")
    truth = words[0] if before else words[1]
    boxes = (a.box, b.box)
    if rng.random() < 0.4:
        asked = pick(rng, words)
        text = ask(rng, RELATION_IS[asked], a=a.name, b=b.name)
        return Question(text, "yes" if asked == truth else "no", "relation", boxes)
    return Question(ask(rng, LEFT_RIGHT if across else ABOVE_BELOW, a=a.name, b=b.name), truth, "relation", boxes)


def _reading(scene: Scene, rng: np.random.Generator) -> Question | None:
    if scene.sign is None:
        return None
    return Question(ask(rng, READING), scene.sign.word, "reading", (scene.sign.box,))


def _multiple_choice(scene: Scene, rng: np.random.Generator) -> Question | None:
    draw = rng.random()
    on_disc = tuple(o for o in scene.unique() if o.disc is not None)
    if draw < 0.3 and on_disc:
        item = one_of(rng, on_disc)
        others = [k for k in COLOURS if k != item.disc]
        wrong = [others[i] for i in rng.choice(len(others), size=3, replace=False)]
        return _lettered(rng, ask(rng, COLOUR_OF, n=item.name, c=spelling(rng)), str(item.disc), wrong, (item.box,))
    drawn = _counted(scene, rng) if draw < 0.6 else None
    if drawn is not None:
        name, count = drawn
        wrong = [NUMBERS[i] for i in range(1, 5) if i != count]
        return _lettered(rng, ask(rng, COUNT_OF, p=PLURALS[name]), NUMBERS[count], wrong, _boxes(scene, name))
    if not scene.objects:
        return None
    name = one_of(rng, scene.objects).name
    return _lettered(rng, ask(rng, WHICH_THERE), name, _absent(scene, rng, 3), _boxes(scene, name))


def _lettered(rng: np.random.Generator, stem: str, right: str, wrong: list[str], boxes: tuple[Box, ...]) -> Question:
    place = int(rng.integers(4))
    options = [*wrong[:place], right, *wrong[place:]]
    separator = "\n" if rng.random() < 0.5 else " "
    listed = separator.join(f"{letter}. {option}" for letter, option in zip(LETTERS, options, strict=True))
    ending = pick(rng, ENDINGS)
    text = f"{stem}{separator}{listed}{ending.replace(' ', separator, 1)}"
    return Question(text, LETTERS[place], "multiple_choice", boxes)


_MAKERS: dict[str, Callable[[Scene, np.random.Generator], Question | None]] = {
    "existence": _existence,
    "attribute": _attribute,
    "counting": _counting,
    "relation": _relation,
    "reading": _reading,
    "multiple_choice": _multiple_choice,
}


def corpus_words() -> list[str]:
    """Every text piece questions and answers are made of; the tokenizer's whole words come from here."""
    templates: list[str] = [*EXISTENCE_ONE, *EXISTENCE_MANY, *COLOUR_OF, *OBJECT_ON, *COLOUR_IS, *COUNT_OF]
    templates += [*LEFT_RIGHT, *ABOVE_BELOW, *READING, *WHICH_THERE, *ENDINGS]
    templates += [t for group in RELATION_IS.values() for t in group]
    pieces = [re.sub(r"\{\w\}", " ", t) for t in templates]
    return [*pieces, *NAMES, *PLURALS.values(), *COLOURS, *NUMBERS, *WORDS, "colour color", "yes no an a"]
