"""Whoever calls the base model, where pixels enter, is reduced: fused losses, headless models, own loops; or is told."""

from __future__ import annotations

import types
import warnings
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

import trimkit
from tests import tiny

BUDGET = 7
FAMILIES = {"llava": tiny.llava, "llava_next": tiny.llava_next, "qwen2_5_vl": tiny.qwen2_5_vl}


def seen_by(model: Any) -> list[int]:
    """Columns that the language model is given from now on."""
    columns: list[int] = []
    model.get_decoder().register_forward_hook(lambda *call: columns.append(call[-1].last_hidden_state.shape[1]))
    return columns


def batch_with_labels(side: str = "right") -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    batch = tiny.llava_batch([1, 1], seed=3, side=side)
    real = batch["attention_mask"] == 1
    learnt = real & (real.cumsum(1) > 1) & (batch["input_ids"] != tiny.IMAGE_TOKEN)  # nothing stands before the first
    return batch, batch["input_ids"].masked_fill(~learnt, -100)


def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())


def reduced(model: Any, **options: Any) -> trimkit.Attachment:
    return trimkit.reduce(model, method="random", budget=BUDGET, **options)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_fused_loss_is_the_reduced_loss(model: Any, side: str) -> None:
    """A trainer that calls the base model and the head itself, with labels of its own, as TRL does."""
    batch, labels = batch_with_labels(side)
    columns = seen_by(model)
    with torch.no_grad(), reduced(model) as trim:
        expected = model(**batch, labels=labels).loss
        hidden = model.model(**batch).last_hidden_state
    assert hidden.shape[:2] == labels.shape
    assert columns[0] == columns[1] < labels.shape[1]
    assert trim.report.tokens_after == 2 * BUDGET
    torch.testing.assert_close(loss_of(model.lm_head(hidden), labels), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("before", [True, False], ids=["forward-replaced-later", "forward-replaced-before"])
def test_a_forward_that_somebody_replaced(model: Any, before: bool) -> None:
    """Its output is its own business: it gets hidden states as long as the labels, whoever came first."""
    batch, labels = batch_with_labels()
    with torch.no_grad(), reduced(model):
        expected = model(**batch, labels=labels).loss

    def fused(self: Any, labels: Any = None, fuse: bool = False, **kwargs: Any) -> Any:
        if not fuse:
            return type(self).forward(self, labels=labels, **kwargs)
        hidden = self.base_model(**kwargs).last_hidden_state
        return {"loss": loss_of(self.lm_head(hidden), labels), "columns": hidden.shape[1]}

    columns = seen_by(model)
    trim = reduced(model)
    if before:
        trim.attach()
    model.forward = types.MethodType(fused, model)
    if not before:
        trim.attach()
    with torch.no_grad():
        out = model(**batch, labels=labels, fuse=True)
        plain = model(**batch, labels=labels)
    trim.detach()
    assert out["columns"] == labels.shape[1]
    assert all(count < labels.shape[1] for count in columns)
    torch.testing.assert_close(out["loss"], expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain.loss, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_model_without_a_head(name: str) -> None:
    whole = FAMILIES[name]()
    base = whole.model
    batch = _batch_of(name, whole)
    columns = seen_by(whole)
    with torch.no_grad():
        with reduced(whole):
            short = whole(**batch).logits
        assert "forward" not in vars(base)
        with reduced(base) as trim:
            hidden = base(**batch).last_hidden_state
    assert hidden.shape[1] == batch["input_ids"].shape[1]
    assert columns[0] == columns[1] == short.shape[1] < hidden.shape[1]
    assert trim.report.tokens_after < trim.report.tokens_before
    assert set(vars(base)) == set(vars(FAMILIES[name]().model)) | (set(vars(base)) & {"rope_deltas"})
    torch.testing.assert_close(whole.lm_head(hidden[:, -1]), short[:, -1])


def _batch_of(name: str, model: Any) -> dict[str, torch.Tensor]:
    if name == "llava":
        return tiny.llava_batch([1, 1], seed=3)
    if name == "llava_next":
        pixels, sizes = torch.randn(1, 3, 3, 24, 24), torch.tensor([[24, 48]])
        with torch.no_grad():
            (image,) = model.model.get_image_features(pixels, image_sizes=sizes, return_dict=True).pooler_output
        row = [1, 5, *[tiny.IMAGE_TOKEN] * len(image), 8, 9]
        return {**tiny.pad_rows([row]), "pixel_values": pixels, "image_sizes": sizes}
    row = [1, 5, 97, *[tiny.IMAGE_TOKEN] * 8, 96, 8, 9]
    pixels = torch.randn(32, 96, generator=torch.Generator().manual_seed(0))
    return {**tiny.pad_rows([row]), "pixel_values": pixels, "image_grid_thw": torch.tensor([[1, 4, 8]])}


def test_gradients_reach_the_tower_through_the_base_model(model: Any) -> None:
    batch, labels = batch_with_labels()
    with reduced(model, aggregate="mean"):
        loss_of(model.lm_head(model.model(**batch).last_hidden_state), labels).backward()
    tower = model.model.vision_tower
    assert any(weight.grad is not None and bool(weight.grad.abs().sum()) for weight in tower.parameters())


def test_the_questions_of_a_call_reach_the_base_model(model: Any) -> None:
    batch, _ = batch_with_labels()
    with torch.no_grad(), trimkit.reduce(model, method="trim", budget=5, scorer=tiny.ToyScorer()) as trim:
        model.model(**batch, query=["left", "right"])
    assert [image.query for image in trim.report.images] == ["left", "right"]


def test_with_everything_kept_the_base_model_is_stock(model: Any) -> None:
    batch, _ = batch_with_labels()
    with torch.no_grad():
        expected = model.model(**batch).last_hidden_state
        with trimkit.reduce(model, method="none"):
            assert torch.equal(model.model(**batch).last_hidden_state, expected)


def test_inside_generate_and_forward_pictures_are_reduced_once(model: Any) -> None:
    batch = tiny.llava_batch([1], seed=1)
    columns = seen_by(model)
    with torch.no_grad(), reduced(model):
        model(**batch)
        model.generate(**batch, max_new_tokens=2, do_sample=False)
    width = batch["input_ids"].shape[1] - tiny.TOKENS + BUDGET
    assert columns == [width, width, 1]


def test_shift_labels_are_cut_with_the_prompt(model: Any) -> None:
    batch, labels = batch_with_labels()
    shifted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    with torch.no_grad(), reduced(model):
        expected = model(**batch, labels=labels).loss
        found = model(**batch, labels=labels, shift_labels=shifted).loss
    torch.testing.assert_close(found, expected)


def test_what_runs_along_the_prompt_is_cut_with_it(model: Any) -> None:
    batch, _ = batch_with_labels()
    weights = torch.rand(batch["input_ids"].shape)
    prepared = trimkit.prepare(model, None, {**batch, "loss_weights": weights}, method="random", budget=BUDGET)
    given = prepared.inputs
    assert given["loss_weights"].shape == given["input_ids"].shape
    text = ~prepared.placeholders & (given["attention_mask"] == 1)
    whole = (batch["attention_mask"] == 1) & (batch["input_ids"] != tiny.IMAGE_TOKEN)
    assert torch.equal(given["loss_weights"][text], weights[whole])


def _packed(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    width = batch["input_ids"].shape[1]
    return {"input_ids": batch["input_ids"], "pixel_values": batch["pixel_values"], "position_ids": _restart(width)}


def _restart(width: int) -> torch.Tensor:
    return torch.cat([torch.arange(width - 4), torch.arange(4)])[None]


@pytest.mark.parametrize("through", ["forward", "base"])
def test_a_call_that_cannot_be_reduced_is_refused_unless_allowed(model: Any, through: str) -> None:
    batch = _packed(tiny.llava_batch([1], seed=1))
    call = model if through == "forward" else model.model
    columns = seen_by(model)
    with torch.no_grad():
        stock = call(**batch)[0]
        with reduced(model), pytest.raises(trimkit.UnsupportedError, match="packed"):
            call(**batch)
        with reduced(model, on_unreduced="warn") as trim:
            with pytest.warns(UserWarning, match=r"all of its image tokens.*packed"):
                assert torch.equal(call(**batch)[0], stock)
            assert trim.report.images == ()
        with reduced(model, on_unreduced="stock"), warnings.catch_warnings():
            warnings.simplefilter("error")
            assert torch.equal(call(**batch)[0], stock)
    assert columns == [batch["input_ids"].shape[1]] * 3


def test_an_unknown_choice_is_refused(model: Any) -> None:
    with pytest.raises(trimkit.ConfigError, match="on_unreduced='maybe'"):
        reduced(model, on_unreduced="maybe")


def test_nothing_is_left_on_the_base_model(model: Any) -> None:
    before = set(vars(model)), set(vars(model.model))
    with reduced(model):
        assert "forward" in vars(model.model)
    with pytest.raises(RuntimeError, match="ours"), reduced(model):
        raise RuntimeError("ours")
    assert (set(vars(model)), set(vars(model.model))) == before
