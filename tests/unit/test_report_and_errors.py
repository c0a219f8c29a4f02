"""What is reported, and what is refused with one line."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.tiny import GREEDY


def test_report(model: Any, batch: dict[str, torch.Tensor]) -> None:
    trim = trimkit.attach(model, method="trim", scorer=tiny.ToyScorer(), query=["left", "right"])
    with pytest.raises(trimkit.ConfigError, match="no report yet"):
        _ = trim.report
    model.generate(**batch, **GREEDY)
    report = trim.report
    assert [image.row for image in report.images] == [0, 1, 1]
    assert [image.query for image in report.images] == ["left", "right", "right"]
    assert report.tokens_before == 3 * tiny.TOKENS
    assert 0 < report.removed < 1
    for image in report.images:
        assert image.grid == (tiny.SIDE, tiny.SIDE)
        assert image.tokens_after == len(image.indices) + 1
        assert image.indices.tolist() == sorted(set(image.indices.tolist()))
        assert image.relevance is not None
        assert image.relevance.shape == (tiny.TOKENS,)
        kept = image.relevance[image.indices]
        assert kept.min() >= image.relevance.sort(descending=True).values[len(image.indices) - 1]
    seconds = report.seconds
    assert min(seconds.vision, seconds.select, seconds.project, seconds.prefill) > 0


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"method": "trim"}, trimkit.ConfigError, "needs a text scorer"),
        ({"method": "trim", "scorer": tiny.ToyScorer()}, trimkit.ConfigError, "pass the model's processor"),
        ({"method": "trim", "scorer": tiny.ToyScorer(), "query": ["one"]}, trimkit.InputError, "1 entries for 2 rows"),
        ({"method": "trim", "scorer": 3.5, "query": "q"}, trimkit.ConfigError, "not a Scorer"),
    ],
)
def test_errors_are_one_line(
    model: Any, batch: dict[str, torch.Tensor], change: dict[str, Any], error: type[Exception], words: str
) -> None:
    with trimkit.reduce(model, **change), pytest.raises(error, match=words) as caught:
        model.generate(**batch, **GREEDY)
    assert "\n" not in str(caught.value)


def test_calls_that_cannot_be_reduced(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with trimkit.reduce(model, method="random", budget=0.2):
        with pytest.raises(trimkit.UnsupportedError, match="input_ids"):
            model(inputs_embeds=torch.zeros(1, 4, 32), pixel_values=batch["pixel_values"])
        packed = torch.arange(batch["input_ids"].shape[1]).remainder(20).expand(2, -1)
        with pytest.raises(trimkit.UnsupportedError, match="packed"):
            model(**batch, position_ids=packed)
        cache = model(**batch, use_cache=True).past_key_values
        text_turn = {name: batch[name] for name in ("input_ids", "attention_mask")}
        for turn in (batch, text_turn):
            with pytest.raises(trimkit.InputError, match="new cache"):
                model.generate(**turn, **GREEDY, past_key_values=cache)
    with pytest.raises(trimkit.ConfigError, match="negative"):
        trimkit.attach(model, cache_images=-1)
    with pytest.raises(trimkit.UnsupportedError, match="not a transformers model"):
        trimkit.attach(torch.nn.Linear(2, 2))


def test_a_text_model_is_refused() -> None:
    from transformers import LlamaForCausalLM

    model = LlamaForCausalLM(tiny._text())
    with pytest.raises(trimkit.UnsupportedError, match="not a vision-language model"):
        trimkit.attach(model)


def test_an_old_transformers_is_refused(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("transformers.__version__", "4.57.1")
    with pytest.raises(trimkit.UnsupportedError, match="too old"):
        trimkit.attach(model)
