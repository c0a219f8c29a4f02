"""``Method.tokens``: what every registered method says of its count before it has seen the picture is what it keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.signals import made_up
from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.methods import get_method, method_class, method_classes

TOTALS = (1, 2, 3, 7, 16, 49, 576)
FIXED = (0.05, 0.2, 0.5, 1.0, 1, 2, 64, 1000)
PER_IMAGE = ("iqr", "top-p:0.9", "auto")
NAMES = [name for name, _ in method_classes()]


def batch_of(total: int, images: int = 2) -> TokenBatch:
    """Random images of one size with all that any method asks for."""
    generator = torch.Generator().manual_seed(total)
    features = torch.randn(images, total, 8, generator=generator)
    relevance = 3 * torch.randn(images, total, generator=generator)
    side = round(total**0.5)
    return TokenBatch(
        features=features,
        mask=torch.ones(images, total, dtype=torch.bool),
        relevance=relevance,
        profile=EncoderProfile(sign=1),
        grids=((side, side) if side * side == total else None,) * images,
        keys=tuple(map(str, range(images))),
        cls_attention=relevance.softmax(dim=1),
        tower_keys=features.flip(2),
        attention=relevance.softmax(dim=1),
        signals={name: tuple(made_up(each)[name] for each in features) for name in made_up(features[0])},
    )


@pytest.mark.parametrize("aggregate", ["mean", "none"])
@pytest.mark.parametrize("budget", [*FIXED, *PER_IMAGE], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_a_count_that_is_said_is_kept(name: str, budget: Any, aggregate: str) -> None:
    cls = method_class(name)
    if (cls.fixed_budget and budget in PER_IMAGE) or (not cls.aggregates and aggregate != "none"):
        pytest.skip("refused: see test_methods.py")
    method = get_method(name, budget=budget, aggregate=aggregate)
    if method.stage == "llm" and len(method.cuts(32)) > 1:
        pytest.skip("several cuts, each among what the one before has left: counted on models in test_llm_stages.py")
    for total in TOTALS:
        said = method.tokens(total)
        assert (said is None) == (budget in PER_IMAGE and name != "none")
        if said is not None:
            assert [len(chosen) for chosen in method.select(batch_of(total))] == [said, said]


@pytest.mark.parametrize("name", NAMES)
def test_an_image_without_tokens_has_none(name: str) -> None:
    assert get_method(name, budget=5).tokens(0) == 0


@pytest.mark.parametrize("share", ["prompt", "frame"])
def test_a_shared_budget_is_divided_by_what_is_seen(share: str) -> None:
    assert get_method("random", budget=64, share=share).tokens(576) is None
    assert get_method("random", budget=1.0, share=share).tokens(576) == 576


def test_the_released_code_counts_its_aggregated_token_on_top() -> None:
    assert get_method("trim-released", budget=64).tokens(576) == 65
    assert get_method("trim", budget=64).tokens(576) == 64
    assert get_method("trim-released", budget=0.05).tokens(16) == 1
