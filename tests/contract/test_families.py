"""What every family must hold: all kept = stock, reduced = built by hand, a batch = its rows, and a real shrinking."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

import trimkit
from tests.contract.by_hand import hand_built, logits_of
from tests.contract.families import FAMILIES, IMAGES_PER_ROW, FamilyCase
from tests.tiny import IMAGE_TOKEN, ToyScorer

GENERATE: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
QUERIES = [f"question {i}" for i in range(len(IMAGES_PER_ROW))]
REDUCTIONS: dict[str, dict[str, Any]] = {
    "trim": {"method": "trim", "scorer": ToyScorer(), "query": QUERIES},
    "top-p": {"method": "trim", "scorer": ToyScorer(), "query": QUERIES, "budget": "top-p:0.97"},
    "random": {"method": "random", "budget": 0.3},
    "most": {"method": "random", "budget": 8},
    "random-no-aggregate": {"method": "random", "budget": 5, "aggregate": "none"},
}


@pytest.fixture(params=sorted(FAMILIES))
def case(request: pytest.FixtureRequest) -> FamilyCase:
    return FAMILIES[request.param]


@pytest.fixture
def model(case: FamilyCase) -> Any:
    return case.build()


@pytest.mark.parametrize("side", ["left", "right"])
def test_keep_all_logits_are_stock(case: FamilyCase, model: Any, side: str) -> None:
    batch = case.batch(side)
    with torch.no_grad():
        expected = model(**batch).logits
        for reduction in (
            {"method": "none"},
            {"method": "random", "budget": 1.0},
            {"method": "random", "budget": 9999},
        ):
            with trimkit.reduce(model, **reduction):
                assert torch.equal(model(**batch).logits, expected)


@pytest.mark.parametrize("beams", [1, 3])
def test_keep_all_tokens_are_stock(case: FamilyCase, model: Any, beams: int) -> None:
    batch = case.batch("left")
    expected = _stock_tokens(case, model, batch, beams)
    with trimkit.reduce(model, method="none"):
        assert torch.equal(model.generate(**batch, **GENERATE, num_beams=beams), expected)


def _stock_tokens(case: FamilyCase, model: Any, batch: dict[str, Tensor], beams: int) -> Tensor:
    if beams == 1 or case.stock_beams:
        return model.generate(**batch, **GENERATE, num_beams=beams)  # type: ignore[no-any-return]
    # Stock generate repeats pooler_output for the beams, and Llama 4's encoder gives none: repeated by hand.
    text = {name: value for name, value in batch.items() if name != "pixel_values"}
    encoded = model.get_image_features(batch["pixel_values"], return_dict=True)
    rows = encoded.last_hidden_state.split(IMAGES_PER_ROW)
    encoded.last_hidden_state = torch.cat([row.repeat(beams, 1, 1) for row in rows])
    return model.generate(**text, mm_encoder_outputs={"image": encoded}, **GENERATE, num_beams=beams)  # type: ignore[no-any-return]


@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_reduced_is_hand_built(case: FamilyCase, model: Any, reduction: str) -> None:
    batch = case.batch("left")
    with torch.no_grad(), trimkit.reduce(model, **REDUCTIONS[reduction]) as trim:
        logits = model(**batch).logits
        report = trim.report
    assert report.tokens_after < report.tokens_before
    with torch.no_grad():
        built = hand_built(case, model, batch, report.images)
        expected = logits_of(case, model, batch, built, report.images)
    real = built["attention_mask"].bool()
    assert logits.shape == expected.shape
    torch.testing.assert_close(logits[real], expected[real], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("reduction", sorted(REDUCTIONS))
def test_a_ragged_batch_is_its_rows(case: FamilyCase, model: Any, reduction: str, beams: int) -> None:
    batch = case.batch("left")
    width = batch["input_ids"].shape[1]
    with trimkit.reduce(model, **REDUCTIONS[reduction]) as trim:
        together = model.generate(**batch, **GENERATE, num_beams=beams)
        assert torch.equal(together[:, :width], batch["input_ids"])
        if reduction == "top-p":
            assert len({image.tokens_after for image in trim.report.images}) > 1, "the batch is not ragged"
        for row in range(len(IMAGES_PER_ROW)):
            one = case.single(batch, row)
            query = [QUERIES[row]] if reduction in ("trim", "top-p") else None
            alone = model.generate(**one, **GENERATE, num_beams=beams, query=query)[0, one["input_ids"].shape[1] :]
            answer = together[row, width:]
            assert answer[: len(alone)].tolist() == alone.tolist()


@pytest.mark.parametrize("side", ["left", "right"])
def test_right_padding_is_repaired(case: FamilyCase, model: Any, side: str) -> None:
    """Ragged rows are padded anew, so that a right-padded batch gives the answers of its rows too."""
    batch = case.batch(side)
    with trimkit.reduce(model, method="random", budget=0.3):
        out = model.generate(**batch, **GENERATE)[:, batch["input_ids"].shape[1] :]
        left = case.batch("left")
        expected = model.generate(**left, **GENERATE)[:, left["input_ids"].shape[1] :]
    assert torch.equal(out, expected)


def test_sequence_and_cache_shrink(case: FamilyCase, model: Any) -> None:
    batch = case.batch("left")
    arguments = {**GENERATE, "return_dict_in_generate": True}
    full = model.generate(**batch, **arguments).past_key_values.get_seq_length()
    with trimkit.reduce(model, method="random", budget=0.25) as trim:
        out = model.generate(**batch, **arguments)
        with torch.no_grad():
            logits = model(**batch).logits
        dropped = trim.report.tokens_before - trim.report.tokens_after
    assert dropped > 0
    assert logits.shape[1] < batch["input_ids"].shape[1]
    assert out.past_key_values.get_seq_length() - full == logits.shape[1] - batch["input_ids"].shape[1]


def test_another_picture_changes_the_logits(case: FamilyCase, model: Any) -> None:
    batch = case.batch("left")
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=6):
        first = model(**batch).logits
        second = model(**case.other_picture(batch)).logits
    assert not torch.allclose(first, second, atol=1e-3)


def test_labels_shrink_with_the_tokens(case: FamilyCase, model: Any) -> None:
    batch: dict[str, Tensor] = case.batch("right")
    labels = batch["input_ids"].masked_fill((batch["input_ids"] == IMAGE_TOKEN) | (batch["attention_mask"] == 0), -100)
    labels[:, 0] = -100  # nothing in the row predicts its first token; left padding would
    with trimkit.reduce(model, method="random", budget=0.3) as trim:
        out = model(**batch, labels=labels)
        out.loss.backward()
        report = trim.report
    gradient = model.get_input_embeddings().weight.grad
    assert gradient is not None
    assert torch.isfinite(gradient).all()
    with torch.no_grad():
        built = hand_built(case, model, batch, report.images, labels)
        predicted = logits_of(case, model, batch, {k: v for k, v in built.items() if k != "labels"}, report.images)
        expected = cross_entropy(predicted[:, :-1].flatten(0, 1), built["labels"][:, 1:].flatten())
    torch.testing.assert_close(out.loss.detach(), expected, rtol=1e-4, atol=1e-4)


def test_decoding_goes_on_as_from_the_hand_built_prompt(case: FamilyCase, model: Any) -> None:
    """Prefill and every step after it, against stock ``generate`` on embeddings and positions made by hand."""
    if "inputs_embeds" not in inspect.signature(model.prepare_inputs_for_generation).parameters:
        pytest.skip("this family's generate takes no embeddings; prefill is tested, and a batch against its rows")
    if case.deeper:
        pytest.skip(
            "generate takes embeddings without deep-stack features; prefill is tested, and a batch against its rows"
        )
    batch = case.batch("left")
    with trimkit.reduce(model, method="random", budget=0.3) as trim:
        out = model.generate(**batch, **GENERATE)[:, batch["input_ids"].shape[1] :]
        images = trim.report.images
    with torch.no_grad():
        built = hand_built(case, model, batch, images)
        if case.positions:
            text = (built["attention_mask"].cumsum(-1) - 1).clamp(min=0)
            built["position_ids"] = torch.cat([text.unsqueeze(0), built["position_ids"]])
        expected = model.generate(**built, **GENERATE)
    assert out.tolist() == expected.tolist()


def test_padding_at_both_ends_keeps_the_last_columns_last(case: FamilyCase, model: Any) -> None:
    """Prompts padded on the left, completions on the right, as in preference training."""
    batch = case.batch("left")
    along = [name for name in ("input_ids", "attention_mask", "mm_token_type_ids", "token_type_ids") if name in batch]
    padded = {**batch, **{name: torch.nn.functional.pad(batch[name], (0, 3)) for name in along}}
    with torch.no_grad(), trimkit.reduce(model, method="random", budget=0.3):
        expected = model(**batch).logits[:, -4:]
        got = model(**padded).logits[:, -7:-3]
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
