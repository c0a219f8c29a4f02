"""Conversations on one cache: pictures in later turns, what is used again, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, StaticCache

import trimkit
from tests import tiny
from tests.tiny import GREEDY, IMAGE_TOKEN, ToyScorer
from trimkit import InputError

TRIM: dict[str, Any] = {"method": "trim", "scorer": ToyScorer(), "budget": 0.3}
MORE = [6, 7, 41]

# A reply is part of the next turn: an image token that a random model happens to say would stand for a picture.
REPLY: dict[str, Any] = {**GREEDY, "suppress_tokens": [IMAGE_TOKEN]}


def _ask(out: Tensor, tokens: list[int]) -> dict[str, Tensor]:
    ids = torch.cat([out, torch.tensor([tokens]).expand(len(out), -1)], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _stateless(model: Any, inputs: dict[str, Any], query: str, **options: Any) -> Tensor:
    with trimkit.reduce(model, **TRIM, **options):
        out: Tensor = model.generate(**inputs, **REPLY, query=query)
    return out


@pytest.mark.parametrize("options", [{}, {"tower_keep": 0.5, "tower_layer": 1}], ids=["", "tower"])
@pytest.mark.parametrize("every_picture", [True, False])
def test_a_new_picture_in_a_later_turn(model: Any, every_picture: bool, options: dict[str, Any]) -> None:
    first = tiny.llava_batch([1], seed=2)
    other = tiny.pixels(1, seed=9)
    tokens = int((first["input_ids"] == IMAGE_TOKEN).sum())
    with trimkit.reduce(model, **TRIM, **options) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**first, **REPLY, query="one", past_key_values=cache)
        second = _ask(out, MORE + [IMAGE_TOKEN] * tokens + MORE)
        both = torch.cat([first["pixel_values"], other])
        given = both if every_picture else other
        out = model.generate(**second, pixel_values=given, **REPLY, query="two", past_key_values=cache)
        assert [image.cached for image in trim.report.images] == [True, False]
        third = _ask(out, MORE)
        last = model.generate(**third, **REPLY, query="three", past_key_values=cache)
        assert len(trim.report.images) == 2
    assert out.tolist() == _stateless(model, {**second, "pixel_values": both}, "two", **options).tolist()
    assert last.tolist() == _stateless(model, {**third, "pixel_values": both}, "three", **options).tolist()


@pytest.mark.parametrize("picture", [True, False])
def test_a_turn_may_give_its_new_words_alone(model: Any, picture: bool) -> None:
    """As stock generate has it: with a mask over what is cached and what is new."""
    first = tiny.llava_batch([1 if picture else 0], seed=2)
    pixels = {"pixel_values": first["pixel_values"]} if picture else {}
    with trimkit.reduce(model, **TRIM):
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**first, **REPLY, query="one", past_key_values=cache)
        turns = []
        for tokens in (MORE, [9, 8]):
            held = int(cache.get_seq_length())
            new = torch.cat([out[:, -1:], torch.tensor([tokens])], dim=1)  # the last word is not in the cache yet
            wide = torch.ones(1, held + new.shape[1] + 1, dtype=torch.long)
            with pytest.raises(InputError, match="attention_mask has"):
                model.generate(input_ids=new, attention_mask=wide, **REPLY, query="one", past_key_values=cache)
            assert int(cache.get_seq_length()) == held
            reply = model.generate(
                input_ids=new, attention_mask=wide[:, 1:], **REPLY, query="one", past_key_values=cache
            )
            turns.append(_ask(out, tokens))
            out = torch.cat([turns[-1]["input_ids"], reply[:, new.shape[1] :]], dim=1)
            turns[-1]["out"] = out
        last = _ask(out, MORE)
        whole = model.generate(**last, **REPLY, query="one", past_key_values=cache)
    for turn in turns:
        wanted = turn.pop("out")
        assert _stateless(model, {**turn, **pixels}, "one").tolist() == wanted.tolist()
    assert _stateless(model, {**last, **pixels}, "one").tolist() == whole.tolist()


def test_a_turn_that_failed_on_an_emptied_cache_can_be_asked_again(model: Any) -> None:
    first = tiny.llava_batch([1], seed=2)
    with trimkit.reduce(model, **TRIM):
        cache = StaticCache(config=model.config.text_config, max_cache_len=300)
        static: dict[str, Any] = {"past_key_values": cache, "disable_compile": True}
        out = model.generate(**first, **REPLY, query="one", **static)
        second = _ask(out, MORE)
        with pytest.raises(InputError, match="several sequences a row"):
            model.generate(**second, **REPLY, query="two", **static, num_beams=2)
        assert int(cache.get_seq_length()) == 0
        again = model.generate(**second, **REPLY, query="two", **static)
    assert again.tolist() == _stateless(model, {**second, "pixel_values": first["pixel_values"]}, "two").tolist()


def test_a_picture_after_a_turn_without_one(model: Any) -> None:
    ids = torch.tensor([[1, 5, 6, 7, 8]])
    picture = tiny.llava_batch([1], seed=2)
    tokens = int((picture["input_ids"] == IMAGE_TOKEN).sum())
    with trimkit.reduce(model, **TRIM) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **REPLY, past_key_values=cache)
        second = {**_ask(out, MORE + [IMAGE_TOKEN] * tokens + MORE), "pixel_values": picture["pixel_values"]}
        answer = model.generate(**second, **REPLY, query="what", past_key_values=cache)
        assert trim.report.reused == out.shape[1] - 1
    assert answer.tolist() == _stateless(model, second, "what").tolist()


def test_the_cache_of_an_output_goes_on_too(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    with trimkit.reduce(model, **TRIM, turns="first") as trim:
        made = model.generate(**inputs, **REPLY, query="one", return_dict_in_generate=True)
        model.generate(**_ask(made.sequences, MORE), **REPLY, query="two", past_key_values=made.past_key_values)
        assert trim.report.reused == made.past_key_values.get_seq_length() - len(MORE) - GREEDY["max_new_tokens"]


def test_refresh_runs_again_from_the_picture_on(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    start = int((inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[0])
    with trimkit.reduce(model, **TRIM) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache)
        model.generate(**_ask(out, MORE), **REPLY, query="a wholly other one", past_key_values=cache)
        assert trim.report.reused == start
        assert start > 0


def test_a_static_cache_is_cut_back_or_run_anew(model: Any) -> None:
    """Transformers 5.24 can cut static caches; where it cannot be done, nothing of them is used again."""
    inputs = tiny.llava_batch([1], seed=2)
    start = int((inputs["input_ids"][0] == IMAGE_TOKEN).nonzero()[0])
    with trimkit.reduce(model, **TRIM) as trim:
        cache = StaticCache(config=model.config.text_config, max_cache_len=200)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache, disable_compile=True)
        second = _ask(out, MORE)
        answer = model.generate(**second, **REPLY, query="two", past_key_values=cache, disable_compile=True)
        assert trim.report.reused == (start if cache.is_croppable else 0)
    whole = {**second, "pixel_values": inputs["pixel_values"]}
    assert answer.tolist() == _stateless(model, whole, "two").tolist()


def test_a_batch_of_conversations(model: Any) -> None:
    batch = tiny.llava_batch([1, 2], seed=2)
    model.generation_config.eos_token_id = None
    with trimkit.reduce(model, **TRIM):
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**batch, **REPLY, query=["a", "b"], past_key_values=cache)
        second = _ask(out, MORE)
        second["attention_mask"][:, : batch["attention_mask"].shape[1]] = batch["attention_mask"]
        answer = model.generate(**second, **REPLY, query=["c", "d"], past_key_values=cache)
        whole = {**second, "pixel_values": batch["pixel_values"]}
        expected = model.generate(**whole, **REPLY, query=["c", "d"])
    assert answer.tolist() == expected.tolist()


def test_beams_on_a_cache_answer_as_without_it(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    with trimkit.reduce(model, **TRIM):
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache)
        second = _ask(out, MORE)
        answer = model.generate(**second, **REPLY, num_beams=3, query="two", past_key_values=cache)
        expected = model.generate(**second, pixel_values=inputs["pixel_values"], **REPLY, num_beams=3, query="two")
        assert answer.tolist() == expected.tolist()
        third = _ask(answer, MORE)
        with pytest.raises(trimkit.InputError, match="new cache"):
            model.generate(**third, **REPLY, query="three", past_key_values=cache)


def test_a_cache_filled_by_others_is_refused(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    cache = DynamicCache(config=model.config.text_config)
    out = model.generate(**inputs, **REPLY, **{tiny.CACHE: cache})
    with trimkit.reduce(model, **TRIM), pytest.raises(trimkit.InputError, match="new cache"):
        model.generate(**_ask(out, MORE), **REPLY, query="two", past_key_values=cache)


def test_a_failed_turn_leaves_nothing_to_go_on_from(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)

    def fail(*_: Any) -> list[int]:
        raise RuntimeError("stop here")

    with trimkit.reduce(model, **TRIM):
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache)
        with pytest.raises(RuntimeError, match="stop here"):
            model.generate(
                **_ask(out, MORE), **REPLY, query="two", past_key_values=cache, prefix_allowed_tokens_fn=fail
            )
        with pytest.raises(trimkit.InputError, match="new cache"):
            model.generate(**_ask(out, MORE), **REPLY, query="two", past_key_values=cache)


def test_a_refused_turn_may_be_asked_again(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    with trimkit.reduce(model, **TRIM) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache)
        with pytest.raises(trimkit.InputError, match="2 entries for 1 rows"):
            model.generate(**_ask(out, MORE), **REPLY, query=["two", "three"], past_key_values=cache)
        model.generate(**_ask(out, MORE), **REPLY, query="two", past_key_values=cache)
        assert trim.report.reused > 0


def test_an_unknown_policy_is_refused(model: Any) -> None:
    with pytest.raises(trimkit.ConfigError, match="refresh, first, union"):
        trimkit.reduce(model, method="none", turns="last")  # type: ignore[arg-type]


def test_a_cache_that_says_that_it_cannot_be_cut_is_not(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some caches would cut without an error what is gone from them already: static windows that have slid."""
    inputs = tiny.llava_batch([1], seed=2)
    monkeypatch.setattr(DynamicCache, "is_croppable", False)
    with trimkit.reduce(model, **TRIM) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**inputs, **REPLY, query="one", past_key_values=cache)
        second = _ask(out, MORE)
        answer = model.generate(**second, **REPLY, query="two", past_key_values=cache)
        assert trim.report.reused == 0
    assert answer.tolist() == _stateless(model, {**second, "pixel_values": inputs["pixel_values"]}, "two").tolist()
