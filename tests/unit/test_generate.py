"""Every way of calling stock ``generate`` while attached: streams, beams, samples, caches, lengths, callables."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from transformers import GenerationConfig, MaxLengthCriteria, StoppingCriteria
from transformers.generation.logits_process import RepetitionPenaltyLogitsProcessor
from transformers.generation.streamers import BaseStreamer

import trimkit
from tests import tiny
from tests.tiny import GREEDY


class _Collect(BaseStreamer):
    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self.ended = False

    def put(self, value: torch.Tensor) -> None:
        self.seen.append(value.flatten().tolist())

    def end(self) -> None:
        self.ended = True


def test_streaming_shows_the_whole_prompt(model: Any) -> None:
    one = tiny.llava_batch([1], seed=2)
    streamer = _Collect()
    with trimkit.reduce(model, method="random", budget=0.2):
        out = model.generate(**one, **GREEDY, streamer=streamer)
    assert streamer.ended
    assert streamer.seen[0] == one["input_ids"][0].tolist()
    assert [token for step in streamer.seen for token in step] == out[0].tolist()


def test_static_cache_and_sampling_and_many_answers(model: Any, batch: dict[str, torch.Tensor]) -> None:
    width = batch["input_ids"].shape[1]
    with trimkit.reduce(model, method="random", budget=0.2):
        expected = model.generate(**batch, **GREEDY)
        static = model.generate(**batch, **GREEDY, cache_implementation="static", disable_compile=True)
        assert torch.equal(static, expected)
        torch.manual_seed(0)
        many = model.generate(**batch, max_new_tokens=5, do_sample=True, num_return_sequences=3)
        assert many.shape[0] == 6
        assert torch.equal(many[:, :width], batch["input_ids"].repeat_interleave(3, dim=0))
        beams = model.generate(
            **batch, **GREEDY, num_beams=4, num_return_sequences=2, return_dict_in_generate=True, output_scores=True
        )
        assert torch.equal(beams.sequences[:, :width], batch["input_ids"].repeat_interleave(2, dim=0))
        assert beams.sequences_scores.shape == (4,)


def test_sampling_is_the_hand_built_distribution(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with trimkit.reduce(model, method="random", budget=0.2):
        with torch.no_grad():
            logits = model(**batch).logits[:, -1]
        torch.manual_seed(3)
        sampled = model.generate(**batch, max_new_tokens=1, do_sample=True, top_k=0)[:, -1]
    torch.manual_seed(3)
    assert torch.equal(sampled, torch.multinomial(torch.softmax(logits, dim=-1), 1).squeeze(1))


def test_processors_and_criteria_of_the_users_take_the_place_of_generates_own(model: Any) -> None:
    """As in stock: one of the same type is not made beside it."""
    batch = tiny.llava_batch([1], seed=2)
    length = batch["input_ids"].shape[1]
    model.generation_config.eos_token_id = None
    scored: dict[str, Any] = {"do_sample": False, "output_scores": True, "return_dict_in_generate": True}
    with trimkit.reduce(model, method="random", budget=0.2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wanted = model.generate(**batch, **scored, max_new_tokens=6, repetition_penalty=1.2)
        mine = [RepetitionPenaltyLogitsProcessor(1.2)]
        found = model.generate(**batch, **scored, max_new_tokens=6, repetition_penalty=3.0, logits_processor=mine)
        assert all(torch.equal(a, b) for a, b in zip(found.scores, wanted.scores, strict=True))
        longer = MaxLengthCriteria(length + 9)
        out = model.generate(**batch, do_sample=False, max_new_tokens=3, stopping_criteria=[longer])
        assert out.shape[1] == longer.max_length == length + 9


@pytest.mark.parametrize("form", ["keyword", "config", "positional", "defaults"])
def test_max_length_counts_the_prompt_as_given(model: Any, batch: dict[str, torch.Tensor], form: str) -> None:
    wanted = batch["input_ids"].shape[1] + 4
    model.generation_config.eos_token_id = None
    arguments: dict[str, Any] = {"do_sample": False}
    if form == "keyword":
        arguments["max_length"] = wanted
    elif form != "defaults":
        arguments = {"generation_config": GenerationConfig(max_length=wanted, do_sample=False, pad_token_id=0)}
    else:
        model.generation_config.max_length = wanted
    positional = [batch.pop("input_ids"), arguments.pop("generation_config")] if form == "positional" else []
    assert model.generate(*positional, **batch, **arguments).shape[1] == wanted
    with trimkit.reduce(model, method="random", budget=0.2):
        assert model.generate(*positional, **batch, **arguments).shape[1] == wanted
    if form == "config":
        assert arguments["generation_config"].max_length == wanted


@pytest.mark.parametrize("form", ["keyword", "config"])
def test_settings_merge_as_in_stock(model: Any, batch: dict[str, torch.Tensor], form: str) -> None:
    """A config that says nothing of padding or length leaves the model's defaults in force."""
    wanted = batch["input_ids"].shape[1] + 4
    model.generation_config.max_length = wanted
    model.generation_config.eos_token_id = None
    unmasked = {name: value for name, value in batch.items() if name != "attention_mask"}
    extra = {"do_sample": False} if form == "keyword" else {"generation_config": GenerationConfig(do_sample=False)}
    with trimkit.reduce(model, method="random", budget=0.2):
        expected = model.generate(**batch, do_sample=False, max_length=wanted)
        got = model.generate(**unmasked, **extra)
    assert got.shape[1] == wanted
    assert torch.equal(got, expected)


def test_callables_see_the_whole_prompt(model: Any, batch: dict[str, torch.Tensor]) -> None:
    seen: list[torch.Tensor] = []
    width = batch["input_ids"].shape[1]

    class StopAfterTwo(StoppingCriteria):
        def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
            seen.append(input_ids)
            return torch.full((len(input_ids),), input_ids.shape[1] - width >= 2)

    def forbid_last(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        seen.append(input_ids)
        return scores

    def all_tokens(row: int, ids: torch.Tensor) -> list[int]:
        seen.append(ids.unsqueeze(0).expand(2, -1) if torch.equal(ids[:width], batch["input_ids"][row]) else ids)
        return list(range(3, 90))

    with trimkit.reduce(model, method="random", budget=0.2):
        out = model.generate(
            **batch,
            **GREEDY,
            stopping_criteria=[StopAfterTwo()],
            logits_processor=[forbid_last],
            prefix_allowed_tokens_fn=all_tokens,
        )
        beams = model.generate(**batch, **GREEDY, num_beams=2, logits_processor=[forbid_last])
    assert out.shape[1] == width + 2
    assert beams.shape[0] == 2
    assert seen
    for ids in seen:
        assert ids.shape[1] >= width
        rows = {tuple(row) for row in ids[:, :width].tolist()}
        assert rows <= {tuple(row) for row in batch["input_ids"].tolist()}


def test_text_only_generate_may_say_the_image_token(model: Any) -> None:
    text = tiny.llava_batch([0, 0], seed=1)

    def always_image(input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([tiny.IMAGE_TOKEN]), 0.0)

    with trimkit.reduce(model, method="random", budget=0.2):
        out = model.generate(**text, **GREEDY, logits_processor=[always_image])
    assert (out[:, text["input_ids"].shape[1] :] == tiny.IMAGE_TOKEN).all()
