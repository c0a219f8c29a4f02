"""Patches whose features are not finite: no method that can do without one keeps it; and choices beyond a kernel's rank."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.methods import get_method
from trimkit.pipeline.selecting import make_batch


def kept(name: str, features: torch.Tensor, relevance: torch.Tensor, **options: Any) -> list[int]:
    batch = make_batch(
        [ImageTokens(features, signals={"projected": features})], [relevance], ["what?"], EncoderProfile(sign=1)
    )
    return get_method(name, **options).select(batch)[0].indices.tolist()


@pytest.mark.parametrize("name", ["divprune", "dart-tower", "cdpruner", "focus"])
@pytest.mark.parametrize("place", [0, 7, 39])
def test_a_broken_patch_is_not_kept(name: str, place: int) -> None:
    generator = torch.Generator().manual_seed(1)
    features, relevance = torch.randn(40, 8, generator=generator), torch.randn(40, generator=generator)
    features[place, 3] = relevance[place] = float("nan")
    for budget in (1, 2, 5, 20):
        found = kept(name, features, relevance, budget=budget, aggregate="none")
        assert place not in found
        assert len(found) == budget


def test_cdpruner_beyond_the_rank_of_its_kernel_goes_by_quality() -> None:
    generator = torch.Generator().manual_seed(2)
    features, relevance = torch.randn(200, 16, generator=generator), torch.randn(200, generator=generator)
    first = kept("cdpruner", features, relevance, budget=16, aggregate="none")
    more = kept("cdpruner", features, relevance, budget=56, aggregate="none")
    rest = relevance.clone().index_fill(0, torch.tensor(first), -torch.inf)
    assert set(more) == set(first) | set(rest.topk(40).indices.tolist())


@pytest.mark.parametrize("name", ["prumerge", "prumerge-plus"])
def test_signals_may_be_of_double_precision(name: str) -> None:
    generator = torch.Generator().manual_seed(3)
    attention, keys = (torch.rand(*size, generator=generator, dtype=torch.float64) for size in ((36,), (36, 8)))
    signals = {"cls_attention_wide@-1": attention, "keys@-1": keys}
    tokens = ImageTokens(torch.randn(36, 8, generator=generator).double(), signals=signals)
    batch = make_batch([tokens], None, [None], EncoderProfile())
    selection = get_method(name, budget=9).select(batch)[0]
    assert selection.mixing is not None
    assert bool(torch.isfinite(selection.mixing).all())
