"""What the recipe trains on: every question of every type is one answer token, and the shipped vocabulary comes first."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from recipes.demo import evaluate, train_lm
from recipes.demo.gpu_data import SHARD, Pool, write_shards
from recipes.demo.hard_data import answer_spot, numbers_of, targets_of
from recipes.demo.lm_batches import new_task
from recipes.demo.lm_data import SHORT, TOTAL, block_ids, load_clip, make_rows
from recipes.demo.shapes import PAD, vocabulary
from recipes.demo.targets import CLASS_OF, IGNORE
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
    assert load_demo()[1].tokenizer.get_vocab() == words
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


def test_the_shipped_model_is_gone_on_with(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Weights and helper heads, where the cache has no checkpoint."""
    monkeypatch.setattr(train_lm, "CHECKPOINT", tmp_path / "none.pt")
    task = new_task(0)
    train_lm.resume_from(task)
    shipped = load_demo()[0].state_dict()
    assert all(torch.equal(value, shipped[name]) for name, value in task.model.state_dict().items())
    assert float(task.probes.waves.weight.detach().abs().sum()) > 0  # a fresh one is zero


def test_pictures_of_a_gpu_pool_are_those_of_the_recipe(tmp_path: Path) -> None:
    """Shards that workers write come back as the tower's batches and as the language model's cache."""
    write_shards(tmp_path, TRAINING_NAMESPACE, 9, 0, range(1), 0.5)
    pool = Pool(tmp_path, SHARD, torch.device("cpu"))
    assert (pool.load(), pool.size, list(tmp_path.iterdir())) == (1, SHARD, [])
    rows = [make_rows((TRAINING_NAMESPACE, 9, index, 0.5)) for index in range(3)]
    for index, row in enumerate(rows):
        assert np.array_equal(pool.arrays["patches"][index].numpy(), row.patches)
        assert np.array_equal(pool.arrays["ids"][index].numpy(), row.ids)
    chunk = pool.chunk(np.random.default_rng(0), 8, 4)
    assert chunk.mask.shape == (8, 4, 576)
    for row in np.flatnonzero(~np.asarray(chunk.pages)):
        assert (
            np.asarray(chunk.label)[row][np.asarray(chunk.mask)[row].any(axis=0)] > 0
        ).all()  # questions are about things
    cache = pool.cache(load_clip())
    assert cache.gather_features(np.array([0, 2])).shape == (2, 576, 192)
    assert cache.query.shape == (SHARD, TOTAL, 192)


def test_a_type_that_has_lost_more_than_a_point_is_named() -> None:
    before = {"results": {"none": {"overall": {"accuracy": 0.92}, "reading": {"accuracy": 0.9}}}}
    after = {
        "results": {
            "none": {"overall": {"accuracy": 0.911}, "reading": {"accuracy": 0.88}, "global": {"accuracy": 0.2}}
        }
    }
    assert evaluate.worse(after, before) == ["reading"]
    after["results"]["none"]["reading"]["accuracy"] = 0.9
    after["results"]["none"]["overall"]["accuracy"] = 0.5
    assert evaluate.worse(after, before) == []  # of other types
