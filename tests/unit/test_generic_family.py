"""Models that no file names: which rows are one image, what is cached of them, and what their features answer to."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from transformers import CONFIG_MAPPING

import trimkit
from tests.architectures.build import tiny_model
from tests.architectures.sweep import inputs_of
from trimkit.models import family_of
from trimkit.models._output import FeatureList
from trimkit.models.generic import Generic

pytestmark = pytest.mark.filterwarnings("ignore")  # what stock models say while they are built


def _logits_and_cached(
    model: Any, inputs: dict[str, Any], **options: Any
) -> tuple[list[torch.Tensor], list[list[bool]]]:
    logits, cached = [], []
    with torch.no_grad(), trimkit.reduce(model, method="uniform", budget=0.25, **options) as trim:
        for _ in range(2):
            logits.append(model(**inputs).logits)
            cached.append([image.cached for image in trim.report.images])
    return logits, cached


@pytest.mark.parametrize(
    ("kind", "caches"),
    [
        ("kimi_k25", True),  # patches of all images in one list, with a grid for each
        ("video_llama_3", True),  # and one more number for each
        ("molmo2", False),  # rows of pooling windows: not known whose
        ("lighton_ocr", True),
    ],
)
def test_features_are_cached_where_rows_are_images(kind: str, caches: bool) -> None:
    if kind not in CONFIG_MAPPING:
        pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    model = tiny_model(kind)
    inputs = inputs_of(kind, model)
    logits, cached = _logits_and_cached(model, inputs)
    assert cached == [[False, False], [caches, caches]]
    for got in (logits[1], *_logits_and_cached(model, inputs, cache_images=0)[0]):
        torch.testing.assert_close(got, logits[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("at_once", [8, 1])
def test_rows_that_hold_several_images_are_not_cached(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    model = tiny_model("lighton_ocr")
    inputs = inputs_of("lighton_ocr", model)
    expected, _ = _logits_and_cached(model, inputs)
    rows = Generic.split
    monkeypatch.setattr("trimkit.pipeline.encoding.AT_ONCE", at_once)
    monkeypatch.setattr(Generic, "split", lambda self, model, arguments: [arguments, *rows(self, model, arguments)])
    logits, cached = _logits_and_cached(model, inputs)
    assert cached == [[False, False]] * 2
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


def test_patches_go_to_their_own_image() -> None:
    family = family_of(tiny_model("kimi_k25"))
    patches, grids = torch.arange(20).view(20, 1), torch.tensor([[1, 2, 4], [1, 2, 6]])
    arguments = {"pixel_values": patches, "image_grid_thw": grids}
    model = tiny_model("kimi_k25")
    assert family.separable(model, arguments)
    first, second = family.split(model, arguments)
    assert [part["pixel_values"].flatten().tolist() for part in (first, second)] == [list(range(8)), list(range(8, 20))]
    assert [part["image_grid_thw"].tolist() for part in (first, second)] == [[[1, 2, 4]], [[1, 2, 6]]]
    assert not family.separable(model, {**arguments, "pixel_values": patches[:19]})
    assert not family.separable(model, {**arguments, "num_local_patches": torch.tensor([1, 1])})


def test_a_list_of_features_answers_as_one_tensor() -> None:
    images = [torch.ones(2, 3), torch.full((1, 3), 2.0)]
    features = FeatureList(images)
    mask = torch.tensor([True, True, False, True]).view(1, 4, 1)
    filled = torch.zeros(1, 4, 3).masked_scatter(mask, features)
    assert filled[0, :, 0].tolist() == [1.0, 1.0, 0.0, 2.0]
    assert torch.cat(features).shape == (3, 3)
    assert torch.cat(features, dim=0).equal(torch.cat(images))
    assert torch.stack(FeatureList([images[0], images[0]])).shape == (2, 2, 3)
