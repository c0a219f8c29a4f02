"""Which question the vLLM plugin chooses for: the last, the first about a picture, or the first that anybody asked about it."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoProcessor

from trimkit.demo import demo_model_path
from trimkit.serving.vllm.questions import Questions

TURNS = ("<image>\nIs there a fox?", "yes", "<image>\nWhich color is the disc?", "red", "Is it large?")


@pytest.fixture(scope="module")
def processor() -> Any:
    return AutoProcessor.from_pretrained(demo_model_path())


@pytest.fixture
def questions(processor: Any) -> Questions:
    return Questions(processor, processor.image_token_id)


def prompt(processor: Any, *turns: str) -> list[int]:
    roles = ("user", "assistant")
    chat = [{"role": roles[i % 2], "content": [{"type": "text", "text": text}]} for i, text in enumerate(turns)]
    text = processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    return list(processor.tokenizer(text, add_special_tokens=False)["input_ids"])


def test_the_last_and_the_first(questions: Questions, processor: Any) -> None:
    ids = prompt(processor, *TURNS)
    assert questions.last(ids) == "Is it large?"
    assert questions.first(ids, 2) == ["Is there a fox?", "Which color is the disc?"]
    assert questions.first(ids[: ids.index(processor.image_token_id) + 1], 1) == [None]


def test_pictures_that_the_prompt_does_not_show_are_asked_about_in_its_first_turn(
    questions: Questions, processor: Any
) -> None:
    assert questions.first(prompt(processor, *TURNS), 3) == ["Is there a fox?"] * 3


def test_a_picture_keeps_the_first_question_that_was_asked_about_it(questions: Questions) -> None:
    assert questions.once([None, "a?"], ["x", "y"]) == [None, "a?"]
    assert questions.once(["b?", "b?"], ["x", "y"]) == ["b?", "a?"]
    assert questions.once([None, "c?"], ["x", "z"]) == ["b?", "c?"]
