"""Selections beyond a set of patches: an order of their own, a class token, a patch given twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar, Literal

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from tests.contract.method_checks import CHECKS
from tests.contract.test_methods_on_models import random_case
from trimkit import ImageTokens
from trimkit.core.prompt_layout import plan_prompt
from trimkit.core.sharing import split_selection, union
from trimkit.core.types import Selection, TokenBatch
from trimkit.methods import Method
from trimkit.pipeline.reduced_inputs import _image_report
from trimkit.pipeline.selecting import reduced_features

LAST = Selection(torch.tensor([1, 2, 4]), 6, order=torch.tensor([2, 0, 1]))
WHOLE = replace(LAST, class_token=True, aggregated=True)


class Backwards(Method):
    """Keeps the patches of the longest features, the class token first and the patches from the last on."""

    name: ClassVar[str] = "backwards"
    summary: ClassVar[str] = "for a test"
    signals: ClassVar[frozenset[str]] = frozenset({"cls_state"})

    aggregate: Literal["mean", "weighted", "none"] = "mean"

    @property
    def keeps_class_token(self) -> bool:
        return True

    def scores(self, batch: TokenBatch) -> Tensor:
        return torch.linalg.vector_norm(batch.features, dim=-1)

    def finish(self, image: TokenBatch, selection: Selection) -> Selection:
        return replace(selection, order=torch.arange(len(selection.indices)).flip(0))


def test_what_a_selection_says() -> None:
    assert LAST.ordered.tolist() == [4, 1, 2]
    assert len(LAST) == 3
    assert not LAST.plain
    assert len(WHOLE) == 5
    everything = Selection(torch.arange(3), 3)
    assert everything.keeps_all
    assert everything.plain
    assert not replace(everything, class_token=True).keeps_all
    assert not replace(everything, order=torch.tensor([2, 1, 0])).keeps_all


def test_features_come_in_the_order_the_class_token_first_and_the_mean_last() -> None:
    image = ImageTokens(torch.eye(6), signals={"cls_state": torch.full((6,), 9.0)})
    expected = torch.stack([torch.full((6,), 9.0), *torch.eye(6)[[4, 1, 2]], torch.tensor([1, 0, 0, 1, 0, 1]) / 3])
    torch.testing.assert_close(reduced_features(image, WHOLE), expected)
    twice = Selection(torch.tensor([1, 1, 3]), 6)
    assert torch.equal(reduced_features(image, twice), torch.eye(6)[[1, 1, 3]])
    with pytest.raises(trimkit.ConfigError, match="signals\\['cls_state'\\]"):
        reduced_features(ImageTokens(torch.eye(6)), WHOLE)


def test_mixed_rows_are_those_of_indices_and_one_more_is_the_aggregated_token_s() -> None:
    rows = torch.eye(6)[[1, 2, 4]] * 2
    rows = torch.cat([rows, torch.ones(1, 6)])
    got = reduced_features(ImageTokens(torch.eye(6)), replace(LAST, mixing=rows, aggregated=True))
    torch.testing.assert_close(got, torch.cat([torch.eye(6)[[4, 1, 2]] * 2, torch.ones(1, 6)]))


def test_columns_bring_their_own_place_along() -> None:
    ids = torch.tensor([[7, 0, 0, 0, 0, 0, 0, 8, 9]])  # zeros are the image
    layout = plan_prompt(ids, None, 0, [WHOLE], "left")
    # the class token in the place of patch 0, patches 4, 1 and 2, the mean in that of patch 3
    assert layout.sources.tolist() == [[0, 1, 5, 2, 3, 4, 7, 8]]
    between = torch.tensor([[7, 0, 0, 6, 0, 0, 0, 0, 9]])  # a word between its tokens
    assert plan_prompt(between, None, 0, [LAST], "left").sources.tolist() == [[0, 6, 3, 2, 4, 8]]
    twice = Selection(torch.tensor([1, 1, 3]), 6)
    assert plan_prompt(ids, None, 0, [twice], "left").sources.tolist() == [[0, 2, 2, 4, 7, 8]]


def test_what_has_no_union_and_cannot_be_shared_out_is_refused() -> None:
    assert union([LAST, LAST]) is LAST
    with pytest.raises(trimkit.ConfigError, match="turns='refresh'"):
        union([LAST, replace(LAST, order=torch.tensor([0, 1, 2]))])
    with pytest.raises(trimkit.ConfigError, match="turns='refresh'"):
        union([replace(LAST, class_token=True), LAST])
    with pytest.raises(trimkit.ConfigError, match="share= at 'image'"):
        split_selection(WHOLE, [3, 3], fixed=True)


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 0.5])
def test_the_class_token_and_the_mean_count(budget: Any) -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1])
    with trimkit.reduce(model, method=Backwards(budget=budget)) as trim, torch.no_grad():
        model(**inputs)
    (image,) = trim.report.images
    assert image.tokens_after == trim.method.tokens(image.tokens_before) == trim.method.budget.tokens(36)
    assert (image.class_token, image.aggregated) == (image.tokens_after > 1, image.tokens_after > 2)


@pytest.mark.parametrize("check", CHECKS)
def test_the_contract_holds_for_it(check: str) -> None:
    CHECKS[check](random_case(), Backwards())


@pytest.mark.parametrize("positions", ["contiguous", "original"])
def test_through_a_model_it_is_the_same_tokens_fed_by_hand(positions: Any) -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1])
    with trimkit.reduce(model, method=Backwards(budget=6), positions=positions) as trim, torch.no_grad():
        got = model(**inputs).logits[0]
        kept = trim.report.images[0].indices
    with torch.no_grad():
        state = model.model.vision_tower(inputs["pixel_values"], output_hidden_states=True).hidden_states[-2][0]
        patches = state[1:]
        rest = torch.ones(len(patches), dtype=torch.bool)
        rest[kept] = False
        tokens = torch.cat([state[:1], patches[kept.flip(0)], patches[rest].mean(dim=0, keepdim=True)])
        ids = inputs["input_ids"][0]
        words = model.get_input_embeddings()(ids)
        places = (ids == tiny.IMAGE_TOKEN).nonzero().squeeze(1)
        image = model.model.multi_modal_projector(tokens)
        embeds = torch.cat([words[: places[0]], image, words[places[-1] + 1 :]])[None]
        dropped = rest.nonzero().squeeze(1)
        own = torch.cat([dropped[:1], kept.flip(0), dropped[len(dropped) // 2][None]]) + places[0]
        at = torch.cat([torch.arange(int(places[0])), own, torch.arange(int(places[-1]) + 1, len(ids))])[None]
        ask = {"position_ids": at, "attention_mask": torch.ones_like(at)} if positions == "original" else {}
        expected = model(inputs_embeds=embeds, **ask).logits[0]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_report_numbers_groups_by_its_indices() -> None:
    from types import SimpleNamespace

    mixing = torch.zeros(4, 6)
    mixing[0, [1, 0]] = mixing[1, [2, 3]] = mixing[2, [4]] = 1.0
    mixing[3] = 5.0  # the aggregated token's
    item = SimpleNamespace(row=0, cached=False, image=ImageTokens(torch.eye(6)), family=SimpleNamespace(medium="image"))
    report = _image_report(item, (None,), replace(WHOLE, mixing=mixing), None)  # type: ignore[arg-type]
    assert report.groups is not None
    assert report.groups.tolist() == [0, 0, 1, 1, 2, -1]
    assert report.class_token
    assert not report.keeps_all
    assert report.tokens_after == 5
