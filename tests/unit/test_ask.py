"""Asking: the prompt, what is refused, and that a comparison favours neither side."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

from trimkit import InputError, UnknownNameError
from trimkit import ask as asking
from trimkit.demo import load_demo, sample_images
from trimkit.images import load_image

SAMPLE = next(iter(sample_images().values()))


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


@pytest.fixture
def picture() -> Image.Image:
    return load_image(SAMPLE.path)


def test_prompt_and_inputs(demo: tuple[Any, Any], picture: Image.Image) -> None:
    model, processor = demo
    inputs = asking.build_inputs(model, processor, [picture, picture], ["Is there a dog?", "How many red cats?"])
    texts = processor.batch_decode(inputs["input_ids"], skip_special_tokens=True)
    assert [text.strip().split("\n")[-1] for text in texts] == [
        "Is there a dog? ASSISTANT:",
        "How many red cats? ASSISTANT:",
    ]
    assert (inputs["input_ids"] == model.config.image_token_id).sum(dim=1).tolist() == [576, 576]
    assert inputs["attention_mask"][:, -1].tolist() == [1, 1], "padding is on the left"


def test_without_a_chat_template(demo: tuple[Any, Any], picture: Image.Image, monkeypatch: pytest.MonkeyPatch) -> None:
    model, processor = demo
    with_template = asking.build_inputs(model, processor, [picture], ["Is there a dog?"])["input_ids"]
    monkeypatch.setattr(processor, "chat_template", None)
    assert torch.equal(
        asking.build_inputs(model, processor, [picture], ["Is there a dog?"])["input_ids"], with_template
    )


@pytest.mark.parametrize(
    ("question", "cause"), [(" ", "empty"), ("word " * 10_000, "words"), ("<image> what?", "placeholder")]
)
def test_refused_questions(question: str, cause: str, demo: tuple[Any, Any], picture: Image.Image) -> None:
    with pytest.raises(InputError, match=cause):
        asking.ask(*demo, picture, question)


def test_unknown_method(demo: tuple[Any, Any], picture: Image.Image) -> None:
    with pytest.raises(UnknownNameError):
        asking.ask(*demo, picture, "Is there a dog?", method="trimm")


def test_a_question_beyond_clips_length_is_answered(demo: tuple[Any, Any], picture: Image.Image) -> None:
    question = "Is there a dog in the picture or in the image? " * 20
    answer = asking.ask(*demo, picture, question, max_new_tokens=1)
    assert answer.image_tokens_kept < answer.image_tokens_full == 576


@pytest.mark.parametrize("odd", ["one pixel", "CMYK", "16-bit", "palette", "tall"])
def test_odd_pictures_are_answered(odd: str, demo: tuple[Any, Any]) -> None:
    source = {
        "one pixel": Image.new("RGB", (1, 1), "red"),
        "CMYK": Image.new("CMYK", (50, 40), (0, 255, 255, 0)),
        "16-bit": Image.new("I;16", (40, 50), 30_000),
        "palette": Image.linear_gradient("L").convert("P"),
        "tall": Image.new("RGB", (20, 900), "blue"),
    }[odd]
    answer = asking.ask(*demo, load_image(source), "Is there a dog?", budget=100, max_new_tokens=1)
    assert answer.image_tokens_kept == 100


def test_full_is_the_stock_model(demo: tuple[Any, Any], picture: Image.Image) -> None:
    model, processor = demo
    _, full = asking.compare(model, processor, picture, SAMPLE.question, max_new_tokens=3)
    inputs = asking.build_inputs(model, processor, [picture], [SAMPLE.question])
    stock = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert full.answer == asking.decode(processor, inputs, stock)[0]
    assert full.report is None
    assert not hasattr(model.generate, "__trimkit__")


def test_keeping_all_gives_the_full_answer(demo: tuple[Any, Any], picture: Image.Image) -> None:
    reduced, full = asking.compare(*demo, picture, SAMPLE.question, budget=1.0, max_new_tokens=3)
    assert reduced.answer == full.answer
    assert reduced.image_tokens_kept == full.image_tokens_kept == 576


@pytest.mark.parametrize(("cost", "pairs"), [(0.1, 1 + 5), (2.0, 1 + 2), (30.0, 1 + 1)])
def test_runs_are_interleaved_and_medians_taken(
    cost: float, pairs: int, demo: tuple[Any, Any], picture: Image.Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def fake(name: str, share: float) -> Any:
        def run(*_: object) -> asking.Answer:
            order.append(name)
            warming = 0.05 * cost if len(order) <= 2 else 0.0
            return asking.Answer(name, 576, 576, share * cost + warming)

        return run

    monkeypatch.setattr(asking, "_reduced", fake("reduced", 1.0))
    monkeypatch.setattr(asking, "_full", fake("full", 1.2))
    reduced, full = asking.compare(*demo, picture, SAMPLE.question)
    assert order == ["reduced", "full"] * pairs
    assert (reduced.answer, full.answer) == ("reduced", "full")
    assert reduced.seconds == pytest.approx(cost), "the warm-up does not count"
    assert full.seconds == pytest.approx(1.2 * cost)


def test_no_feature_is_carried_from_run_to_run(demo: tuple[Any, Any], picture: Image.Image) -> None:
    reduced, _ = asking.compare(*demo, picture, SAMPLE.question, budget=50, max_new_tokens=1)
    assert reduced.report is not None
    assert not reduced.report.images[0].cached
    assert reduced.report.seconds.vision > 0
