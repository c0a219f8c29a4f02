"""With everything kept, an attached model takes every call that the stock model takes, and answers it in the same way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import CompileConfig, LlavaForConditionalGeneration

import trimkit
from tests import tiny
from tests.tiny import GREEDY

DETAILS: dict[str, Any] = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}


@pytest.fixture(params=[{"method": "none"}, {"method": "random", "budget": 1.0}], ids=["none", "random"])
def keep_all(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(request.param)


def assert_same(got: Any, expected: Any) -> None:
    assert torch.equal(got.sequences, expected.sequences)
    assert all(torch.equal(one, other) for one, other in zip(got.logits, expected.logits, strict=True))


def continued(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    """A second call on the cache of the first, with the whole prompt and a mask as long as it."""
    first = model.generate(**batch, **DETAILS)
    grown = first.sequences.shape[1] - batch["input_ids"].shape[1]
    mask = torch.nn.functional.pad(batch["attention_mask"], (0, grown), value=1)
    return model.generate(first.sequences, attention_mask=mask, **{tiny.CACHE: first.past_key_values}, **DETAILS)


def from_embeddings(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    return model.generate(**batch, inputs_embeds=model.get_input_embeddings()(batch["input_ids"]), **DETAILS)


def from_embeddings_alone(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    rest = {name: value for name, value in batch.items() if name != "input_ids"}
    return model.generate(**rest, inputs_embeds=model.get_input_embeddings()(batch["input_ids"]), **DETAILS)


def assisted_by_itself(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    return model.generate(**tiny.llava_batch([1], seed=2), assistant_model=model, **DETAILS)


def without_a_prompt(model: Any, batch: dict[str, torch.Tensor]) -> Any:
    return model.generate(**DETAILS)


@pytest.mark.parametrize(
    "call", [continued, from_embeddings, from_embeddings_alone, assisted_by_itself, without_a_prompt]
)
def test_generate_is_stock(call: Any, model: Any, batch: dict[str, torch.Tensor], keep_all: dict[str, Any]) -> None:
    model.generation_config.eos_token_id = None
    expected = call(model, batch)
    with trimkit.reduce(model, **keep_all):
        assert_same(call(model, batch), expected)


def test_forward_on_embeddings_and_on_a_cache_is_stock(
    model: Any, batch: dict[str, torch.Tensor], keep_all: dict[str, Any]
) -> None:
    embeddings = model.get_input_embeddings()(batch["input_ids"])
    rest = {name: value for name, value in batch.items() if name != "input_ids"}

    def calls() -> list[torch.Tensor]:
        first = model(**batch, use_cache=True)
        mask = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        image = torch.full((2, 1), tiny.IMAGE_TOKEN)  # a placeholder, no longer one of a picture
        second = model(input_ids=image, attention_mask=mask, **{tiny.CACHE: first.past_key_values})
        return [first.logits, second.logits, model(inputs_embeds=embeddings, **rest).logits]

    with torch.no_grad():
        expected = calls()
        with trimkit.reduce(model, **keep_all):
            assert all(torch.equal(got, wanted) for got, wanted in zip(calls(), expected, strict=True))


def test_ids_given_twice_are_refused_as_in_stock(model: Any, batch: dict[str, torch.Tensor]) -> None:
    for attached in (False, True):
        trim = trimkit.attach(model, method="none") if attached else None
        with pytest.raises(ValueError, match="passed alongside"):
            model.generate(batch["input_ids"], **batch, **GREEDY)
        if trim is not None:
            trim.detach()


def test_an_attached_model_is_saved_and_loaded_as_stock(
    model: Any, batch: dict[str, torch.Tensor], keep_all: dict[str, Any], tmp_path: Path
) -> None:
    expected = model.generate(**batch, **GREEDY)
    with trimkit.reduce(model, **keep_all):
        model.save_pretrained(tmp_path)
    assert torch.equal(LlavaForConditionalGeneration.from_pretrained(tmp_path).generate(**batch, **GREEDY), expected)


@pytest.mark.parametrize("budget", [1.0, 5])
def test_decoding_is_compiled_in_one_graph(model: Any, batch: dict[str, torch.Tensor], budget: float) -> None:
    """A static cache has ``generate`` compile the model's call; a graph break or a new compilation would be an error."""
    model.generation_config.eos_token_id = None
    config = CompileConfig(fullgraph=True, dynamic=False, backend="eager", mode="default")
    config._compile_all_devices = True
    with trimkit.reduce(model, method="random", budget=budget):
        expected = model.generate(**batch, **GREEDY)
        torch.compiler.reset()
        first = model.generate(**batch, **GREEDY, cache_implementation="static", compile_config=config)
        with torch.compiler.set_stance("fail_on_recompile"):
            second = model.generate(**batch, **GREEDY, cache_implementation="static", compile_config=config)
    assert hasattr(model, "_compiled_call")
    assert torch.equal(first, expected)
    assert torch.equal(second, expected)
