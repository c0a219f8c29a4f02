"""The demo world: the same numbers give the same items, answers follow from the scene's geometry, boxes lie in the picture."""

from __future__ import annotations

import numpy as np
import pytest

from trimkit.demo.items import (
    EVALUATION_NAMESPACE,
    TRAINING_NAMESPACE,
    item_rng,
    sample_dialogue,
    sample_item,
    sample_scene_question,
)
from trimkit.demo.questions import NUMBERS, TYPES, Question, grade, sample_question
from trimkit.demo.render import render
from trimkit.demo.world import NAMES, PLURALS, Scene, sample_scene


def scenes_and_questions(kind: str, count: int = 40) -> list[tuple[Scene, Question]]:
    return [sample_scene_question(item_rng(EVALUATION_NAMESPACE, 3, i), kind) for i in range(count)]


def named(scene: Scene, text: str) -> list[str]:
    """The scene's object names in a question, in order of appearance."""
    words = text.replace("?", " ").replace(".", " ").replace(",", " ").split()
    singular = {p: n for n, p in PLURALS.items()}
    return [singular.get(w, w) for w in words if singular.get(w, w) in NAMES]


def test_items_are_reproducible_and_types_cycle() -> None:
    for index in range(6):
        first, second = sample_item(11, index), sample_item(11, index)
        assert first[1] == second[1]
        assert first[1].type == TYPES[index]
        assert np.array_equal(np.asarray(first[0]), np.asarray(second[0]))
    assert first[0].size == (336, 336)
    assert first[0].mode == "RGB"


def test_seeds_and_namespaces_differ() -> None:
    base = sample_scene(item_rng(EVALUATION_NAMESPACE, 1, 0))
    assert base != sample_scene(item_rng(EVALUATION_NAMESPACE, 2, 0))
    assert base != sample_scene(item_rng(TRAINING_NAMESPACE, 1, 0))


def test_negative_seed_is_refused() -> None:
    with pytest.raises(ValueError, match="negative"):
        sample_item(-1, 0)


def test_objects_lie_inside_and_apart() -> None:
    for i in range(30):
        scene = sample_scene(item_rng(EVALUATION_NAMESPACE, 4, i))
        boxes = [o.box for o in scene.objects] + ([scene.sign.box] if scene.sign else [])
        for n, a in enumerate(boxes):
            assert 0 <= a[0] < a[2] <= scene.size
            assert 0 <= a[1] < a[3] <= scene.size
            for b in boxes[n + 1 :]:
                assert a[2] < b[0] or b[2] < a[0] or a[3] < b[1] or b[3] < a[1]


@pytest.mark.parametrize("kind", TYPES)
def test_boxes_come_from_the_scene(kind: str) -> None:
    for scene, question in scenes_and_questions(kind):
        known = {o.box for o in scene.objects} | ({scene.sign.box} if scene.sign else set())
        assert set(question.boxes) <= known
        assert question.type == kind
        assert question.boxes or question.answer == "no"


def test_existence_and_counting_answers() -> None:
    for scene, question in scenes_and_questions("existence"):
        (name,) = named(scene, question.text)
        assert question.answer == ("yes" if scene.count(name) else "no")
    for scene, question in scenes_and_questions("counting"):
        (name,) = named(scene, question.text)
        assert question.answer == NUMBERS[scene.count(name)]
        assert len(question.boxes) == scene.count(name)


def test_relation_answers() -> None:
    for scene, question in scenes_and_questions("relation", 80):
        first, second = named(scene, question.text)
        # "On which side of the B is the A"
        a, b = (second, first) if question.text.startswith("On which side") else (first, second)
        at = {o.name: o for o in scene.unique()}
        across = "left" in question.text or "right" in question.text
        truth = (at[a].x < at[b].x) if across else (at[a].y < at[b].y)
        word = ("left" if truth else "right") if across else ("above" if truth else "below")
        if question.answer in ("yes", "no"):
            assert question.answer == ("yes" if word in question.text else "no")
        else:
            assert question.answer == word
        gap = abs(at[a].x - at[b].x) if across else abs(at[a].y - at[b].y)
        assert gap >= 48


def test_attribute_answers() -> None:
    for scene, question in scenes_and_questions("attribute", 80):
        item = next(o for o in scene.objects if o.box == question.boxes[0])
        assert scene.count(item.name) == 1
        if question.answer in ("yes", "no"):
            assert question.answer == ("yes" if str(item.disc) in question.text else "no")
        else:
            assert question.answer in (item.disc, item.name)


def test_multiple_choice_names_the_right_option() -> None:
    for scene, question in scenes_and_questions("multiple_choice"):
        option = question.text.split(f"{question.answer}. ")[1].split()[0]
        item = next(o for o in scene.objects if o.box == question.boxes[0])
        assert option in (item.name, item.disc, NUMBERS[scene.count(item.name)])


def test_grade_normalises() -> None:
    two = Question("How many dogs are there?", "two", "counting", ())
    assert grade(" Two.", two)
    assert grade("2", two)
    assert not grade("three", two)
    assert not grade("", two)
    letter = Question("Which?", "B", "multiple_choice", ())
    assert grade("b.", letter)
    assert grade("B", letter)
    assert not grade("A", letter)


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown question type"):
        sample_question(sample_scene(np.random.default_rng(0)), np.random.default_rng(0), "colour")


def test_small_scenes_render() -> None:
    scene = sample_scene(np.random.default_rng(0), size=168, objects=(3, 5))
    assert render(scene).size == (168, 168)


def test_dialogues_ask_about_other_objects_each_time() -> None:
    for index in range(12):
        _, questions = sample_dialogue(3, index)
        assert len({question.type for question in questions}) == 3
        boxes = [box for question in questions for box in set(question.boxes)]
        assert len(boxes) == len(set(boxes))
    assert sample_dialogue(3, 4)[1] == sample_dialogue(3, 4)[1]
    assert sample_dialogue(3, 4)[1] != sample_dialogue(4, 4)[1]
