"""What every registered method keeps to, whatever it ranks by. A new method file is tested here without being named."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.signals import made_up, with_signals
from trimkit.core.types import EncoderProfile, ImageTokens, Selection, TokenBatch
from trimkit.errors import ConfigError
from trimkit.methods import Method, get_method, method_classes
from trimkit.pipeline.selecting import reduced_features

LENGTHS = (36, 1, 20, 7)
WIDTH = 8
BUDGETS = ("iqr", "top-p:0.6", "auto:0.7", 0.2, 5)
CLASSES = {name: cls for name, cls in method_classes() if cls.stage == "tower"}


def rows(lengths: tuple[int, ...] = LENGTHS) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Features and relevance of images of several sizes."""
    generator = torch.Generator().manual_seed(0)
    return [(torch.randn(n, WIDTH, generator=generator), 3 * torch.randn(n, generator=generator)) for n in lengths]


def batch_of(images: list[tuple[torch.Tensor, torch.Tensor]], keys: list[str]) -> TokenBatch:
    pad = torch.nn.utils.rnn.pad_sequence
    lengths = torch.tensor([len(features) for features, _ in images])
    features = pad([features for features, _ in images], batch_first=True)
    return TokenBatch(
        features=features,
        mask=torch.arange(features.shape[1]) < lengths.unsqueeze(1),
        relevance=pad([relevance for _, relevance in images], batch_first=True),
        profile=EncoderProfile(sign=1),
        grids=(None,) * len(images),
        keys=tuple(keys),
        cls_attention=pad([torch.softmax(2 * features[:, 0], dim=0) for features, _ in images], batch_first=True),
        tower_keys=pad([features.flip(1) for features, _ in images], batch_first=True),
        attention=pad([relevance.softmax(dim=0) for _, relevance in images], batch_first=True),
        signals=signals_of([features for features, _ in images]),
    )


def signals_of(images: list[torch.Tensor]) -> dict[str, tuple[torch.Tensor, ...]]:
    found = [made_up(features.detach()) for features in images]
    return {name: tuple(each[name] for each in found) for name in found[0]}


def build(name: str, **options: Any) -> Method:
    """The method; skips where it says that it does not take such a budget, or makes no aggregated token."""
    cls, budget, aggregate = CLASSES[name], str(options.get("budget", 1)), options.get("aggregate", "none")
    if cls.fixed_budget and budget.startswith(("iqr", "top-p", "auto")):
        with pytest.raises(ConfigError, match="needs a fixed budget: give a fraction or a number"):
            get_method(name, **options)
        pytest.skip("refused: only a fixed budget can be met")
    if not cls.aggregates and aggregate != "none":
        with pytest.raises(ConfigError, match="makes no aggregated token"):
            get_method(name, **options)
        pytest.skip("refused: there is nothing that it could aggregate")
    return cls(**options)


def even(name: str, **options: Any) -> Method:
    """With merged tokens as long as others, where a method has the choice; published sums are in ``tests/golden``."""
    return build(name, **({"merge": "mean"} if "merge" in CLASSES[name].model_fields else {}), **options)


def same(a: Selection, b: Selection) -> bool:
    if (a.weights is None) != (b.weights is None):
        return False
    if (a.mixing is None) != (b.mixing is None):
        return False
    if a.mixing is not None and b.mixing is not None and not torch.allclose(a.mixing, b.mixing):
        return False
    weights = a.weights is None or b.weights is None or torch.allclose(a.weights, b.weights)
    extra = (a.aggregated, a.class_token) == (b.aggregated, b.class_token)
    return torch.equal(a.indices, b.indices) and torch.equal(a.ordered, b.ordered) and extra and weights


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_a_row_does_not_depend_on_the_others(name: str, budget: Any) -> None:
    if name == "trim-released" and budget == "iqr":
        pytest.skip("the released code takes quartiles over the batch")
    images, keys = rows(), ["a", "b", "c", "d"]
    method = build(name, budget=budget)
    together = method.select(batch_of(images, keys))
    for row, image in enumerate(images):
        assert same(together[row], method.select(batch_of([image], [keys[row]]))[0])
        assert same(together[row], method.select(batch_of(images, keys))[row])


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("budget", BUDGETS)
def test_selections_are_sound(name: str, budget: Any) -> None:
    for length, chosen in zip(LENGTHS, even(name, budget=budget).select(batch_of(rows(), list("abcd"))), strict=True):
        assert chosen.total == length
        assert torch.equal(chosen.ordered.sort().values, chosen.indices)
        assert torch.equal(chosen.indices, chosen.indices.unique())  # ascending, each once
        assert chosen.indices.numel() == 0 or 0 <= int(chosen.indices[0]) <= int(chosen.indices[-1]) < length
        assert 1 <= len(chosen) <= length
        assert chosen.weights is None or chosen.weights.shape == (length,)
        if chosen.mixing is not None:
            assert chosen.mixing.shape == (chosen.indices.numel(), length)
            assert chosen.indices.numel() < length
            torch.testing.assert_close(chosen.mixing.sum(dim=1), torch.ones(len(chosen.mixing)))


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"none"}))
@pytest.mark.parametrize("aggregate", ["mean", "weighted", "none"])
def test_what_is_dropped_becomes_one_token(name: str, aggregate: str) -> None:
    chosen = even(name, budget=5, aggregate=aggregate).select(batch_of(rows(), list("abcd")))[0]
    features = rows()[0][0]
    image = with_signals(ImageTokens(features=features.clone()))
    image.features.requires_grad_()
    tokens = reduced_features(image, chosen)
    assert len(tokens) == len(chosen)
    kept = features[chosen.indices] if chosen.mixing is None else chosen.mixing @ features
    kept = kept if chosen.order is None else kept[chosen.order]
    first = [image.signals["cls_state"][None]] if chosen.class_token else []
    assert torch.equal(tokens[: chosen.indices.numel() + chosen.class_token], torch.cat([*first, kept]))
    assert chosen.aggregated == (aggregate != "none")
    if chosen.aggregated:
        rest = torch.ones(len(features), dtype=torch.bool)
        rest[chosen.indices] = False
        shares = torch.ones(len(features)) if chosen.weights is None else chosen.weights
        expected = (features[rest] * shares[rest, None]).sum(0) / shares[rest].sum()
        torch.testing.assert_close(tokens[-1], expected)
        (gradient,) = torch.autograd.grad(tokens[-1].sum(), image.features)
        assert torch.equal(gradient[rest].abs().sum(dim=1) > 0, shares[rest] > 0)
        assert (gradient[~rest] == 0).all()


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("budget", [1.0, 1000])
def test_a_budget_for_all_keeps_all(name: str, budget: Any) -> None:
    for length, chosen in zip(LENGTHS, build(name, budget=budget).select(batch_of(rows(), list("abcd"))), strict=True):
        assert chosen.indices.tolist() == list(range(length))
        assert not chosen.aggregated


@pytest.mark.parametrize("name", sorted(set(CLASSES) - {"none", "trim-released"}))
@pytest.mark.parametrize("budget", [1, 2, 5, 0.2, 0.5])
def test_a_fixed_budget_is_met_exactly(name: str, budget: Any) -> None:
    """``none`` keeps all by definition; the released code's aggregated token comes on top."""
    method = build(name, budget=budget)
    for length, chosen in zip(LENGTHS, method.select(batch_of(rows(), list("abcd"))), strict=True):
        assert len(chosen) == method.fixed_tokens(length)
        if name not in ROUNDED:
            assert len(chosen) == method.budget.tokens(length)


ROUNDED = {"divprune", "prumerge", "resize"}
"""Whose published code reads a fraction otherwise: ``round``, and the token of the dropped on top; and a grid of patches."""


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf"), -float("inf")])
def test_relevance_that_says_nothing_is_survived(name: str, value: float) -> None:
    images = [(features, torch.full_like(relevance, value)) for features, relevance in rows()]
    for chosen in build(name, budget=5).select(batch_of(images, list("abcd"))):
        assert 1 <= len(chosen) <= chosen.total


@pytest.mark.parametrize("name", CLASSES)
def test_a_method_says_what_it_is(name: str) -> None:
    cls = CLASSES[name]
    assert cls.name == name
    assert cls.summary
    assert (cls.__doc__ or "").strip()
    assert CLASSES[name].model_validate(cls().model_dump(mode="json")) == cls()
