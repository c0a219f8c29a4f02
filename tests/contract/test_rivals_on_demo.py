"""The rivals on the demo model, end to end: what is chosen and handed on is what plain code makes of the model's tensors."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

import trimkit
from tests.rivals import by_hand
from tests.rivals.by_hand import Tower
from trimkit.demo import load_demo, sample_images

Inputs = dict[str, Any]


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any, list[Inputs]]:
    model, processor = load_demo()
    prompts = []
    for sample in list(sample_images().values())[:2]:
        picture, prompt = Image.open(sample.path).convert("RGB"), f"USER: <image>\n{sample.question} ASSISTANT:"
        prompts.append(dict(processor(images=picture, text=prompt, return_tensors="pt")))
    return model, processor, prompts


@pytest.fixture(scope="module")
def tower(demo: tuple[Any, Any, list[Inputs]]) -> Tower:
    return by_hand.run_tower(demo[0], demo[2][0]["pixel_values"])


def expected(name: str, tower: Tower, signed: Tensor) -> tuple[dict[str, Any], list[int], Tensor]:
    """Options, indices in the order of the language model, and the tokens before the projector."""
    match name:
        case "divprune":
            return {"budget": 0.098}, *by_hand.divprune(tower, 0.098)
        case "cdpruner":
            return {"budget": 48}, *by_hand.cdpruner(tower, signed, 48)
        case "visionzip":
            return {"budget": 64}, *by_hand.visionzip(tower, 54, 10)
        case _:
            return {"budget": "iqr"}, *by_hand.prumerge(tower, plus=name == "prumerge-plus")


@pytest.mark.parametrize("name", ["divprune", "cdpruner", "visionzip", "prumerge", "prumerge-plus"])
def test_the_pipeline_hands_on_what_plain_code_makes(
    name: str, demo: tuple[Any, Any, list[Inputs]], tower: Tower
) -> None:
    model, processor, (inputs, _) = demo
    options, indices, tokens = expected(name, tower, _cosines(model, processor, inputs))
    with torch.no_grad():
        prepared = trimkit.prepare(model, processor, dict(inputs), method=name, generating=False, **options)
        image = prepared.images[0]
        assert image.selection.ordered.tolist() == indices
        assert len(image) == len(tokens) == len(image.columns)
        torch.testing.assert_close(image.tokens.features, tokens, rtol=1e-4, atol=1e-4)
        logits = model(**prepared.inputs).logits
        torch.testing.assert_close(logits, _fed(model, inputs, tokens), rtol=1e-3, atol=1e-3)


def _cosines(model: Any, processor: Any, inputs: Inputs) -> Tensor:
    """The patches' cosine to the question, higher = more relevant, as the scorer gives it to TRIM."""
    with torch.no_grad():
        prepared = trimkit.prepare(model, processor, dict(inputs), method="trim-paper", budget=9, generating=False)
    relevance = prepared.images[0].relevance
    assert relevance is not None
    return relevance


def _fed(model: Any, inputs: Inputs, tokens: Tensor) -> Tensor:
    """Logits with the tokens in the place of the picture's, by hand."""
    ids = inputs["input_ids"][0]
    places = (ids == model.config.image_token_id).nonzero().squeeze(1)
    words = model.get_input_embeddings()(ids)
    image = model.model.multi_modal_projector(tokens)
    embeds = torch.cat([words[: places[0]], image, words[places[-1] + 1 :]])[None]
    logits: Tensor = model(inputs_embeds=embeds).logits
    return logits


def test_dart_keeps_inside_the_language_model_what_plain_code_keeps(demo: tuple[Any, Any, list[Inputs]]) -> None:
    model, processor, prompts = demo
    inputs = prompts[0]
    kept = by_hand.dart(model, inputs, model.config.image_token_id, 64)
    with trimkit.reduce(model, processor, method="dart") as trim, torch.no_grad():
        model(**inputs)
        assert trim.report.images[0].indices.tolist() == kept
        assert trim.report.images[0].tokens_after == 68


def test_dart_of_a_padded_batch_is_that_of_its_rows(demo: tuple[Any, Any, list[Inputs]]) -> None:
    model, processor, prompts = demo
    processor.tokenizer.padding_side = "left"
    ids = [{"input_ids": each["input_ids"][0]} for each in prompts]
    padded = processor.tokenizer.pad(ids, return_tensors="pt")
    assert len({len(each["input_ids"]) for each in ids}) == 2
    pixels = torch.cat([each["pixel_values"] for each in prompts])
    with trimkit.reduce(model, processor, method="dart") as trim:
        model.generate(**padded, pixel_values=pixels, max_new_tokens=1)
        together = [image.indices.tolist() for image in trim.report.images]
        for row, inputs in enumerate(prompts):
            model.generate(**inputs, max_new_tokens=1)
            assert trim.report.images[0].indices.tolist() == together[row]
