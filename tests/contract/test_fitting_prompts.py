"""Prompts that a scorer is fitted along: with everything kept, what the stock model says; with gradients to what is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.contract.families import FAMILIES, FamilyCase
from trimkit.core.types import Selection
from trimkit.errors import UnsupportedError
from trimkit.fitting._attention_read import reading_attention
from trimkit.fitting._prompts import Prompt, answer_logp, kept_embeddings
from trimkit.fitting._teacher import refuse_token_types
from trimkit.models import family_of
from trimkit.pipeline.encoding import encode

TRIED = ("llava", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl")


def one_picture(case: FamilyCase) -> tuple[Any, dict[str, Any]]:
    model = case.build()
    row = case.single(case.batch("left"), 0)
    return model, row


@pytest.mark.parametrize("name", [name for name in TRIED if name in FAMILIES])
def test_everything_kept_is_the_stock_model(name: str) -> None:
    model, inputs = one_picture(FAMILIES[name])
    family = family_of(model)
    with torch.no_grad():
        stock = model(**inputs).logits[0].float().log_softmax(dim=-1)
        taken = family.encoder_arguments(model, inputs)
        image = encode(family, model, taken, None)[0][0]
        ids = inputs["input_ids"][0]
        prompt: Prompt = {"input_ids": ids[:-2], "answer": torch.cat([ids[-2:], ids[:1]])}
        pixels = family.pixels(model)
        prompt |= {f"extra.{key}": value[0] for key, value in taken.items() if key != pixels and len(value) == 1}
        whole = Selection(torch.arange(len(image)), len(image))
        embeddings, kept = kept_embeddings(family, model, [image], [whole])
        found = answer_logp(family, model, [prompt], [whole], embeddings, kept)[0]
    assert torch.allclose(found, stock[-3:], atol=1e-4)


@pytest.mark.parametrize("name", [name for name in TRIED if name in FAMILIES])
def test_gradients_reach_what_is_kept(name: str) -> None:
    model, inputs = one_picture(FAMILIES[name])
    family = family_of(model)
    taken = family.encoder_arguments(model, inputs)
    ids, pixels = inputs["input_ids"][0], family.pixels(model)
    with torch.no_grad():
        image = encode(family, model, taken, None)[0][0]
    prompt: Prompt = {"input_ids": ids, "answer": ids[:2]}
    prompt |= {f"extra.{key}": value[0] for key, value in taken.items() if key != pixels and len(value) == 1}
    some = Selection(torch.arange(0, len(image), 2), len(image))
    embeddings, kept = kept_embeddings(family, model, [image], [some])
    given = embeddings[0].detach().requires_grad_()
    answer_logp(family, model, [prompt], [some], [given], kept)[0].sum().backward()
    assert given.grad is not None
    assert float(given.grad.abs().sum()) > 0.0


def test_a_model_that_reads_in_both_directions_is_refused() -> None:
    model, inputs = one_picture(FAMILIES["paligemma"])
    with pytest.raises(UnsupportedError, match="both directions"):
        refuse_token_types(model, {**inputs, "token_type_ids": torch.zeros_like(inputs["input_ids"])})


def test_attention_is_read_in_passing() -> None:
    model, inputs = one_picture(FAMILIES["llava"])
    family = family_of(model)
    columns = family.places(model, inputs).nonzero()[:, 1][None]
    with torch.no_grad():
        before = model(**inputs).logits
        with reading_attention(model, columns, inputs["input_ids"].shape[1]) as read:
            within = model(**inputs).logits
    assert torch.allclose(before, within, atol=1e-4)
    rows = read.rows(0, 1)
    assert rows.shape == (2, len(model.get_decoder().layers), columns.shape[1])
    assert bool((rows >= 0).all())
    assert bool((rows.sum(dim=-1) <= 1.0 + 1e-4).all())
