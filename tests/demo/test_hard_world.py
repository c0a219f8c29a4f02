"""The four harder question types: reproducible, right by the picture's geometry, and not to be guessed from the question."""

from __future__ import annotations

import math
import re
from collections import Counter
from functools import lru_cache

import numpy as np
import pytest
import torch

from trimkit.core.text_lines import MOST_ALIKE, alike
from trimkit.demo import load_demo
from trimkit.demo.dense import DENSE
from trimkit.demo.grounding import CELLS, GROUNDING, cell_of
from trimkit.demo.items import EVALUATION_NAMESPACE, item_rng, sample_item
from trimkit.demo.overall import GLOBAL
from trimkit.demo.pages import Page
from trimkit.demo.pairs import TWO_THINGS
from trimkit.demo.questions import NUMBER_WORDS, TYPES, Question, grade
from trimkit.demo.typed_items import ALL_TYPES, HARD_TYPES, draw, sample_typed, sample_typed_item
from trimkit.demo.world import COLOURS, NAMES, WORDS, Scene

MANY = 1000


@lru_cache(maxsize=len(HARD_TYPES))
def drawn(kind: str) -> list[tuple[Scene | Page, Question]]:
    return [sample_typed(item_rng(EVALUATION_NAMESPACE, 3, i), kind) for i in range(MANY)]


def words(text: str) -> list[str]:
    return re.findall(r"[a-zA-Z]+", text)


def test_there_are_ten_types() -> None:
    assert HARD_TYPES == (DENSE, TWO_THINGS, GLOBAL, GROUNDING)
    assert (*TYPES, *HARD_TYPES) == ALL_TYPES
    with pytest.raises(ValueError, match="unknown question type"):
        sample_typed(np.random.default_rng(0), "color")


def test_items_are_reproducible_and_cycle_through_types() -> None:
    for index in range(len(ALL_TYPES)):
        first, second = sample_typed_item(11, index), sample_typed_item(11, index)
        assert first[1] == second[1]
        assert first[1].type == ALL_TYPES[index]
        assert np.array_equal(np.asarray(first[0]), np.asarray(second[0]))
        assert first[0].size == (336, 336)
        assert first[0].mode == "RGB"
    assert sample_typed_item(11, 3)[1] != sample_typed_item(12, 3)[1]


def test_of_the_first_six_types_items_are_those_of_old() -> None:
    for index in range(len(TYPES)):
        old, new = sample_item(11, index), sample_typed_item(11, index, TYPES)
        assert old[1] == new[1]
        assert np.array_equal(np.asarray(old[0]), np.asarray(new[0]))


@pytest.mark.parametrize("kind", HARD_TYPES)
def test_a_seed_and_namespaces_of_its_own(kind: str) -> None:
    found = {sample_typed(item_rng(space, seed, 0), kind)[0] for space in (1, 2) for seed in (1, 2)}
    assert len(found) == 4


@pytest.mark.parametrize("kind", HARD_TYPES)
def test_boxes_lie_in_the_picture_and_answers_are_one_word(kind: str) -> None:
    for content, question in drawn(kind)[:200]:
        assert question.type == kind
        assert question.boxes
        for left, top, right, bottom in question.boxes:
            assert 0 <= left < right <= content.size
            assert 0 <= top < bottom <= content.size
        assert re.fullmatch(r"[a-z]+|[A-P]", question.answer)
        assert grade(f" {question.answer}.", question)


def guess(kind: str) -> float:
    """Right answers of naive Bayes on a question's words, learnt on one half of 1,000 questions and asked the other.

    Where the question offers its answers, what is guessed is which of them: words that stand for one thing only cannot
    be learnt from so few.
    """
    seen: dict[str, Counter[str]] = {}
    prior: Counter[str] = Counter()
    right = 0
    for place, (_, question) in enumerate(drawn(kind)):
        text = words(question.text)
        offered = [word for word in text if word == question.answer or word in NAMES or word in COLOURS]
        answer = f"offer {offered.index(question.answer)}" if question.answer in offered else question.answer
        features = [f"{at} {word}" for at, word in enumerate(text)] + text
        if place < MANY // 2:
            prior[answer] += 1
            seen.setdefault(answer, Counter()).update(features)
            continue
        scores = {
            each: math.log(count) + sum(math.log((seen[each][f] + 0.5) / (count + 1.0)) for f in features)
            for each, count in prior.items()
        }
        right += max(scores, key=lambda each: scores[each]) == answer
    return right / (MANY - MANY // 2)


@pytest.mark.parametrize(
    ("kind", "chance"),
    # What knowing the question's kind gives: one of nine numbers, 48 words, 112 names or two bars; of two things or yes and no;
    # of eight numbers, eight colors or two colors; of 16 cells.
    [(DENSE, 0.17), (TWO_THINGS, 0.5), (GLOBAL, (1 / 8 + 1 / 8 + 1 / 2) / 3), (GROUNDING, 1 / 16)],
)
def test_the_answer_cannot_be_guessed_from_the_question(kind: str, chance: float) -> None:
    spread = math.sqrt(chance * (1 - chance) / (MANY / 2))
    assert guess(kind) < chance + 3 * spread


def answers(kind: str, pool: tuple[str, ...] | str) -> Counter[str]:
    return Counter(question.answer for _, question in drawn(kind) if question.answer in pool)


@pytest.mark.parametrize(
    ("kind", "pool"),
    [
        (DENSE, NUMBER_WORDS[1:]), (DENSE, WORDS), (GLOBAL, NUMBER_WORDS[1:9]), (GLOBAL, tuple(COLOURS)),
        (GROUNDING, CELLS), (TWO_THINGS, ("yes", "no")),
    ],
)  # fmt: skip
def test_answers_are_balanced(kind: str, pool: tuple[str, ...]) -> None:
    counts = answers(kind, pool)
    assert set(counts) == set(pool)
    expected = sum(counts.values()) / len(pool)
    chi2 = sum((count - expected) ** 2 / expected for count in counts.values())
    freedom = len(pool) - 1
    assert chi2 < freedom + 4 * math.sqrt(2 * freedom)


def test_dense_answers_stand_on_the_page() -> None:
    kinds: Counter[str] = Counter()
    for page, question in drawn(DENSE)[:300]:
        assert isinstance(page, Page)
        kinds[page.kind] += 1
        said = words(question.text)
        if page.kind == "chart" and question.answer in NAMES:
            numbers = {cell.row: int(cell.text) for cell in page.cells}
            compared = [name for name in numbers if name in said] or list(numbers)
            assert question.answer == max(compared, key=lambda name: numbers[name])
            assert [numbers[name] for name in compared].count(numbers[question.answer]) == 1
        else:
            (cell,) = [c for c in page.cells if c.row in said and (not c.column or c.column in said)]
            assert question.answer in (cell.text, NUMBER_WORDS[int(cell.text)] if cell.text.isdigit() else "")
            assert cell.boxes == question.boxes
        assert len({c.text for c in page.cells}) == len(page.cells) or page.kind != "table"
    assert set(kinds) == {"table", "receipt", "chart"}


def test_texts_of_a_page_do_not_overlap() -> None:
    for page, _ in drawn(DENSE)[:100]:
        assert isinstance(page, Page)
        boxes = [text.box for text in page.texts] + [thing.box for thing in page.things]
        for n, a in enumerate(boxes):
            assert all(a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1] for b in boxes[n + 1 :])


def test_two_things_answers() -> None:
    for scene, question in drawn(TWO_THINGS)[:300]:
        assert isinstance(scene, Scene)
        at = {thing.name: thing for thing in scene.unique()}
        said = [word for word in words(question.text) if word in at]
        if question.answer in ("yes", "no"):
            assert (at[said[0]].disc == at[said[1]].disc) == (question.answer == "yes")
            assert at[said[0]].disc is not None
        elif len(said) == 3:
            a, b, c = (at[name] for name in said)
            near = min((b, c), key=lambda thing: math.hypot(thing.x - a.x, thing.y - a.y))
            assert question.answer == near.name
        else:
            upper = min(said, key=lambda name: at[name].y)
            assert (question.answer == upper) == ("higher" in question.text)


def test_global_answers() -> None:
    for scene, question in drawn(GLOBAL)[:300]:
        assert isinstance(scene, Scene)
        discs = Counter(thing.disc for thing in scene.objects if thing.disc is not None)
        if question.answer in NUMBER_WORDS:
            assert question.answer == NUMBER_WORDS[sum(discs.values())]
        else:
            asked = [colour for colour in COLOURS if colour in words(question.text)] or list(discs)
            best = max(asked, key=lambda colour: discs[colour])
            assert question.answer == best
            assert [discs[colour] for colour in asked].count(discs[best]) == 1
        assert len(question.boxes) == sum(discs.values())


def test_grounding_answers() -> None:
    for scene, question in drawn(GROUNDING)[:200]:
        assert isinstance(scene, Scene)
        (thing,) = [each for each in scene.unique() if each.name in words(question.text)]
        assert cell_of(thing, scene.size) == question.answer
        assert CELLS[int(thing.y // 84) * 4 + int(thing.x // 84)] == question.answer


def test_every_page_can_be_drawn() -> None:
    for page, _ in drawn(DENSE)[:12]:
        assert np.asarray(draw(page)).std() > 10


def test_digits_count_for_number_words() -> None:
    seven = Question("How much is tea?", "seven", DENSE, ())
    assert grade("7", seven)
    assert not grade("8", seven)


def test_a_patch_of_a_page_is_like_few_others_and_one_of_a_scene_like_many() -> None:
    """What ``focus`` tells pages by; charts have few numbers and much paper, and lie between."""
    model, processor = load_demo()
    texts = [page for page, _ in drawn(DENSE) if isinstance(page, Page) and page.kind != "chart"][:4]
    scenes = [scene for kind in (TWO_THINGS, GLOBAL) for scene, _ in drawn(kind)[:2]]
    pixels = processor.image_processor([draw(each) for each in (*texts, *scenes)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        features = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
    shares = alike(features).tolist()
    assert all(each <= MOST_ALIKE for each in shares[:4])
    assert all(each > MOST_ALIKE for each in shares[4:])
