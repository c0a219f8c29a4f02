"""A conversation on one cache says what the whole conversation says without a cache, for every family and policy."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

import trimkit
from tests.contract.families import FAMILIES, FamilyCase
from tests.tiny import CACHE, IMAGE_TOKEN, ToyScorer

# Marks of pictures, which no trained model says: as words of an answer they would be marks in the next turn.
GENERATE: dict[str, Any] = {
    "max_new_tokens": 5,
    "do_sample": False,
    "suppress_tokens": list(range(90, IMAGE_TOKEN + 1)),
}
FIRST, SECOND = "question one", "something else"
REDUCTIONS: dict[str, dict[str, Any]] = {
    "refresh": {"method": "trim", "scorer": ToyScorer(), "budget": 0.3},
    "first": {"method": "trim", "scorer": ToyScorer(), "budget": 0.3, "turns": "first"},
    "union": {"method": "trim", "scorer": ToyScorer(), "budget": 0.3, "turns": "union"},
    "all": {"method": "none"},
}


@pytest.fixture(params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest) -> FamilyCase:
    return FAMILIES[request.param]


def later(inputs: dict[str, Tensor], out: Tensor) -> dict[str, Tensor]:
    """The conversation gone on: what was said, then more text."""
    ids = torch.cat([out, torch.tensor([[6, 7, 41, 42, 43]]).expand(len(out), -1)], dim=1)
    more = ids.shape[1] - inputs["input_ids"].shape[1]
    grown = {**inputs, "input_ids": ids}
    for name, value in (("attention_mask", 1), ("mm_token_type_ids", 0), ("token_type_ids", 0)):
        if name in inputs:
            grown[name] = torch.nn.functional.pad(inputs[name], (0, more), value=value)
    return grown


@pytest.mark.parametrize("policy", sorted(REDUCTIONS))
def test_a_cached_turn_is_the_uncached_one(case: FamilyCase, policy: str) -> None:
    model = case.build()
    inputs = case.single(case.batch("left"), 1)
    with trimkit.reduce(model, **REDUCTIONS[policy]) as trim:
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.generate(**inputs, **GENERATE, query=FIRST, past_key_values=cache)
        first = [image.indices for image in trim.report.images]
        whole = later(inputs, out)
        second = model.generate(**whole, **GENERATE, query=SECOND, past_key_values=cache)
        report = trim.report
        assert cache.get_seq_length() < second.shape[1] or policy == "all"
    asked = {"first": [FIRST], "refresh": [SECOND], "union": [FIRST, SECOND], "all": [SECOND]}[policy]
    plain = {**REDUCTIONS[policy], "turns": "refresh"}
    chosen = []
    for query in asked:
        with trimkit.reduce(model, **plain) as trim:
            expected = model.generate(**whole, **GENERATE, query=query)
            chosen.append([image.indices.tolist() for image in trim.report.images])
    wanted = [sorted({i for each in part for i in each}) for part in zip(*chosen, strict=True)]
    assert [image.indices.tolist() for image in report.images] == wanted
    if policy != "union":
        assert second.tolist() == expected.tolist()
    if policy == "first" and report.reused:
        assert all(torch.equal(a, b.indices) for a, b in zip(first, report.images, strict=True))
        assert report.reused > sum(len(image.indices) for image in report.images)


def test_only_a_causal_prompt_of_plain_positions_is_continued(case: FamilyCase) -> None:
    """What cannot be run on top of an old head is run anew; every other family saves the work."""
    model = case.build()
    inputs = case.single(case.batch("left"), 1)
    with trimkit.reduce(model, method="none") as trim:
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.generate(**inputs, **GENERATE, past_key_values=cache)
        model.generate(**later(inputs, out), **GENERATE, past_key_values=cache)
    anew = case.positions or model.config.model_type == "paligemma"
    assert (trim.report.reused == 0) == anew


def test_with_everything_kept_a_cache_goes_on_as_in_stock(case: FamilyCase) -> None:
    """Without its pictures, as stock wants it; then with them."""
    model = case.build()
    inputs = case.single(case.batch("left"), 1)
    with trimkit.reduce(model, method="none"):
        cache = DynamicCache(config=model.config.get_text_config())
        out = model.generate(**inputs, **GENERATE, past_key_values=cache)
        whole = later(inputs, out)
        given = {name: whole[name] for name in ("input_ids", "attention_mask")}
        second = model.generate(**given, **GENERATE, past_key_values=cache)
        third = later(whole, second)
        last = model.generate(**third, **GENERATE, past_key_values=cache)
    stock = DynamicCache(config=model.config.get_text_config())
    assert torch.equal(model.generate(**inputs, **GENERATE, **{CACHE: stock}), out)
    assert torch.equal(model.generate(**given, **GENERATE, **{CACHE: stock}), second)
    assert torch.equal(model.generate(**third, **GENERATE), last)
