"""Kept tokens that are mixtures of others: how they are made, and where they cannot be."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from tests.tiny import GREEDY, ToyScorer
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.core.sharing import union
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods._choosing import ChoosingMethod
from trimkit.pipeline.selecting import reduced_image, select_tokens

HALVES = Selection(
    indices=torch.tensor([0, 2]), total=4, mixing=torch.tensor([[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.25, 0.75]])
)


class Pairs(ChoosingMethod):
    """Keeps the most relevant tokens, each as its mean with its right-hand neighbour."""

    name: ClassVar[str] = "pairs"
    summary: ClassVar[str] = "for a test"
    uses_text: ClassVar[bool] = True

    def quality(self, image: TokenBatch) -> Tensor:
        assert image.relevance is not None
        return image.relevance[0] - image.relevance[0].min()

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return scores.topk(count).indices

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor:
        rows = torch.zeros(len(indices), image.mask.shape[1])
        at = torch.arange(len(indices))
        rows[at, indices] += 0.5
        rows[at, (indices + 1).clamp(max=rows.shape[1] - 1)] += 0.5
        return rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_mixtures_of_features_and_of_deeper_layers(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    features, layer = (torch.randn(4, 3, generator=generator).to(dtype) for _ in range(2))
    image = reduced_image(ImageTokens(features.requires_grad_(), layers=(layer,)), HALVES)
    for got, given in ((image.features, features), (image.layers[0], layer)):
        wide = given.to(torch.promote_types(dtype, torch.float32))
        expected = torch.stack([(wide[0] + wide[1]) / 2, wide[2] / 4 + 3 * wide[3] / 4]).to(dtype)
        assert got.dtype == dtype
        torch.testing.assert_close(got, expected)
    (gradient,) = torch.autograd.grad(image.features.sum(), features)
    assert gradient[:, 0].tolist() == [0.5, 0.5, 0.25, 0.75]


def test_the_aggregated_token_comes_behind() -> None:
    image = reduced_image(
        ImageTokens(torch.eye(4)), Selection(HALVES.indices, 4, aggregated=True, mixing=HALVES.mixing)
    )
    assert image.features[-1].tolist() == [0.0, 0.5, 0.0, 0.5]  # the mean of what is not kept
    assert image.features[0].tolist() == [0.5, 0.5, 0.0, 0.0]


def test_half_precision_is_not_summed_in_half_precision() -> None:
    features = torch.tensor([[256.0], [-256.0], [1.0]], dtype=torch.bfloat16)
    mixed = Selection(torch.tensor([0]), 3, mixing=torch.tensor([[1.001, 1.0, 0.0]]))  # bfloat16 has no 1.001
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert reduced_image(ImageTokens(features), mixed).features.item() == pytest.approx(0.256, rel=1e-2)


def test_questions_that_merge_alike_have_a_union() -> None:
    assert union([HALVES, HALVES]) is HALVES
    other = Selection(torch.tensor([1]), 4, mixing=torch.tensor([[0.0, 1.0, 0.0, 0.0]]))
    with pytest.raises(trimkit.ConfigError, match="turns='refresh'"):
        union([HALVES, other])


def test_one_budget_for_several_images_is_refused() -> None:
    images = [ImageTokens(torch.randn(6, 4), key=str(i)) for i in range(2)]
    method = get_method("avg-pool", budget=4, share="prompt")
    with pytest.raises(trimkit.ConfigError, match="share= at 'image'"):
        select_tokens(images, None, [None, None], method, EncoderProfile(), [0, 0])
    alone = select_tokens(images, None, [None, None], method, EncoderProfile(), [0, 1])
    assert [len(each) for each in alone] == [4, 4]


def test_through_a_model_and_turns() -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1, 1])
    options: dict[str, Any] = {"scorer": ToyScorer(), "method": Pairs(budget=6)}
    with trimkit.reduce(model, **options) as trim, torch.no_grad():
        logits = model(**inputs, query=["left", "right"]).logits
        chosen = [image.indices for image in trim.report.images]
    features = [image.features for image in _encoded(model, inputs["pixel_values"])]
    mixed = [
        (each[at] + each[(at + 1).clamp(max=len(each) - 1)]) / 2 for each, at in zip(features, chosen, strict=True)
    ]
    with trimkit.reduce(model, method="none"), torch.no_grad():
        assert not torch.equal(model(**inputs).logits[:, -1], logits[:, -1])
    projected = model.model.multi_modal_projector(torch.stack(mixed))
    embeds = [_by_hand(model, inputs, row, projected[row], chosen[row]) for row in range(2)]
    for row, alone in enumerate(embeds):
        with torch.no_grad():
            expected = model(inputs_embeds=alone).logits[0, -1]
        torch.testing.assert_close(logits[row, -1], expected, rtol=1e-4, atol=1e-4)


def test_turns_first_and_refresh_go_on() -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1])
    for turns in ("first", "refresh", "union"):
        with trimkit.reduce(model, scorer=ToyScorer(), method="avg-pool", budget=6, turns=turns):
            model.generate(**inputs, **GREEDY)


def _encoded(model: Any, pixels: Tensor) -> list[ImageTokens]:
    from trimkit.models import family_of

    with torch.no_grad():
        return family_of(model).encode(model, {"pixel_values": pixels})


def _by_hand(model: Any, inputs: dict[str, Tensor], row: int, features: Tensor, kept: Tensor) -> Tensor:
    """Input embeddings with the mixed tokens in place of the image, without padding."""
    ids = inputs["input_ids"][row][inputs["attention_mask"][row].bool()]
    image = (ids == tiny.IMAGE_TOKEN).nonzero().squeeze(1)
    embeds = model.get_input_embeddings()(ids).detach()
    return torch.cat([embeds[: image[0]], features, embeds[image[-1] + 1 :]]).unsqueeze(0)
