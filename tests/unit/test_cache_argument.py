"""A cache goes in under the name of any version of transformers, and the stock method is given the one that it takes."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import DynamicCache

import trimkit
from tests import tiny
from tests.tiny import GREEDY, IMAGE_TOKEN, ToyScorer
from trimkit.attach.cache_argument import cache_name, cache_of, cache_of_output, with_cache, with_cache_named

NAMES = ("cache", "past_key_values")
TRIM: dict[str, Any] = {"method": "trim", "scorer": ToyScorer(), "budget": 0.3}
REPLY: dict[str, Any] = {**GREEDY, "suppress_tokens": [IMAGE_TOKEN]}


def new(cache: Any = None) -> None: ...
def old(past_key_values: Any = None) -> None: ...
def neither(**kwargs: Any) -> None: ...


def test_the_name_is_asked_of_the_signature() -> None:
    assert [cache_name(each) for each in (new, old, neither)] == ["cache", "past_key_values", None]
    assert cache_name(tiny.llava().forward) == tiny.CACHE


def test_arguments_are_renamed_unless_two_are_given() -> None:
    assert with_cache_named("cache", {"past_key_values": 1, "x": 2}) == {"cache": 1, "x": 2}
    assert with_cache_named("past_key_values", {"cache": 1, "past_key_values": None}) == {"past_key_values": 1}
    for untouched in ({"cache": 1, "past_key_values": 2}, {"past_key_values": None}, {}):
        assert with_cache_named("cache", untouched) == untouched
    assert with_cache_named(None, {"past_key_values": 1}) == {"past_key_values": 1}
    assert with_cache("cache", {"past_key_values": 1}, 2) == {"cache": 2}
    assert with_cache(None, {"past_key_values": 1}, 2) == {"past_key_values": 1}


def test_the_cache_is_found_under_either_name() -> None:
    assert [cache_of({name: 1}) for name in NAMES] == [1, 1]
    assert cache_of({"cache": None}) is None
    outputs = [type("Output", (), {name: 1})() for name in NAMES]
    assert [cache_of_output(out) for out in [*outputs, torch.ones(1)]] == [1, 1, None]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [TRIM, {"method": "fastv", "layer": 1, "budget": 0.5}], ids=["trim", "fastv"])
def test_generate_takes_either_name_without_a_warning(model: Any, method: dict[str, Any], name: str) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    cache = DynamicCache(config=model.config.text_config)
    with warnings.catch_warnings(), trimkit.reduce(model, **method):
        warnings.simplefilter("error")
        out = model.generate(**inputs, **REPLY, query="one", **{name: cache})
        assert cache.get_seq_length() > 0
        ids = torch.cat([out, torch.tensor([[6, 7, 41]])], dim=1)
        second = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        answer = model.generate(**second, **REPLY, query="two", **{name: cache})
        expected = model.generate(**second, pixel_values=inputs["pixel_values"], **REPLY, query="two")
    assert answer.tolist() == expected.tolist()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("whole", [True, False], ids=["model", "base"])
def test_forward_takes_either_name_without_a_warning(model: Any, whole: bool, name: str) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    step = torch.tensor([[6]])
    with torch.no_grad(), warnings.catch_warnings(), trimkit.reduce(model, **TRIM, query="one"):
        warnings.simplefilter("error")
        called = model if whole else model.model
        caches = [DynamicCache(config=model.config.text_config) for _ in range(2)]
        found = []
        for cache, each in zip(caches, (name, tiny.CACHE), strict=True):
            called(**inputs, **{each: cache})
            length = int(cache.get_seq_length())
            found.append(called(input_ids=step, **{each: cache})[0])
            assert cache.get_seq_length() == length + 1
    assert torch.equal(*found)
