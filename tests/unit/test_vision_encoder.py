"""``VisionEncoder``: pictures and questions to embeddings, checkpoints of either layout, memory, and one-line refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import trimkit
from tests import tiny
from tests.contract.tiny_families import internvl
from tests.tiny import ToyScorer
from trimkit import ConfigError, InputError, TrimkitError, UnsupportedError, VisionEncoder
from trimkit.ask import build_inputs
from trimkit.demo import demo_model_path, load_demo, sample_images
from trimkit.methods import get_method, method_classes

SAMPLES = list(sample_images().values())[:3]
QUESTIONS = [sample.question for sample in SAMPLES]
STEPS: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


@pytest.fixture(scope="module")
def demo() -> tuple[Any, Any]:
    return load_demo()


@pytest.fixture(scope="module")
def encoder() -> VisionEncoder:
    return VisionEncoder.from_pretrained("demo")


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    return [Image.open(sample.path).convert("RGB") for sample in SAMPLES]


def saved(model: Any, folder: Path, **options: Any) -> str:
    """A model with some image processor beside it."""
    model.save_pretrained(folder, **options)
    load_demo()[1].save_pretrained(folder)
    return str(folder)


# What it gives


@pytest.mark.parametrize("method", ["trim", "focus", "visionzip", "none"])
def test_the_demo_model_fed_with_embeddings_answers_as_an_attached_one(
    method: str, demo: tuple[Any, Any], pictures: list[Image.Image]
) -> None:
    model, processor = demo
    records = VisionEncoder.from_pretrained(str(demo_model_path()), method=method)(pictures, QUESTIONS)
    inputs = build_inputs(model, processor, pictures, QUESTIONS)
    with trimkit.reduce(model, processor, method=method) as attached:
        expected = model.generate(**inputs, **STEPS)[:, inputs["input_ids"].shape[1] :]
        images = attached.report.images
    assert [record.indices.tolist() for record in records] == [image.indices.tolist() for image in images]
    placeholder = model.config.image_token_id
    for row, record in enumerate(records):
        ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
        first = int((ids == placeholder).nonzero()[0])
        embed = model.get_input_embeddings()
        with torch.no_grad():
            parts = [embed(ids[:first]), record.embeddings, embed(ids[first + record.selection.total :])]
            answer = model.generate(inputs_embeds=torch.cat(parts)[None], **STEPS)[0].tolist()
        assert expected[row].tolist()[: len(answer)] == answer


def test_a_record_says_what_was_kept(encoder: VisionEncoder, pictures: list[Image.Image]) -> None:
    for row, record in enumerate(encoder.encode(pictures, QUESTIONS)):
        assert (record.row, record.medium, record.query, record.grid) == (row, "image", QUESTIONS[row], (24, 24))
        assert record.embeddings.shape == (len(record.selection), encoder.model.config.text_config.hidden_size)
        assert len(record) == len(record.indices) + 1  # the aggregated token
        assert record.relevance is not None
        assert record.relevance.shape == (576,)
        assert not record.embeddings.requires_grad


def test_one_picture_needs_no_list_and_one_question_serves_all(
    encoder: VisionEncoder, pictures: list[Image.Image]
) -> None:
    (one,) = encoder(pictures[0], QUESTIONS[0])
    both = encoder(pictures[:2], QUESTIONS[0])
    assert torch.equal(one.indices, both[0].indices)
    assert [record.query for record in both] == [QUESTIONS[0]] * 2


def test_a_picture_is_encoded_once_and_forgotten_on_demand(pictures: list[Image.Image]) -> None:
    encoder = VisionEncoder.from_pretrained("demo", cache_images=2)
    assert [record.cached for record in encoder(pictures[:2], "where?")] == [False, False]
    assert [record.cached for record in encoder(pictures[:2], "what?")] == [True, True]
    encoder.clear_cache()
    assert [record.cached for record in encoder(pictures[:2], "what?")] == [False, False]


def test_processed_arguments_are_what_pictures_are(
    encoder: VisionEncoder, demo: tuple[Any, Any], pictures: list[Image.Image]
) -> None:
    inputs = build_inputs(*demo, pictures, QUESTIONS)  # with input_ids, which are left aside
    for one, other in zip(encoder(inputs, QUESTIONS), encoder(pictures, QUESTIONS), strict=True):
        assert torch.equal(one.embeddings, other.embeddings)


def test_no_picture_gives_no_record(encoder: VisionEncoder) -> None:
    assert encoder([], "where?") == []


def test_the_count_is_known_before_the_picture_is_seen(pictures: list[Image.Image]) -> None:
    encoder = VisionEncoder.from_pretrained("demo", method="random", budget=0.1)
    assert encoder.scorer is None
    assert [len(record) for record in encoder(pictures)] == [encoder.method.tokens(576)] * 3
    assert VisionEncoder.from_pretrained("demo").method.tokens(576) is None


def test_patches_dropped_in_the_tower_are_dropped_here_too(demo: tuple[Any, Any], pictures: list[Image.Image]) -> None:
    options: dict[str, Any] = {"budget": 40, "tower_keep": 0.5}
    records = VisionEncoder.from_pretrained("demo", **options)(pictures, QUESTIONS)
    with torch.no_grad():
        images = trimkit.prepare(*demo, build_inputs(*demo, pictures, QUESTIONS), **options).images
    assert all(torch.equal(one.embeddings, other.embeddings) for one, other in zip(records, images, strict=True))


def test_a_whole_model_serves_with_its_own_modules(
    demo: tuple[Any, Any], encoder: VisionEncoder, pictures: Any
) -> None:
    whole = VisionEncoder(*demo)
    assert whole.model is demo[0]
    assert torch.equal(whole(pictures[0], "where?")[0].embeddings, encoder(pictures[0], "where?")[0].embeddings)


def test_tiles_ranked_one_by_one_have_their_picture_s_number() -> None:
    class Tiler:
        image_token = "<image>"

        def __call__(self, images: Any, **_: Any) -> Any:
            from transformers import BatchFeature

            tiles = tiny.pixels(images[0].width, seed=images[0].width)
            return BatchFeature({"pixel_values": tiles, "input_ids": torch.zeros(1, 1)})

    encoder = VisionEncoder(internvl(), Tiler(), method="trim", scorer=ToyScorer(), budget=3)
    records = encoder([Image.new("RGB", (2, 2)), Image.new("RGB", (1, 1))], ["first", "second"])
    assert [(record.row, record.query) for record in records] == [(0, "first"), (0, "first"), (1, "second")]


def next_processor() -> Any:
    from transformers import LlavaNextImageProcessorPil, LlavaNextProcessor

    size = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}}
    tiles = LlavaNextImageProcessorPil(**size, image_grid_pinpoints=[[24, 48], [48, 24], [48, 48]])
    strategy = {"patch_size": 4, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    return LlavaNextProcessor(tiles, load_demo()[1].tokenizer, **strategy)


class QwenPictures:
    """The picture half of Qwen's processor; the whole one needs torchvision for its videos."""

    image_token = "<image>"

    def __call__(self, images: Any, **_: Any) -> Any:
        from transformers import Qwen2VLImageProcessorPil

        sizes = {"patch_size": 4, "merge_size": 2, "temporal_patch_size": 2, "min_pixels": 64, "max_pixels": 4096}
        return Qwen2VLImageProcessorPil(**sizes)(images=images, return_tensors="pt")


@pytest.mark.parametrize(("family", "processor"), [("llava_next", next_processor), ("qwen2_5_vl", QwenPictures)])
def test_pictures_of_any_size_are_what_one_batch_of_them_is(family: str, processor: Any) -> None:
    prepare_pictures, model = processor(), getattr(tiny, family)()
    noise = torch.Generator().manual_seed(0)
    pictures = [
        Image.fromarray(torch.randint(0, 255, (*size, 3), generator=noise, dtype=torch.uint8).numpy())
        for size in ((50, 30), (24, 70), (40, 40))
    ]
    encoder = VisionEncoder(model, prepare_pictures, method="trim", scorer=ToyScorer(), budget=5)
    together = prepare_pictures(images=pictures, text=["<image>"] * 3, padding=True, return_tensors="pt")
    records = encoder(pictures, ["one", "two", "three"])
    assert [(len(record), record.row) for record in records] == [(5, 0), (5, 1), (5, 2)]
    assert len({record.selection.total for record in records}) > 1
    for one, other in zip(records, encoder(together, ["one", "two", "three"]), strict=True):
        assert torch.equal(one.indices, other.indices)
        assert torch.equal(one.embeddings, other.embeddings)


def test_dtype_is_taken_when_given(pictures: list[Image.Image]) -> None:
    encoder = VisionEncoder.from_pretrained("demo", dtype="bfloat16")
    assert encoder(pictures[0], "where?")[0].embeddings.dtype == torch.bfloat16


# Refusals


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"method": "fastv"}, ConfigError),
        ({"method": "random", "share": "prompt"}, ConfigError),
        ({"positions": "original"}, ConfigError),
        ({"cache_images": -1}, ConfigError),
        ({"device": "toaster"}, ConfigError),
        ({"dtype": "float13"}, ConfigError),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], error: type[TrimkitError]) -> None:
    with pytest.raises(error) as caught:
        VisionEncoder.from_pretrained("demo", **options)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)


def test_a_method_that_reads_the_text_needs_a_scorer_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="scorer"):
        VisionEncoder.from_pretrained(saved(tiny.llava(), tmp_path))


@pytest.mark.parametrize(
    ("images", "query", "error"),
    [
        ("cat.png", "where?", InputError),
        ([torch.zeros(3, 4, 4)], "where?", InputError),
        ("picture", None, ConfigError),
        ("picture", ["one", "two"], InputError),
        ("picture", "  ", InputError),
        ({"input_ids": torch.zeros(1, 1)}, "where?", InputError),
        ({"pixel_values_videos": torch.zeros(1, 1, 3, 4, 4)}, "where?", UnsupportedError),
    ],
)
def test_inputs_that_cannot_be(
    images: Any, query: Any, error: type[TrimkitError], encoder: VisionEncoder, pictures: list[Image.Image]
) -> None:
    with pytest.raises(error) as caught:
        encoder(pictures[0] if images == "picture" else images, query)
    assert "\n" not in str(caught.value)
    assert ": " in str(caught.value)


# The pipeline in parts


@pytest.mark.parametrize("name", [name for name, cls in method_classes() if cls.stage == "tower"])
def test_choose_chooses_what_the_attached_model_chose(
    name: str, encoder: VisionEncoder, demo: tuple[Any, Any], pictures: list[Image.Image]
) -> None:
    """Features from the stock tower (but where the method changes it), with the signals in ``ImageTokens``."""
    model, processor = demo
    method = get_method(name)
    for picture, question in zip(pictures, QUESTIONS, strict=True):
        inputs = build_inputs(model, processor, [picture], [question])
        with torch.no_grad():
            tokens = trimkit.prepare(model, processor, inputs, method=name).items[0].image
            states = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states
            with trimkit.reduce(model, processor, method=name) as attached:
                model(**inputs)
            if "words" in method.asked_signals:
                ids = processor.tokenizer(method.words(question), add_special_tokens=False)["input_ids"]
                words = model.get_input_embeddings()(torch.tensor(ids))
                tokens = replace(tokens, signals={**tokens.signals, "words": words})
        assert torch.equal(tokens.features, states[-2][0, 1:]) or method.tower_plan is not None
        chosen, image = trimkit.choose(tokens, question, name, encoder.scorer), attached.report.images[0]
        assert chosen.indices.tolist() == image.indices.tolist()
        assert (chosen.aggregated, len(chosen)) == (image.aggregated, image.tokens_after)
