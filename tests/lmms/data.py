"""Small data sets of demo scenes in the formats of the twelve: ``python -m tests.lmms.data DIR`` writes a parquet file each.

Nothing of it is kept in the repository; the same call writes the same rows.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from trimkit.demo.items import item_rng
from trimkit.demo.questions import LETTERS, NUMBERS, sample_question
from trimkit.demo.render import render
from trimkit.demo.world import COLOURS, NAMES, PLURALS, Scene, sample_scene

NAMESPACE = 0x11A5
SCENES = 6  # a task
Rows = list[dict[str, Any]]


def scenes(task: int, *, sign: bool | None = None) -> list[tuple[np.random.Generator, Scene]]:
    """Scenes of a task, each with its generator, from which its questions are drawn."""
    found: list[tuple[np.random.Generator, Scene]] = []
    for index in range(100):
        rng = item_rng(NAMESPACE, task, index)
        scene = sample_scene(rng, sign=sign)
        if any(each.disc for each in scene.unique()):
            found.append((rng, scene))
        if len(found) == SCENES:
            break
    return found


def present_and_absent(rng: np.random.Generator, scene: Scene) -> tuple[str, str]:
    """An object of the scene and one that is not there."""
    there = [each.name for each in scene.objects]
    return str(rng.choice(there)), str(rng.choice([name for name in NAMES if name not in there]))


def colour_pair(scene: Scene) -> tuple[str, str, str]:
    """An object on a disc, the disc's colour, and another colour."""
    item = next(each for each in scene.unique() if each.disc)
    return item.name, str(item.disc), next(colour for colour in COLOURS if colour != item.disc)


def png(scene: Scene) -> dict[str, Any]:
    buffer = io.BytesIO()
    render(scene).save(buffer, "PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def pope() -> Rows:
    rows: Rows = []
    for rng, scene in scenes(1):
        for name, reply in zip(present_and_absent(rng, scene), ("yes", "no"), strict=True):
            question = {"question": f"Is there a {name} in the picture?", "answer": reply}
            rows.append({"question_id": str(len(rows)), **question, "image": png(scene)})
    return rows


def mme() -> Rows:
    """Two questions a picture, one to be answered yes and one no; perception and cognition."""
    rows: Rows = []
    for number, (rng, scene) in enumerate(scenes(2)):
        name, colour, other = colour_pair(scene)
        there, absent = present_and_absent(rng, scene)
        asked = [
            ("existence", f"Is there a {there} in the picture?", f"Is there a {absent} in the picture?"),
            ("color", f"Is the disc behind the {name} {colour}?", f"Is the disc behind the {name} {other}?"),
            ("commonsense_reasoning", f"Do you see a {there}?", f"Do you see a {absent}?"),
        ][number % 3]
        for question, reply in zip(asked[1:], ("Yes", "No"), strict=True):
            row = {"question_id": f"{number}.png", "category": asked[0], "question": question, "answer": reply}
            rows.append({**row, "image": png(scene)})
    return rows


def crowd(rng: np.random.Generator, answer: str, others: list[str]) -> list[str]:
    """Ten people's answers, of whom some differ: an answer that one or two gave scores a third or two thirds."""
    said = [answer] * int(rng.integers(1, 11))
    return [*said, *(str(rng.choice(others)) for _ in range(10 - len(said)))]


def vqav2() -> Rows:
    rows: Rows = []
    for rng, scene in scenes(3):
        question = sample_question(scene, rng, "counting")
        said = crowd(rng, question.answer, ["2", "three!", "a dog", "the one"])
        answers = [
            {"answer": each, "answer_confidence": "yes", "answer_id": place} for place, each in enumerate(said, start=1)
        ]
        rows.append({"question_id": len(rows), "question": question.text, "answers": answers, "image": png(scene)})
    return rows


def textvqa() -> Rows:
    rows: Rows = []
    for rng, scene in scenes(4, sign=True):
        question = sample_question(scene, rng, "reading")
        said = crowd(rng, question.answer, [question.answer.upper() + ".", "isnt", "a sign"])
        rows.append({"question_id": len(rows), "question": question.text, "answers": said, "image": png(scene)})
    return rows


def vizwiz() -> Rows:
    rows: Rows = []
    for rng, scene in scenes(5):
        name, colour, other = colour_pair(scene)
        said = crowd(rng, colour, ["unanswerable", other, f"{colour}, {other}"])
        question = f"What colour is the disc behind the {name}?"
        rows.append({"question_id": str(len(rows)), "question": question, "answers": said, "image": png(scene)})
    return rows


def gqa() -> Rows:
    rows: Rows = []
    for rng, scene in scenes(6):
        question = sample_question(scene, rng, "relation")
        answer = f"{question.answer.capitalize()}." if len(rows) % 2 else question.answer
        rows.append({"question_id": str(len(rows)), "question": question.text, "answer": answer, "image": png(scene)})
    return rows


def mmbench() -> Rows:
    """Every question four times, with the options turned: right only where all four are."""
    rows: Rows = []
    for number, (rng, scene) in enumerate(scenes(7)):
        there, _ = present_and_absent(rng, scene)
        absent = [name for name in NAMES if all(each.name != name for each in scene.objects)]
        options = [there, *(str(name) for name in rng.choice(absent, size=3, replace=False))]
        for turn in range(4):
            turned = options[turn:] + options[:turn]
            about = {"hint": "nan", "source": "demo", "split": "dev", "category": "existence", "L2-category": "coarse"}
            row = {"index": number + turn * 1_000_000, "question": "Which of these is in the picture?", **about}
            row |= dict(zip(LETTERS, turned, strict=True))
            rows.append({**row, "answer": LETTERS[turned.index(there)], "image": png(scene)})
    return rows


def seedbench() -> Rows:
    """SEED-Bench's letters; the last rows have two pictures each, one of which shows what is asked for."""
    rows: Rows = []
    drawn = scenes(8)
    for number, (rng, scene) in enumerate(drawn):
        name = str(rng.choice([each.name for each in scene.objects]))
        count = min(scene.count(name), 4)
        right = int(rng.integers(4))
        words = [word for place, word in enumerate(NUMBERS[1:]) if place != count - 1]
        options = [*words[:right], NUMBERS[count], *words[right:]]
        row = {
            "question_id": str(number),
            "question": f"How many {PLURALS[name]} are in the picture?",
            "data_type": "image",
        }
        row |= {f"choice_{letter.lower()}": option for letter, option in zip(LETTERS, options, strict=True)}
        pictures = [png(scene)] if number < 3 else [png(scene), png(drawn[number - 3][1])]
        rows.append({**row, "answer": LETTERS[right], "image": pictures})
    return rows


def scienceqa() -> Rows:
    """Choices with a hint; the last row has no picture."""
    rows: Rows = []
    for rng, scene in scenes(9):
        name, colour, _ = colour_pair(scene)
        others = [each for each in COLOURS if each != colour]
        choices = [str(each) for each in rng.permutation([colour, *rng.choice(others, size=3, replace=False)])]
        row = {
            "question": f"What colour is the disc behind the {name}?",
            "choices": choices,
            "hint": "",
            "image": png(scene),
        }
        rows.append({**row, "answer": choices.index(colour)})
    rows[-1] |= {"image": None, "hint": f"The {name} is on a {colour} disc."}
    return rows


TASKS: dict[str, Callable[[], Rows]] = {
    make.__name__: make for make in (pope, mme, vqav2, textvqa, vizwiz, gqa, mmbench, seedbench, scienceqa)
}


def damaged() -> Rows:
    """Yes and no again, with a picture cut short and a question longer than any context."""
    rows = pope()[:5]
    rows[1]["image"] = {"bytes": rows[1]["image"]["bytes"][:300], "path": None}
    rows[3]["question"] = "Is there a dog? " * 2000
    return rows


def write(folder: Path) -> None:
    """All files."""
    import datasets

    for name, make in {**TASKS, "damaged": damaged}.items():
        rows = make()
        table = datasets.Dataset.from_list(rows)
        kind: Any = datasets.Image()
        features = table.features.copy()
        features["image"] = datasets.Sequence(kind) if isinstance(rows[0]["image"], list) else kind
        datasets.Dataset.from_list(rows, features=features).to_parquet(str(folder / f"{name}.parquet"))


if __name__ == "__main__":
    write(Path(sys.argv[1]))
