"""``pad_to_multiple_of``: shortened prompts come in few lengths, and say the same."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.generation.configuration_utils import CompileConfig

import trimkit
from tests import tiny
from tests.tiny import GREEDY


def attach(model: Any, budget: int, multiple: int) -> Any:
    return trimkit.reduce(model, method="random", budget=budget, pad_to_multiple_of=multiple)


def lengths(model: Any, batch: dict[str, torch.Tensor], multiple: int, budgets: tuple[int, ...]) -> list[int]:
    found = []
    for budget in budgets:
        with attach(model, budget, multiple):
            out = model.generate(**batch, max_new_tokens=1, return_dict_in_generate=True)
        found.append(out.past_key_values.get_seq_length())
    return found


def test_the_length_is_a_multiple_and_never_longer_than_before(model: Any, batch: dict[str, torch.Tensor]) -> None:
    width = batch["input_ids"].shape[1]
    assert len(set(lengths(model, batch, 1, (5, 7, 9)))) == 3
    assert set(lengths(model, batch, 32, (5, 7, 9))) == {32}
    assert lengths(model, batch, 10_000, (5,)) == [width]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_said_stays_the_same(model: Any, side: str) -> None:
    batch = tiny.llava_batch([1, 2], seed=2, side=side)
    learnt = batch["attention_mask"].cumsum(1) > 1  # the first token has none before it, or padding
    labels = batch["input_ids"].masked_fill(~learnt | (batch["attention_mask"] == 0), -100)
    with attach(model, 7, 1):
        expected = model.generate(**batch, **GREEDY)
        with torch.no_grad():
            plain = model(**batch, labels=labels)
    with attach(model, 7, 32):
        assert torch.equal(model.generate(**batch, **GREEDY), expected)
        with torch.no_grad():
            padded = model(**batch, labels=labels)
    assert padded.logits.shape[1] == 32
    torch.testing.assert_close(padded.loss, plain.loss)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_pictures_of_other_lengths_meet_the_compiled_steps_of_the_first(model: Any) -> None:
    one = tiny.llava_batch([1], seed=2)
    model.generation_config.eos_token_id = None
    config = CompileConfig(fullgraph=True, dynamic=False, backend="eager", mode="default")
    config._compile_all_devices = True

    def ask(model: Any, budget: int, multiple: int) -> None:
        with attach(model, budget, multiple):
            model.generate(**one, **GREEDY, cache_implementation="static", compile_config=config)

    torch.compiler.reset()
    ask(model, 5, 32)
    with torch.compiler.set_stance("fail_on_recompile"):
        ask(model, 9, 32)
    torch.compiler.reset()
    other = tiny.llava()
    other.generation_config.eos_token_id = None
    ask(other, 5, 1)
    with torch.compiler.set_stance("fail_on_recompile"), pytest.raises(RuntimeError):
        ask(other, 9, 1)
    torch.compiler.reset()


def test_less_than_one_is_refused(model: Any) -> None:
    with pytest.raises(trimkit.ConfigError, match="pad_to_multiple_of=0"):
        attach(model, 5, 0)
