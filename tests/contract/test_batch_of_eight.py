"""A ragged, left-padded batch of eight (one row with two pictures, one with none) gives what eight single runs give."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from PIL import Image

import trimkit
from tests import tiny
from trimkit.demo import load_demo
from trimkit.demo.items import sample_item

BEAMS = [1, 3]


@pytest.fixture(scope="module")
def demo() -> Any:
    return load_demo()


def _prompt(processor: Any, question: str, pictures: int) -> str:
    content = [{"type": "image"}] * pictures + [{"type": "text", "text": question}]
    return str(processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True))


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("method", ["none", "trim", "random"])
def test_demo_model(demo: Any, method: str, beams: int) -> None:
    model, processor = demo
    items = [sample_item(20_000, index) for index in range(9)]
    pictures: list[list[Image.Image]] = [[picture] for picture, _ in items[:8]]
    pictures[2] = [items[2][0], items[8][0]]
    pictures[5] = []
    prompts = [
        _prompt(processor, question.text, len(images))
        for (_, question), images in zip(items[:8], pictures, strict=True)
    ]
    flat = [image for images in pictures for image in images]
    arguments: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams}
    batch = processor(images=flat, text=prompts, padding=True, return_tensors="pt")
    width = batch["input_ids"].shape[1]
    with trimkit.reduce(model, processor, method=method) as trim:
        together = model.generate(**batch, **arguments)[:, width:]
        counts = [image.tokens_after for image in trim.report.images]
        assert len(counts) == 8
        if method != "none":
            assert len(set(counts)) > 1
        for row, (prompt, images) in enumerate(zip(prompts, pictures, strict=True)):
            one = processor(images=images or None, text=[prompt], return_tensors="pt")
            alone = model.generate(**one, **arguments)[0, one["input_ids"].shape[1] :]
            assert together[row][: len(alone)].tolist() == alone.tolist(), f"row {row}"


@pytest.mark.parametrize("beams", BEAMS)
@pytest.mark.parametrize("method", ["none", "trim", "random"])
def test_random_llava(method: str, beams: int) -> None:
    model, per_row = tiny.llava(), [1, 1, 2, 1, 1, 0, 1, 1]
    batch = tiny.llava_batch(per_row, seed=11)
    width = batch["input_ids"].shape[1]
    queries = [f"question number {row}" for row in range(8)]
    arguments: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False, "num_beams": beams}
    with trimkit.reduce(model, method=method, scorer=tiny.ToyScorer()):
        together = model.generate(**batch, **arguments, query=queries)[:, width:]
        assert len({tuple(row.tolist()) for row in together}) > 4, "the rows are too much alike to prove anything"
        for row in range(8):
            one = tiny.single(batch, row, per_row)
            alone = model.generate(**one, **arguments, query=queries[row])[0, one["input_ids"].shape[1] :]
            assert together[row][: len(alone)].tolist() == alone.tolist(), f"row {row}"


def test_demo_keep_all_logits_are_stock(demo: Any) -> None:
    model, processor = demo
    items = [sample_item(20_001, index) for index in range(3)]
    prompts = [_prompt(processor, question.text, 1) for _, question in items]
    batch = processor(images=[picture for picture, _ in items], text=prompts, padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = model(**batch).logits
        with trimkit.reduce(model, processor, method="none"):
            assert torch.equal(model(**batch).logits, expected)
        with trimkit.reduce(model, processor, method="trim", budget=1.0):
            assert torch.equal(model(**batch).logits, expected)


def test_pipeline(demo: Any) -> None:
    from transformers import pipeline

    model, processor = demo
    picture, question = sample_item(20_002, 0)
    content = [{"type": "image", "image": picture}, {"type": "text", "text": question.text}]
    pipe = pipeline("image-text-to-text", model=model, processor=processor)
    with trimkit.reduce(model, processor, method="trim") as trim:
        out = pipe(
            text=[{"role": "user", "content": content}], max_new_tokens=5, do_sample=False, return_full_text=False
        )
        assert trim.report.images[0].query == question.text
        assert trim.report.tokens_after < 0.3 * trim.report.tokens_before
        batch = processor(images=[picture], text=[_prompt(processor, question.text, 1)], return_tensors="pt")
        tokens = model.generate(**batch, max_new_tokens=5, do_sample=False)[0, batch["input_ids"].shape[1] :]
    assert out[0]["generated_text"].strip() == processor.decode(tokens, skip_special_tokens=True).strip()
