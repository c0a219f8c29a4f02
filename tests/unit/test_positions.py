"""Numbering of kept tokens: contiguous, or each its place in the full prompt."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY, IMAGE_TOKEN


@pytest.mark.parametrize("name", ["llava", "paligemma", "gemma3"])
def test_original_positions_are_those_of_the_full_prompt(name: str) -> None:
    case = FAMILIES[name]
    model = case.build()
    inputs = case.single(case.batch("left"), 0)
    with (
        torch.no_grad(),
        trimkit.reduce(model, method="random", budget=4, aggregate="none", positions="original") as trim,
    ):
        got = model(**inputs).logits
        (image,) = trim.report.images
        answer = model.generate(**inputs, **GREEDY)
    # By hand: the same columns of the embedded full prompt, at their own positions.
    placeholders = (inputs["input_ids"][0] == IMAGE_TOKEN).nonzero().squeeze(1)
    columns = (inputs["input_ids"][0] != IMAGE_TOKEN).nonzero().squeeze(1)
    columns = torch.cat([columns, placeholders[image.indices]]).sort().values
    first = int(name == "paligemma")
    mapped = {k: v[:, columns] for k, v in inputs.items() if v.shape[:2] == inputs["input_ids"].shape}
    features, project = case.features(model, inputs)
    embeds = model.get_input_embeddings()(mapped.pop("input_ids"))
    at = torch.isin(columns, placeholders)
    with torch.no_grad():
        embeds[0, at] = project(features[0][image.indices])
        expected = model(inputs_embeds=embeds, **mapped, position_ids=columns[None] + first).logits
        contiguous = model(inputs_embeds=embeds, **mapped).logits
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(got, contiguous, atol=1e-4)
    assert answer[0, inputs["input_ids"].shape[1]] == expected[0, -1].argmax()


def test_decoding_goes_on_from_the_original_length(model: Any) -> None:
    inputs = tiny.llava_batch([1], seed=2)
    seen: list[torch.Tensor] = []
    language = model.model.language_model
    hook = language.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["position_ids"]), with_kwargs=True
    )
    with trimkit.reduce(model, method="random", budget=4, positions="original"):
        model.generate(**inputs, **GREEDY)
    hook.remove()
    length = inputs["input_ids"].shape[1]
    assert seen[0].shape[1] < length
    assert [int(each[0, -1]) for each in seen[:3]] == [length - 1, length, length + 1]


def test_m_rope_is_always_original() -> None:
    with pytest.raises(trimkit.UnsupportedError, match="M-RoPE"):
        trimkit.reduce(tiny.qwen2_5_vl(), method="random", positions="contiguous")
    with pytest.raises(trimkit.ConfigError, match="auto, contiguous, original"):
        trimkit.reduce(tiny.qwen2_5_vl(), method="random", positions="odd")  # type: ignore[arg-type]
