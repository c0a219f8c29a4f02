"""What every family with videos must hold: all kept = stock, reduced = built by hand, a batch = its rows, real shrinking."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
import transformers
from transformers import DynamicCache

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.contract.test_conversations import later
from tests.contract.videos import (
    CASES,
    MIXED,
    VIDEO_TOKEN,
    VIDEOS,
    VideoCase,
    hand_built,
    logits_of,
    other,
    pixels_name,
    row_of,
)
from trimkit.models import families

GENERATE: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
QUERIES = [f"question {i}" for i in range(len(MIXED))]
TRIM: dict[str, Any] = {"method": "trim", "scorer": tiny.ToyScorer(), "query": QUERIES}
REDUCTIONS: dict[str, dict[str, Any]] = {
    "trim": TRIM,
    "random": {"method": "random", "budget": 0.3},
    "no-aggregate": {"method": "random", "budget": 5, "aggregate": "none"},
    "frame": {"method": "random", "budget": 0.4, "share": "frame"},
    "prompt": {**TRIM, "budget": 0.4, "share": "prompt"},
}


@pytest.fixture(params=sorted(CASES))
def case(request: pytest.FixtureRequest) -> VideoCase:
    return CASES[request.param]


@pytest.fixture
def model(case: VideoCase) -> Any:
    return case.build()


def _stock_media(case: VideoCase) -> list[tuple[str, ...]]:
    return [VIDEOS, MIXED] if case.together else [VIDEOS]


def test_keep_all_logits_are_stock(case: VideoCase, model: Any) -> None:
    for media, side in itertools.product(_stock_media(case), ("left", "right")):
        batch = case.batch(media, side)
        with torch.no_grad():
            expected = model(**batch).logits
            for reduction in ({"method": "none"}, {"method": "random", "budget": 9999}):
                with trimkit.reduce(model, **reduction):
                    assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_keep_all_tokens_are_stock(case: VideoCase, model: Any, beams: int) -> None:
    if beams > 1 and not case.together:
        pytest.skip("stock generate cannot repeat this family's videos for beams")
    for media in _stock_media(case):
        batch = case.batch(media)
        try:
            expected = model.generate(**batch, **GENERATE, num_beams=beams)
        except ValueError:
            if beams == 1:
                raise
            pytest.skip(
                f"stock generate of transformers {transformers.__version__} cannot repeat these videos for beams"
            )
        with trimkit.reduce(model, method="none"):
            assert torch.equal(model.generate(**batch, **GENERATE, num_beams=beams), expected)


@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_reduced_is_hand_built(case: VideoCase, model: Any, reduction: str) -> None:
    for media in (VIDEOS, MIXED):
        batch = case.batch(media)
        with torch.no_grad(), trimkit.reduce(model, **REDUCTIONS[reduction]) as trim:
            logits = model(**batch).logits
            report = trim.report
        assert report.tokens_after < report.tokens_before
        with torch.no_grad():
            built = hand_built(case, model, batch, report.images)
            expected = logits_of(case, model, built)
        real = built["attention_mask"].bool()
        assert logits.shape == expected.shape
        torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("reduction", ["trim", "frame", "prompt"])
def test_a_ragged_batch_is_its_rows(case: VideoCase, model: Any, reduction: str, beams: int) -> None:
    batch = case.batch()
    width = batch["input_ids"].shape[1]
    with trimkit.reduce(model, **REDUCTIONS[reduction]):
        together = model.generate(**batch, **GENERATE, num_beams=beams)
        assert torch.equal(together[:, :width], batch["input_ids"])
        for row in range(len(MIXED)):
            one = row_of(batch, MIXED, row)
            query = None if reduction == "frame" else [QUERIES[row]]
            alone = model.generate(**one, **GENERATE, num_beams=beams, query=query)[0, one["input_ids"].shape[1] :]
            assert together[row, width:][: len(alone)].tolist() == alone.tolist()


def test_sequence_and_cache_shrink(case: VideoCase, model: Any) -> None:
    batch = case.batch(VIDEOS)
    arguments = {**GENERATE, "return_dict_in_generate": True}
    full = model.generate(**batch, **arguments).past_key_values.get_seq_length()
    with trimkit.reduce(model, method="random", budget=0.25) as trim:
        out = model.generate(**batch, **arguments)
        with torch.no_grad():
            logits = model(**batch).logits
        assert trim.report.tokens_after < 0.35 * trim.report.tokens_before
    assert logits.shape[1] < 0.75 * batch["input_ids"].shape[1]
    assert out.past_key_values.get_seq_length() - full == logits.shape[1] - batch["input_ids"].shape[1]


def test_another_video_or_picture_changes_the_logits(case: VideoCase, model: Any) -> None:
    batch = case.batch()
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=6):
        first = model(**batch).logits
        for name in (pixels_name(model), "pixel_values_videos"):
            assert not torch.allclose(first, model(**other(batch, name)).logits, atol=1e-3), name


def test_labels_shrink_with_the_tokens(case: VideoCase, model: Any) -> None:
    batch = case.batch(side="right")
    labels = batch["input_ids"].masked_fill((batch["input_ids"] >= 90) | (batch["attention_mask"] == 0), -100)
    labels[:, 0] = -100
    with trimkit.reduce(model, method="random", budget=0.3):
        out = model(**batch, labels=labels)
        out.loss.backward()
    assert torch.isfinite(out.loss)
    tower = [p.grad for name, p in model.named_parameters() if "vision" in name or "visual" in name or "tower" in name]
    assert any(gradient is not None and bool((gradient != 0).any()) for gradient in tower)


def test_the_report_says_what_is_what(case: VideoCase, model: Any) -> None:
    batch = case.batch()
    frames = case.pictures(model)[2]
    kinds = [(row, "image" if kind == "i" else "video") for row, kinds in enumerate(MIXED) for kind in kinds]
    with trimkit.reduce(model, method="random", budget=0.3) as trim:
        model.generate(**batch, **GENERATE)
        images = trim.report.images
        assert [(image.row, image.medium) for image in images] == kinds
        assert [list(image.frames) for image in images if image.medium == "video"] == frames
        assert not any(image.cached for image in images)
        model.generate(**batch, **GENERATE)
        assert all(image.cached for image in trim.report.images)
        model.generate(**other(batch, "pixel_values_videos"), **GENERATE)
        assert {image.medium for image in trim.report.images if image.cached} == {"image"}


def test_no_frame_disappears(case: VideoCase, model: Any) -> None:
    batch = case.batch(VIDEOS)
    count = sum(map(len, case.pictures(model)[2]))
    with trimkit.reduce(model, method="random", budget=2, aggregate="none", share="frame") as trim:
        model.generate(**batch, **GENERATE)
        assert [image.tokens_after for image in trim.report.images] == [2] * count
    with trimkit.reduce(model, method="random", budget=2, aggregate="none") as trim:
        model.generate(**batch, **GENERATE)
        assert [image.tokens_after for image in trim.report.images] == [2, 2, 2, 2]
    with trimkit.reduce(model, method="random", budget=3, aggregate="none", share="prompt") as trim:
        model.generate(**batch, **GENERATE)
        assert [image.tokens_after for image in trim.report.images if image.row == 1] == [3]
        assert sum(image.tokens_after for image in trim.report.images if image.row == 0) == 3


@pytest.mark.parametrize("call", ["generate", "forward"])
@pytest.mark.parametrize("name", ["llava", "llava_next", "paligemma", "idefics3", "internvl"])
def test_a_video_that_is_not_covered_is_refused(name: str, call: str) -> None:
    model = FAMILIES[name].build()
    batch = {**FAMILIES[name].batch("left"), "pixel_values_videos": torch.zeros(1, 2, 3, 24, 24)}
    with (
        trimkit.reduce(model, method="random", budget=3),
        pytest.raises(trimkit.UnsupportedError, match="videos of") as e,
    ):
        getattr(model, call)(**batch)
    assert "\n" not in str(e.value)


def test_too_few_placeholders_are_named() -> None:
    case = CASES["qwen2_vl"]
    batch = case.batch(VIDEOS)
    batch["input_ids"][batch["input_ids"] == VIDEO_TOKEN] = 5
    with (
        trimkit.reduce(case.build(), method="random", budget=3) as trim,
        pytest.raises(trimkit.InputError, match="0 video placeholders"),
    ):
        trim.model.generate(**batch)


def test_a_picture_among_frames_is_refused() -> None:
    case = CASES["video_llava"]
    model = case.build()
    batch = row_of(case.batch(model=model), MIXED, 1)
    ids = batch["input_ids"][0]
    swap = torch.cat([(ids == tiny.IMAGE_TOKEN).nonzero()[-1], (ids == VIDEO_TOKEN).nonzero()[0]])
    ids[swap] = ids[swap.flip(0)]
    with trimkit.reduce(model, method="random", budget=3), pytest.raises(trimkit.InputError, match="among the frames"):
        model.generate(**batch)


def test_a_filled_cache_with_a_video_is_refused() -> None:
    case = CASES["qwen2_vl"]
    model, batch = case.build(), case.batch(VIDEOS)
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=3):
        cache = model(**batch, use_cache=True).past_key_values
        with pytest.raises(trimkit.InputError, match="past_key_values"):
            model(input_ids=batch["input_ids"], past_key_values=cache)


@pytest.mark.parametrize("again", [True, False])
def test_a_conversation_about_a_video_goes_on(case: VideoCase, model: Any, again: bool) -> None:
    if case.positions and not again:
        pytest.skip("positions of M-RoPE need every video of the conversation")
    inputs = row_of(case.batch(), MIXED, 1)
    settings = {**GENERATE, "suppress_tokens": [tiny.IMAGE_TOKEN, VIDEO_TOKEN]}
    with trimkit.reduce(model, **REDUCTIONS["trim"] | {"query": None}):
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.generate(**inputs, **settings, query="one", past_key_values=cache)
        whole = later(inputs, out)
        pixels = (pixels_name(model), "pixel_values_videos", "image_sizes")
        given = whole if again else {name: value for name, value in whole.items() if name not in pixels}
        second = model.generate(**given, **settings, query="two", past_key_values=cache)
        expected = model.generate(**whole, **settings, query="two")
    assert second.tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["internvl", "smolvlm"])
def test_frames_as_images_keep_their_order(name: str) -> None:
    """These processors give a video's frames as images or tiles, between words that name their time."""
    if name not in FAMILIES:
        pytest.skip("refused by this version of transformers")
    model = FAMILIES[name].build()
    frames = tiny.pixels(4, seed=3)
    pixels = frames if name == "internvl" else frames[None]
    ids = torch.tensor([[1, *[i for _ in range(4) for i in (8, *[tiny.IMAGE_TOKEN] * 9)], 7, 7]])
    with torch.no_grad():
        features = torch.cat(list(model.model.get_image_features(pixels, return_dict=True).pooler_output)).view(36, -1)
        with trimkit.reduce(model, method="random", budget=0.5, aggregate="none") as trim:
            logits = model(input_ids=ids, pixel_values=pixels).logits
        starts = [sum(image.tokens_before for image in trim.report.images[:i]) for i in range(len(trim.report.images))]
        kept = [
            start + i for start, image in zip(starts, trim.report.images, strict=True) for i in image.indices.tolist()
        ]
        at = (ids[0] == tiny.IMAGE_TOKEN).nonzero().squeeze(1)
        embeds = model.get_input_embeddings()(ids)
        embeds[0, at] = features
        columns = sorted({*range(ids.shape[1])} - {*at.tolist()} | {int(at[i]) for i in kept})
        expected = model(inputs_embeds=embeds[:, columns]).logits
    assert len(trim.report.images) == (4 if name == "internvl" else 1)
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_the_catalogue_says_what_is_tested() -> None:
    assert {name for name, family in families() if family.video} == {*CASES, "internvl", "smolvlm"}
    assert {name for name, family in families() if family.videos is not None} == set(CASES)
