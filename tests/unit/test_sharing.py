"""One budget for all images of a prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.tiny import ToyScorer
from trimkit import EncoderProfile, ImageTokens, get_method
from trimkit.pipeline.selecting import select_tokens

PROFILE = EncoderProfile(sign=1)


def _images(*sizes: int) -> list[ImageTokens]:
    return [ImageTokens(torch.randn(n, 4), key=str(i)) for i, n in enumerate(sizes)]


def test_the_more_relevant_image_gets_more() -> None:
    images, rows = _images(20, 20, 20), [0, 0, 1]
    relevance = [torch.linspace(0, 1, 20), torch.linspace(5, 6, 20), torch.linspace(0, 1, 20)]
    method = get_method("trim", budget=0.25, share="prompt", aggregate="none")
    chosen = select_tokens(images, relevance, ["a", "a", "b"], method, PROFILE, rows)
    assert [len(c) for c in chosen] == [1, 9, 5]  # ten for the first prompt, one of them the floor; five for the other
    assert chosen[0].indices.tolist() == [19]
    assert chosen[1].indices.tolist() == list(range(11, 20))
    apart = select_tokens(
        images, relevance, ["a", "a", "b"], get_method("trim", budget=0.25, aggregate="none"), PROFILE, rows
    )
    assert [len(c) for c in apart] == [5, 5, 5]


def test_where_there_is_no_room_the_least_relevant_images_have_no_aggregated_token() -> None:
    relevance = [torch.linspace(0, top, 12) for top in (3, 1, 2, 4)]
    method = get_method("trim", budget=6, share="prompt")
    chosen = select_tokens(_images(12, 12, 12, 12), relevance, ["q"] * 4, method, PROFILE, [0] * 4)
    assert [c.indices.tolist() for c in chosen] == [[11]] * 4
    assert [c.aggregated for c in chosen] == [True, False, False, True]


@pytest.mark.parametrize("budget", [3, 4, 7, 0.3, 0.5, "iqr", "top-p:0.7", "auto"])
@pytest.mark.parametrize("aggregate", ["none", "mean", "weighted"])
def test_the_budget_holds_and_no_image_disappears(budget: Any, aggregate: str) -> None:
    images = _images(12, 5, 9)
    generator = torch.Generator().manual_seed(0)
    relevance = [torch.randn(len(image), generator=generator) * 3 for image in images]
    method = get_method("trim", budget=budget, share="prompt", aggregate=aggregate)
    chosen = select_tokens(images, relevance, ["q"] * 3, method, PROFILE, [0, 0, 0])
    assert [c.total for c in chosen] == [12, 5, 9]
    assert all(len(c.indices) >= 1 for c in chosen)
    if method.budget.kind in ("ratio", "count"):
        assert sum(len(c) for c in chosen) == method.budget.tokens(26)
    for image, c in zip(images, chosen, strict=True):
        room = budget not in (3, 4)  # for an aggregated token of each
        assert c.aggregated <= (aggregate != "none" and len(c.indices) < len(image)) <= (c.aggregated or not room)
        assert c.scores is not None
        assert len(c.scores) == len(image)


def test_a_single_image_is_the_same_either_way() -> None:
    images, relevance = _images(30), [torch.randn(30, generator=torch.Generator().manual_seed(1))]
    for budget in ("iqr", 0.2, 7):
        both = [
            select_tokens(images, relevance, ["q"], get_method("trim", budget=budget, share=share), PROFILE, [0])[0]
            for share in ("image", "prompt")
        ]
        assert torch.equal(both[0].indices, both[1].indices)


def test_through_a_model_and_in_any_batch() -> None:
    per_row = [2, 1, 0, 2]
    model, batch = tiny.llava(), tiny.llava_batch(per_row, seed=5)
    options: dict[str, Any] = {"scorer": ToyScorer(), "budget": 0.25, "share": "prompt"}
    questions = ["left", "right", "none", "red"]
    width = batch["input_ids"].shape[1]
    with trimkit.reduce(model, **options) as trim:
        together = model.generate(**batch, **tiny.GREEDY, query=questions)[:, width:]
        counts = [image.tokens_after for image in trim.report.images]
        assert counts[0] + counts[1] == int(0.25 * 2 * tiny.TOKENS)
        assert counts[2] == int(0.25 * tiny.TOKENS)
        for row, images in enumerate(per_row):
            if images:
                one = tiny.single(batch, row, per_row)
                alone = model.generate(**one, **tiny.GREEDY, query=questions[row])[0, one["input_ids"].shape[1] :]
                assert together[row, : len(alone)].tolist() == alone.tolist()
