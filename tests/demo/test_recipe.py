"""What the recipe trains on: every question of every type is one answer token, and the shipped vocabulary comes first."""

from __future__ import annotations

import numpy as np
import pytest

from recipes.demo import evaluate
from recipes.demo.hard_data import answer_spot, numbers_of, targets_of
from recipes.demo.lm_batches import new_task
from recipes.demo.lm_data import SHORT, TOTAL, block_ids, make_rows
from recipes.demo.shapes import PAD, vocabulary
from recipes.demo.targets import CLASS_OF, IGNORE
from recipes.demo.unfinished import kept
from trimkit.demo import load_demo
from trimkit.demo.dense import about_page
from trimkit.demo.items import TRAINING_NAMESPACE, item_rng
from trimkit.demo.pages import Page
from trimkit.demo.questions import NUMBER_WORDS
from trimkit.demo.typed_items import ALL_TYPES, HARD_TYPES, sample_typed


def test_new_words_come_last() -> None:
    """Weights that were trained without them can be gone on with."""
    base, words = vocabulary(hard=False), vocabulary()
    assert list(words.items())[: len(base)] == list(base.items())
    assert load_demo()[1].tokenizer.get_vocab() == base
    assert {"Ġnine", "Ġnearer", "ĠP"} <= set(words) - set(base)


@pytest.mark.parametrize("kind", HARD_TYPES)
def test_a_question_fits_its_block_and_has_one_answer_token(kind: str) -> None:
    for index in range(60):
        assert len(block_ids(sample_typed(item_rng(TRAINING_NAMESPACE, 9, index), kind)[1])) <= SHORT


def test_a_picture_for_harder_questions_has_a_full_set() -> None:
    seen: set[int] = set()
    for index in range(8):
        rows = make_rows((TRAINING_NAMESPACE, 9, index, 1.0))
        assert rows.ids.shape[0] == len(rows.texts) == TOTAL
        assert (rows.ids[:, 0] != PAD).all()
        assert rows.label.shape == (576,)
        seen |= set(rows.type.tolist())
    assert {ALL_TYPES.index(kind) for kind in HARD_TYPES} <= seen
    old = make_rows((TRAINING_NAMESPACE, 9, 0, 0.0))
    assert set(old.type.tolist()) <= set(range(6))


def test_words_of_a_page_have_their_classes_and_numbers_none() -> None:
    pages = [sample_typed(item_rng(TRAINING_NAMESPACE, 9, i), "dense_reading")[0] for i in range(12)]
    page = next(each for each in pages if isinstance(each, Page) and each.kind == "receipt")
    label = targets_of(page).label.reshape(24, 24)
    for text in page.texts:
        there = label[int(text.y // 14), int(text.x // 14)]
        assert there == (IGNORE if text.text.isdigit() else CLASS_OF[text.text])
    assert np.isin(label, [0, IGNORE, *(CLASS_OF[cell.row] for cell in page.cells)]).all()


def test_numbers_and_the_cell_of_the_answer_are_known() -> None:
    """Aids of the training: what number a patch holds, and where the answer is read off."""
    for index in range(24):
        page, _ = sample_typed(item_rng(TRAINING_NAMESPACE, 9, index), "dense_reading")
        assert isinstance(page, Page)
        numbers = numbers_of(page).reshape(24, 24)
        for text in page.texts:
            assert numbers[int(text.y // 14), int(text.x // 14)] == (int(text.text) if text.text.isdigit() else 0)
        for number in range(12):
            question = about_page(page, np.random.default_rng(number))
            left, top, right, bottom = answer_spot(page, question)
            there = set(numbers[top:bottom, left:right].ravel().tolist())
            assert question.answer not in NUMBER_WORDS or NUMBER_WORDS.index(question.answer) in there
    scene, question = sample_typed(item_rng(TRAINING_NAMESPACE, 9, 0), "reading")
    assert answer_spot(scene, question) == (0, 0, 0, 0)
    assert not numbers_of(scene).any()


def test_a_training_that_is_kept_is_gone_on_with() -> None:
    found = kept()
    if found is None:
        pytest.skip("no training is under way")
    task = new_task(0)
    missing = task.model.load_state_dict(found["model"], strict=False)
    assert missing.unexpected_keys == []
    assert all("vision_tower" in name or name == "lm_head.weight" for name in missing.missing_keys)
    task.probes.load_state_dict(found["heads"])


def test_a_type_that_has_lost_more_than_a_point_is_named() -> None:
    before = {"results": {"none": {"overall": {"accuracy": 0.92}, "reading": {"accuracy": 0.9}}}}
    after = {
        "results": {
            "none": {"overall": {"accuracy": 0.911}, "reading": {"accuracy": 0.88}, "global": {"accuracy": 0.2}}
        }
    }
    assert evaluate.worse(after, before) == ["reading"]
