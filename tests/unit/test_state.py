"""What is left of a call, of an attachment, and of threads that come and go."""

from __future__ import annotations

import gc
import sys
import threading
import weakref
from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.tiny import GREEDY


def reduced(model: Any, **options: Any) -> trimkit.Attachment:
    return trimkit.reduce(model, **{"method": "random", "budget": 5, **options})


class TestReport:
    """It is always the last call's."""

    @pytest.mark.parametrize("through", ["generate", "forward"])
    def test_a_call_without_pictures_has_an_empty_one(self, model: Any, through: str) -> None:
        text = {"input_ids": torch.tensor([[1, 5, 6]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
        with torch.no_grad(), reduced(model) as trim:
            model.generate(**tiny.llava_batch([1]), **GREEDY)
            assert trim.report.tokens_before == tiny.TOKENS
            if through == "generate":
                model.generate(**text, **GREEDY)
            else:
                model(**text)
            assert trim.report.images == ()
            assert (trim.report.tokens_before, trim.report.removed) == (0, 0.0)

    @pytest.mark.parametrize("through", ["generate", "forward", "base"])
    def test_a_call_that_failed_has_none(self, model: Any, through: str) -> None:
        batch = tiny.llava_batch([1])
        wrong = {**batch, "pixel_values": torch.cat([batch["pixel_values"]] * 2)}
        call = {"generate": model.generate, "forward": model, "base": model.model}
        with torch.no_grad(), reduced(model) as trim:
            model.generate(**batch, **GREEDY)
            call = {"generate": model.generate, "forward": model, "base": model.model}
            with pytest.raises(trimkit.InputError):
                call[through](**wrong)
            with pytest.raises(trimkit.ConfigError, match="last call failed"):
                _ = trim.report

    def test_lengths_that_are_asked_for_are_no_call(self, model: Any) -> None:
        batch = tiny.llava_batch([1])
        with torch.no_grad(), reduced(model) as trim:
            model.generate(**batch, **GREEDY)
            report = trim.report
            assert trim.reduced_lengths(batch)[0] < batch["input_ids"].shape[1]
            assert trim.report is report

    def test_a_loop_of_ones_own_keeps_that_of_its_prompt(self, model: Any) -> None:
        batch = tiny.llava_batch([1])
        with torch.no_grad(), reduced(model) as trim:
            out = model(**batch, use_cache=True)
            model(input_ids=torch.tensor([[7]]), past_key_values=out.past_key_values)
            assert trim.report.tokens_before == tiny.TOKENS


def test_an_image_token_that_was_generated_is_a_word(model: Any) -> None:
    """In a loop of one's own, as for the stock model: only pixels need placeholders."""
    batch = tiny.llava_batch([1])
    word = torch.tensor([[tiny.IMAGE_TOKEN]])
    with torch.no_grad():
        out = model(**batch, use_cache=True)
        model(input_ids=word, **{tiny.CACHE: out.past_key_values})
        with reduced(model):
            out = model(**batch, use_cache=True)
            length = out.past_key_values.get_seq_length()
            mask = torch.ones(1, length + 1, dtype=torch.long)
            model(input_ids=word, attention_mask=mask, past_key_values=out.past_key_values)
            model(input_ids=word, **{tiny.CACHE: out.past_key_values})
            assert out.past_key_values.get_seq_length() == length + 2


@pytest.mark.parametrize("method", ["random", "trim", "fastv"])
def test_an_attachment_goes_with_its_last_reference(model: Any, method: str) -> None:
    """Without the cyclic collector: features and scorers are large."""
    batch = tiny.llava_batch([1])
    options = {"scorer": tiny.ToyScorer(), "query": "what"} if method == "trim" else {}
    gc.collect()
    gc.disable()
    try:
        trim = trimkit.attach(model, method=method, budget=5, **options)
        model.generate(**batch, **GREEDY)
        with torch.no_grad():
            model(**batch)
            model.model(**batch)
        trim.detach()
        gone = weakref.ref(trim), weakref.ref(trim._attached_model.reducer)
        del trim
        assert [each() for each in gone] == [None, None]
    finally:
        gc.enable()


def test_a_model_goes_with_its_last_reference() -> None:
    """What is kept for the next attachment does not keep the model."""
    model = tiny.llava()
    with reduced(model):
        model.generate(**tiny.llava_batch([1]), **GREEDY)
    gone = weakref.ref(model), weakref.ref(model.model)
    del model
    gc.collect()
    assert [each() for each in gone] == [None, None]


def test_threads_that_attach_and_detach_leave_nothing(model: Any) -> None:
    before = set(vars(model)), set(vars(model.model))
    interval = sys.getswitchinterval()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(120):
                trim = reduced(model)
                try:
                    trim.attach()
                except trimkit.ConfigError:
                    continue
                trim.detach()
        except BaseException as error:
            failures.append(error)

    sys.setswitchinterval(1e-6)
    try:
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert failures == []
    assert (set(vars(model)), set(vars(model.model))) == before
