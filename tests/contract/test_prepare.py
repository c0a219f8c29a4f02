"""``prepare`` and a stock call are an attached call, on every family: the same tokens, the same logits, nothing left behind."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import trimkit
from tests.contract.families import FAMILIES, IMAGES_PER_ROW, FamilyCase
from tests.contract.method_checks import hooks
from tests.tiny import ToyScorer
from trimkit import ReducedInputs
from trimkit.models import family_of

GENERATE: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
QUERIES = [f"question {i}" for i in range(len(IMAGES_PER_ROW))]
REDUCTIONS: dict[str, dict[str, Any]] = {
    "count": {"method": "random", "budget": 5},
    "text": {"method": "trim", "scorer": ToyScorer(), "query": QUERIES, "budget": "top-p:0.97"},
    "merging": {"method": "avg-pool", "budget": 0.3, "aggregate": "mean"},
    "none": {"method": "none"},
}


@pytest.fixture(params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest) -> FamilyCase:
    return FAMILIES[request.param]


@pytest.fixture
def model(case: FamilyCase) -> Any:
    return case.build()


def prepared(model: Any, batch: dict[str, Any], reduction: str, **options: Any) -> ReducedInputs:
    with torch.no_grad():
        return trimkit.prepare(model, None, batch, **REDUCTIONS[reduction], **options)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_prepared_generate_is_attached_generate(case: FamilyCase, model: Any, reduction: str, beams: int) -> None:
    batch = case.batch("left")
    with trimkit.reduce(model, **REDUCTIONS[reduction]):
        expected = model.generate(**batch, **GENERATE, num_beams=beams)[:, batch["input_ids"].shape[1] :]
    reduced = prepared(model, batch, reduction)
    assert reduced.report.tokens_after < reduced.report.tokens_before or reduction == "none"
    inputs = reduced.inputs
    out = model.generate(**inputs, **GENERATE, num_beams=beams)
    assert out[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


def test_right_padding_is_repaired_for_generate(case: FamilyCase, model: Any) -> None:
    batch = case.batch("right")
    with trimkit.reduce(model, **REDUCTIONS["count"]):
        expected = model.generate(**batch, **GENERATE)[:, batch["input_ids"].shape[1] :]
    inputs = prepared(model, batch, "count").inputs
    assert bool(inputs["attention_mask"][:, -1].all())
    assert model.generate(**inputs, **GENERATE)[:, inputs["input_ids"].shape[1] :].tolist() == expected.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_prepared_forward_is_attached_forward(case: FamilyCase, model: Any, reduction: str, side: str) -> None:
    batch = case.batch(side)
    with torch.no_grad(), trimkit.reduce(model, **REDUCTIONS[reduction]):
        expected = model(**batch).logits
    with torch.no_grad():
        logits = model(**prepared(model, batch, reduction, generating=False).inputs).logits
    assert torch.equal(logits, expected)


def test_prepare_leaves_nothing_on_the_model(case: FamilyCase, model: Any) -> None:
    """No shadow, no hook, no attribute; ``rope_deltas`` is what the stock call would leave, too."""
    batch = case.batch("left")
    with torch.no_grad():
        stock = model(**batch).logits  # transformers sets up its own hooks in the first call
    before = state_of(model)
    prepared(model, batch, "text")
    assert state_of(model) == before
    with torch.no_grad():
        assert torch.equal(model(**batch).logits, stock)


def test_another_call_in_between_does_not_matter(case: FamilyCase, model: Any) -> None:
    batch = case.batch("left")
    inputs = prepared(model, batch, "count").inputs
    expected = model.generate(**inputs, **GENERATE)
    inputs = prepared(model, batch, "count").inputs
    model.generate(**case.single(batch, 1), **GENERATE)
    assert torch.equal(model.generate(**inputs, **GENERATE), expected)


def test_one_request_may_be_run_twice(case: FamilyCase, model: Any) -> None:
    """With beams, ``generate`` repeats the encoded images in place."""
    reduced = prepared(model, case.batch("left"), "count")
    first = model.generate(**reduced.inputs, **GENERATE, num_beams=3)
    assert torch.equal(model.generate(**reduced.inputs, **GENERATE, num_beams=3), first)


def state_of(model: Any) -> list[tuple[str, int, set[str]]]:
    """Hooks and attributes of every module."""
    return [(name, hooks(module), set(vars(module))) for name, module in model.named_modules()]


def test_records_are_what_stands_at_the_placeholders(case: FamilyCase, model: Any) -> None:
    """Handed over as one record an image or as the container of ``inputs``: the same embeddings and deeper layers."""
    reduced = prepared(model, case.batch("left"), "count")
    given = reduced.inputs["mm_encoder_outputs"]["image"]
    assert len(reduced.images) == len(given.pooler_output)
    inside = family_of(model).projects_inside  # its forward projects what is handed over
    for i, image in enumerate(reduced.images):
        assert torch.equal(image.tokens.features if inside else image.embeddings, given.pooler_output[i])
        assert len(image) == len(image.columns) == int(image.positions.shape[-1])
        assert bool(reduced.placeholders[image.row, image.columns].all())
        assert len(image.layers) == len(given.deepstack_features or ())
        for layer, deeper in zip(image.layers, given.deepstack_features or (), strict=True):
            assert torch.equal(layer, deeper[i])
    assert sum(map(len, reduced.images)) == int(reduced.placeholders.sum())
