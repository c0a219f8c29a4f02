"""A picture in a turn without words: chosen for what the user said before, or at equal distances, and the report says so."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

import trimkit
from tests import tiny
from tests.unit.test_query import CHATML, IMAGE, LLAVA, _ids, _Processor
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.demo import load_demo
from trimkit.methods import get_method
from trimkit.pipeline.image_queries import QueryFinder
from trimkit.pipeline.text_free import select_asked, text_free

EARLIER = "this turn has no words: chosen for what the user said before"
NOTHING = "the conversation has no words: chosen at equal distances"


def _asked(prompt: str, policy: Any, template: str = LLAVA) -> tuple[list[Any], list[Any]]:
    """Questions and notes of every run of placeholders."""
    ids = _ids(prompt)
    at = [i for i in (ids == IMAGE).nonzero().squeeze(1).tolist() if i == 0 or ids[i - 1] != IMAGE]
    items: Any = [SimpleNamespace(row=0, first=column) for column in at]
    found = QueryFinder(_Processor(template), policy).of_images(ids[None], IMAGE, items, None, [], "trim")
    return found.queries, list(found.notes)


@pytest.mark.parametrize(
    ("policy", "prompt", "queries", "notes"),
    [
        ("refresh", "USER: §§ ASSISTANT:", [(None,)], [NOTHING]),
        ("refresh", "USER: Look. ASSISTANT: Yes? USER: §§ ASSISTANT:", [("Look.",)], [EARLIER]),
        ("refresh", "USER: §§ ASSISTANT: What? USER: Where is it? ASSISTANT:", [("Where is it?",)], [None]),
        ("refresh", "USER: § One? ASSISTANT: A. USER: § ASSISTANT:", [("One?",), ("One?",)], [EARLIER, EARLIER]),
        ("first", "USER: § One? ASSISTANT: A. USER: § ASSISTANT:", [("One?",), ("One?",)], [None, EARLIER]),
        ("union", "USER: § ASSISTANT: A. USER: § Two? ASSISTANT: B. USER: § ASSISTANT:",
         [("Two?",), ("Two?",), ("Two?",)], [None, None, EARLIER]),
        ("union", "USER: § ASSISTANT: A. USER: § ASSISTANT:", [(None,), (None,)], [NOTHING, NOTHING]),
    ],
)  # fmt: skip
def test_what_it_is_asked(policy: str, prompt: str, queries: list[Any], notes: list[Any]) -> None:
    assert _asked(prompt, policy) == (queries, notes)


@pytest.mark.parametrize("policy", ["refresh", "first", "union"])
def test_a_screenshot_of_a_tool_is_asked_what_the_user_asked(policy: str) -> None:
    turns = (
        "<|im_start|>user\nOpen the settings.<|im_end|>\n<|im_start|>assistant\nI look.<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n§§\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert _asked(turns, policy, CHATML) == ([("Open the settings.",)], [None])


def _images() -> list[ImageTokens]:
    generator = torch.Generator().manual_seed(3)
    return [ImageTokens(torch.randn(36, 8, generator=generator), grid=(6, 6), key=str(i)) for i in range(3)]


@pytest.mark.parametrize(
    ("method", "options", "tokens"),
    [
        ("trim", {"budget": "iqr"}, 10),  # a quarter, and the mean of the rest
        ("trim", {"budget": "iqr", "aggregate": "none"}, 9),
        ("trim", {"budget": "iqr", "max_tokens": 4, "aggregate": "none"}, 4),
        ("trim", {"budget": "top-p:0.5", "aggregate": "none"}, 18),
        ("trim", {"budget": 7}, 7),
        ("focus", {"budget": 0.5, "compare": "features"}, 18),
        ("cdpruner", {"budget": 7, "compare": "features"}, 7),
        ("uniform", {"budget": "iqr"}, 9),
        ("random", {"budget": "iqr"}, 10),
    ],
)
def test_how_many_stay(method: str, options: dict[str, Any], tokens: int) -> None:
    images, chosen = _images(), get_method(method, **options)
    scorer = tiny.ToyScorer()
    asked = ["where", None, "what"]
    found = select_asked(images, asked, chosen, scorer, EncoderProfile(), [0, 1, 2])
    assert len(found[1]) == tokens
    assert found[1].indices.tolist() == text_free(chosen).select(_batch(images[1]))[0].indices.tolist()
    alone = select_asked([images[0], images[2]], ["where", "what"], chosen, scorer, EncoderProfile(), [0, 2])
    for one, other in zip((found[0], found[2]), alone, strict=True):
        assert one.indices.tolist() == other.indices.tolist()


def _batch(image: ImageTokens) -> Any:
    from trimkit.pipeline.selecting import make_batch

    return make_batch([image], None, [None], EncoderProfile())


def test_a_shared_budget_of_silent_pictures() -> None:
    chosen = get_method("trim", budget=12, share="prompt", aggregate="none")
    found = select_asked(_images(), [None, None, "what"], chosen, tiny.ToyScorer(), EncoderProfile(), [0, 0, 1])
    assert len(found[0]) + len(found[1]) == 12
    assert min(len(found[0]), len(found[1])) >= 5
    assert len(found[2]) == 12


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo()


def _inputs(processor: Any, *talks: list[Any]) -> Any:
    turns = [[{"role": ("user", "assistant")[i % 2], "content": each} for i, each in enumerate(talk)] for talk in talks]
    texts = [processor.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) for talk in turns]
    pictures = [Image.effect_noise((336, 336), 60 + 10 * i).convert("RGB") for i in range(len(talks))]
    return processor(images=pictures, text=texts, padding=True, padding_side="left", return_tensors="pt")


PICTURE: list[Any] = [{"type": "image"}]
WORDS: list[Any] = [{"type": "text", "text": "How many dogs are there?"}]


@pytest.mark.parametrize("options", [{}, {"budget": 40, "turns": "union"}, {"tower_keep": 0.5, "budget": 40}])
def test_no_batch_stops(demo: Any, options: dict[str, Any]) -> None:
    model, processor = demo
    inputs = _inputs(processor, PICTURE_ALONE, [PICTURE + WORDS], [WORDS, WORDS, PICTURE])
    with trimkit.reduce(model, processor, **options) as trim:
        model.generate(**inputs, max_new_tokens=2, do_sample=False)
        together = trim.report.images
        model.generate(**_inputs(processor, PICTURE_ALONE), max_new_tokens=2, do_sample=False)
        alone = trim.report.images
    assert [image.query for image in together] == [None, "How many dogs are there?", "How many dogs are there?"]
    assert [image.note for image in together] == [NOTHING, None, EARLIER]
    assert together[0].relevance is None
    assert together[1].relevance is not None
    assert together[0].indices.tolist() == alone[0].indices.tolist()
    if "budget" in options:
        assert together[0].tokens_after == 40


PICTURE_ALONE: list[Any] = [PICTURE]


def test_an_empty_question_of_the_caller_stays_an_error(demo: Any) -> None:
    model, processor = demo
    with trimkit.reduce(model, processor), pytest.raises(trimkit.InputError, match="question is empty"):
        model.generate(**_inputs(processor, PICTURE_ALONE), max_new_tokens=1, query=" ")
    with pytest.raises(trimkit.ConfigError, match="needs a question"):
        trimkit.choose(torch.randn(9, 4), None, "trim", tiny.ToyScorer())
