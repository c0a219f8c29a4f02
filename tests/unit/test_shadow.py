"""Shadowed methods: seen by whoever calls them, gone without a trace, and never copied by accident."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from typing import Any

import pytest
import torch

import trimkit
from tests import tiny

GREEDY: dict[str, Any] = {"max_new_tokens": 4, "do_sample": False}


@pytest.fixture
def model() -> Any:
    return tiny.llava()


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    return tiny.llava_batch([1, 1], seed=2)


class _Peft(torch.nn.Module):
    """Calls the wrapped model as PEFT does: ``forward`` directly, not through ``__call__``."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def get_base_model(self) -> Any:
        return self.inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner.forward(**inputs)


def test_a_wrapper_that_calls_forward_is_reduced(model: Any, batch: dict[str, torch.Tensor]) -> None:
    wrapped = _Peft(model)
    with torch.no_grad(), trimkit.reduce(wrapped, method="random", budget=5):
        assert wrapped(**batch).logits.shape[1] < batch["input_ids"].shape[1] - 20
        assert torch.equal(wrapped(**batch).logits, model(**batch).logits)


def test_an_instance_forward_comes_back(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """accelerate puts its own forward on the instance; it is called, and it is there afterwards."""
    calls = []
    stock = model.forward

    @functools.wraps(stock)
    def dispatched(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return stock(*args, **kwargs)

    model.forward = dispatched
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=5):
        model(**batch)
        model.generate(**batch, **GREEDY)
    assert len(calls) >= 2
    assert model.forward is dispatched


def test_what_was_wrapped_since_becomes_transparent(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        expected = model(**batch).logits
        trim = trimkit.attach(model, method="random", budget=5)
        shadow = model.forward
        model.forward = functools.partial(shadow)
        trim.detach()
        assert torch.equal(model(**batch).logits, expected)


def test_attached_again_over_a_wrapper_of_an_earlier_shadow(model: Any, batch: dict[str, torch.Tensor]) -> None:
    """functools.wraps copies attributes: those of a shadow that is gone must not become the next one's."""
    with torch.no_grad():
        trim = trimkit.attach(model, method="random", budget=5)
        shadow = model.forward
        model.forward = functools.wraps(shadow)(functools.partial(shadow))
        trim.detach()
        with trimkit.reduce(model, method="random", budget=9) as again:
            model(**batch)
            assert [image.tokens_after for image in again.report.images] == [9, 9]


def test_signatures_are_stock(model: Any) -> None:
    before = {name: inspect.signature(getattr(model, name)) for name in ("forward", "generate")}
    with trimkit.reduce(model, method="none"):
        for name, signature in before.items():
            assert inspect.signature(getattr(model, name)) == signature
            assert vars(getattr(model, name))["__signature__"] == signature  # read once, not at every call


@pytest.mark.parametrize("copying", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_comes_out_detached(copying: Any, model: Any, batch: dict[str, torch.Tensor]) -> None:
    attributes = set(model.__dict__)
    with trimkit.reduce(model, method="random", budget=5):
        copied = copying(model)
        assert set(copied.__dict__) == attributes
        full = copied.generate(**batch, **GREEDY)
        reduced = model.generate(**batch, **GREEDY)
        with trimkit.reduce(copied, method="random", budget=5):
            assert torch.equal(copied.generate(**batch, **GREEDY), reduced)
    assert not {"generate", "forward", "__getstate__"} & set(model.__dict__)
    assert torch.equal(model.generate(**batch, **GREEDY), full)
    assert not torch.equal(reduced, full), "the reduction changes nothing here: the test proves nothing"


def test_a_copy_keeps_a_generate_of_the_users_own(model: Any) -> None:
    model.generate = print
    with trimkit.reduce(model, method="none"):
        assert copy.deepcopy(model).generate is print


def test_what_holds_the_shadow_itself_is_not_copied(model: Any) -> None:
    with trimkit.reduce(model, method="none") as trim:
        for held in (trim, model.forward, functools.partial(model.generate)):
            for copying in (copy.deepcopy, pickle.dumps):
                with pytest.raises(trimkit.ConfigError, match="cannot be copied or pickled"):
                    copying(held)


def test_an_interrupt_leaves_the_next_call_reduced(model: Any, batch: dict[str, torch.Tensor]) -> None:
    def interrupt(*args: Any, **kwargs: Any) -> Any:
        raise KeyboardInterrupt

    with torch.no_grad(), trimkit.reduce(model, method="random", budget=5):
        expected = model(**batch).logits
        stock = model.model.language_model.forward
        model.model.language_model.forward = interrupt
        with pytest.raises(KeyboardInterrupt):
            model(**batch)
        model.model.language_model.forward = stock
        assert torch.equal(model(**batch).logits, expected)


def test_a_mask_of_the_uncut_prompt_is_refused_on_the_cache(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=5):
        out = model(**batch, use_cache=True)
        step = out.logits[:, -1:].argmax(dim=-1)
        long = torch.nn.functional.pad(batch["attention_mask"], (0, 1), value=1)
        with pytest.raises(trimkit.InputError, match="cut it"):
            model(input_ids=step, past_key_values=out.past_key_values, attention_mask=long)
        fitting = torch.ones(2, out.logits.shape[1] + 1, dtype=torch.long)
        assert model(input_ids=step, past_key_values=out.past_key_values, attention_mask=fitting).logits.shape[1] == 1
