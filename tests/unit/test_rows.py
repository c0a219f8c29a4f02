"""Rows answered in batches: the same as alone, several pictures or none, and what cannot be asked is named."""

from __future__ import annotations

from typing import Any

import pytest
from PIL import Image

from tests.checkpoint import TOKENS, save_small
from trimkit.attach import reduce
from trimkit.eval.rows import Row, answer, batches
from trimkit.loading import load_model

GREEDY: dict[str, Any] = {"max_new_tokens": 5, "do_sample": False}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_model(str(save_small(tmp_path_factory.mktemp("small"))))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    return load_model(str(save_small(tmp_path_factory.mktemp("narrow"), context=64)))


def picture(hue: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((70, 56)).rotate(45 * hue)
    return Image.merge("HSV", [ramp.point(lambda _: 40 * hue), ramp, Image.new("L", ramp.size, 200)]).convert("RGB")


ROWS = [
    Row("Is there a dog?", [picture(1)]),
    Row("What colour is the disc behind the cat? Answer with the letter.", [picture(2)]),
    Row("Which of these is in both?", [picture(3), picture(4)]),
    Row("How many dogs are in <image>and how many in <image>?", [picture(5), picture(1)]),
    Row("Is there a <image> cat?", [picture(2), picture(3)]),
]


@pytest.mark.parametrize("budget", [0.5, 1.0])
def test_a_batch_answers_as_its_rows_do_alone(small: tuple[Any, Any], budget: float) -> None:
    model, processor = small
    with reduce(model, processor, method="random", budget=budget) as trim:
        together = answer(trim, processor, ROWS, **GREEDY)
        alone = [answer(trim, processor, [row], **GREEDY)[0] for row in ROWS]
    assert together == alone
    assert len({reply.text for reply in together}) > 1
    assert [reply.tokens_full for reply in together] == [TOKENS * len(row.images) for row in ROWS]
    kept = [round(TOKENS * budget) * len(row.images) for row in ROWS]
    assert [reply.tokens_kept for reply in together] == kept


def test_the_text_is_the_question(small: tuple[Any, Any]) -> None:
    model, processor = small
    with reduce(model, processor, method="random", budget=0.5) as trim:
        answer(trim, processor, ROWS[2:], **GREEDY)
        queries = [image.query for image in trim.report.images]
    assert queries[0] == queries[1] == "Which of these is in both?"
    assert "<image>" not in "".join(map(str, queries))


def test_rows_without_pictures(small: tuple[Any, Any]) -> None:
    model, processor = small
    rows = [Row("Is there a dog?"), Row("What is the number of dogs in the <image>?")]
    with reduce(model, processor, method="random", budget=0.5) as trim:
        together = answer(trim, processor, rows, **GREEDY)
        assert together == [answer(trim, processor, [row], **GREEDY)[0] for row in rows]
    assert [(reply.tokens_full, reply.skipped) for reply in together] == [(0, None), (0, None)]


def test_a_row_with_a_problem_is_skipped_and_harms_no_other(small: tuple[Any, Any]) -> None:
    model, processor = small
    rows = [ROWS[0], Row("Is there a cat?", problem="it is damaged"), Row("A cat?", ["no picture"]), ROWS[1]]
    with reduce(model, processor, method="random", budget=0.5) as trim:
        replies = answer(trim, processor, rows, **GREEDY)
        assert [replies[0], replies[3]] == answer(trim, processor, ROWS[:2], **GREEDY)
        assert replies[1].skipped == "it is damaged"
        assert str(replies[2].skipped).startswith("the processor cannot take it (")
        assert answer(trim, processor, rows[1:3], **GREEDY) == replies[1:3]
        assert answer(trim, processor, [], **GREEDY) == []


def test_length_counts_after_reduction(narrow: tuple[Any, Any]) -> None:
    """Three pictures are 48 tokens: with 64 positions they fit beside a longer question only when they are reduced."""
    model, processor = narrow
    three = [picture(1), picture(2), picture(3)]
    rows = [Row("Is there a dog? " * 4, three), Row("dog " * 80, [picture(1)]), Row("Is there a dog?", [picture(4)])]
    with reduce(model, processor, method="none") as trim:
        full = answer(trim, processor, rows, **GREEDY)
    with reduce(model, processor, method="random", budget=2, aggregate="none") as trim:
        cut = answer(trim, processor, rows, **GREEDY)
        assert cut == [answer(trim, processor, [row], **GREEDY)[0] for row in rows]
    assert [reply.skipped is None for reply in full] == [False, False, True]
    assert [reply.skipped is None for reply in cut] == [True, False, True]
    assert "tokens after reduction, and the model's context holds 64" in str(full[0].skipped)


def test_what_room_there_is_is_used(narrow: tuple[Any, Any]) -> None:
    model, processor = narrow
    rows = [Row("Is there a dog?", [picture(1)]), Row("Is there a dog? Is there a cat?", [picture(2)])]
    wide = {"max_new_tokens": 1000, "do_sample": False, "eos_token_id": 1023}
    with reduce(model, processor, method="random", budget=4) as trim:
        together = answer(trim, processor, rows, **wide)
        assert together == [answer(trim, processor, [row], **wide)[0] for row in rows]
    assert all(reply.text and reply.skipped is None for reply in together)


def test_batches_hold_like_rows_in_order() -> None:
    assert batches(["a", "a", "b", "a", "b", "a"], 2) == [[0, 1], [3, 5], [2, 4]]
    assert batches([], 2) == []
