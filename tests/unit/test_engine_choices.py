"""The choices that an exported graph holds are the methods' own, whatever the batch. Torch alone: no engine is needed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from trimkit.core.types import EncoderProfile, TokenBatch
from trimkit.engines.choices import choice_of, refuse_method
from trimkit.errors import UnsupportedError
from trimkit.methods import Method, get_method, method_classes

SIDE, WIDTH, PICTURES = 8, 16, 4
METHODS: list[tuple[str, dict[str, Any]]] = [
    ("trim", {}),
    ("trim", {"score": "similarity", "aggregate": "none"}),
    ("trim-paper", {}),
    ("focus", {}),
    ("focus", {"coverage": 0.3, "redundancy": 2.0}),
    ("cdpruner", {}),
    ("divprune", {}),
    ("l2-norm", {"keep_norms": "low"}),
    ("uniform", {}),
]


def batch_of(pictures: int, *, flat: bool = False, seed: int = 0) -> TokenBatch:
    """Smooth features, so that neighbors are alike; relevance with a peak, or none at all."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(pictures, WIDTH, 3, 3, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, size=(SIDE, SIDE), mode="bilinear").flatten(2).transpose(1, 2)
    features = smooth + 0.1 * torch.randn(smooth.shape, generator=generator)
    relevance = torch.zeros(features.shape[:2]) if flat else features[..., 0].pow(3)
    return TokenBatch(
        features=features,
        mask=torch.ones(features.shape[:2], dtype=torch.bool),
        relevance=relevance,
        profile=EncoderProfile(sign=1),
        grids=((SIDE, SIDE),) * pictures,
        keys=("",) * pictures,
        signals={"projected": tuple(features)},
    )


def pages_of(pictures: int) -> TokenBatch:
    """Unlike patches under a vague map, and other tokens behind the projector."""
    batch, generator = batch_of(pictures), torch.Generator().manual_seed(5)
    features = torch.randn(batch.features.shape, generator=generator)
    projected = torch.randn(pictures, SIDE * SIDE, 24, generator=generator)
    relevance = torch.randn(features.shape[:2], generator=generator)
    relevance[:, [8, 21]] += 4.0
    return replace(batch, features=features, relevance=relevance, signals={"projected": tuple(projected)})


def own(method: Method, batch: TokenBatch) -> torch.Tensor:
    return torch.stack([selection.indices for selection in method.select(batch)])


@pytest.mark.parametrize("budget", [1, 17, 63, 1000], ids=str)
@pytest.mark.parametrize(("name", "options"), METHODS, ids=[f"{name}-{options}" for name, options in METHODS])
def test_choices_are_the_methods_own(name: str, options: dict[str, Any], budget: float) -> None:
    method, batch = get_method(name, budget=budget, **options), batch_of(PICTURES)
    choice = choice_of(method, SIDE * SIDE, (SIDE, SIDE), batch.profile)
    found = choice.choose(batch.features, batch.relevance)
    assert torch.equal(found, own(method, batch))
    assert choice.count == found.shape[1]
    assert choice.aggregated == method.select(batch)[0].aggregated
    assert choice.count + choice.aggregated == method.tokens(SIDE * SIDE)


@pytest.mark.parametrize("options", [{}, {"lines": "off"}, {"coverage": 0.3}], ids=str)
def test_pages_are_chosen_by_line_and_tokens_compared_behind_the_projector(options: dict[str, Any]) -> None:
    method, batch = get_method("focus", budget=12, **options), pages_of(PICTURES)
    choice = choice_of(method, SIDE * SIDE, (SIDE, SIDE), batch.profile)
    found = choice.choose(batch.features, batch.relevance, torch.stack(list(batch.signals["projected"])))
    assert choice.projects
    assert torch.equal(found, own(method, batch))
    other = get_method("focus", budget=12, **{"lines": "auto" if options.get("lines") == "off" else "off"})
    assert not torch.equal(found, own(other, batch))
    assert not torch.equal(found, choice.choose(batch.features, batch.relevance, batch.features))


@pytest.mark.parametrize("name", ["trim", "focus", "cdpruner"])
def test_where_nothing_is_relevant_no_patch_comes_twice(name: str) -> None:
    """Which of equally good patches comes first is a matter of rounding then."""
    batch = batch_of(2, flat=True)
    choice = choice_of(get_method(name, budget=20), SIDE * SIDE, (SIDE, SIDE), batch.profile)
    found = choice.choose(batch.features, batch.relevance)
    assert [len(set(row)) for row in found.tolist()] == [choice.count] * 2


def test_a_batch_chooses_as_its_rows_alone() -> None:
    batch = batch_of(5)
    assert batch.relevance is not None
    for name in ("focus", "cdpruner", "divprune"):
        choose = choice_of(get_method(name, budget=20), SIDE * SIDE, (SIDE, SIDE), batch.profile).choose
        rows = [choose(batch.features[i : i + 1], batch.relevance[i : i + 1]) for i in range(5)]
        assert torch.equal(choose(batch.features, batch.relevance), torch.cat(rows))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("trim", {"budget": "iqr"}, "another number of tokens of each picture"),
        ("trim", {"budget": "top-p:0.9"}, "another number of tokens of each picture"),
        ("trim", {"budget": 20, "aggregate": "weighted"}, "aggregate='weighted'"),
        ("focus", {"share": "prompt"}, "share='prompt'"),
        ("random", {}, "'random' cannot be exported"),
    ],
)
def test_what_cannot_be_a_graph_is_one_line(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UnsupportedError, match=said) as raised:
        refuse_method(get_method(name, **options))
    assert "\n" not in str(raised.value)


def test_every_method_is_exported_or_refused() -> None:
    batch = batch_of(1)
    for name, _ in method_classes():
        method = get_method(name, budget=9)
        try:
            choice = choice_of(method, SIDE * SIDE, (SIDE, SIDE), batch.profile)
        except UnsupportedError:
            continue
        assert torch.equal(choice.choose(batch.features, batch.relevance), own(method, replace(batch)))
