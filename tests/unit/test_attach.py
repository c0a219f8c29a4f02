"""Attaching and detaching, and every way of calling stock ``generate`` and ``forward`` while attached."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from transformers import Blip2Config, Blip2ForConditionalGeneration, FuyuConfig, FuyuForCausalLM

import trimkit
from tests import tiny
from tests.tiny import GREEDY
from trimkit.models import family_of


def _is_stock(model: Any) -> bool:
    return not {"generate", "forward"} & set(model.__dict__)


def test_detach_leaves_the_model_as_it_was(model: Any, batch: dict[str, torch.Tensor]) -> None:
    before = model.generate(**batch, **GREEDY)
    trim = trimkit.attach(model, method="random", budget=0.2)
    assert not _is_stock(model)
    reduced = model.generate(**batch, **GREEDY)
    trim.detach()
    trim.detach()
    assert _is_stock(model)
    assert torch.equal(model.generate(**batch, **GREEDY), before)
    assert not torch.equal(reduced, before), "the reduction changes nothing here: the test proves nothing"


def test_a_generate_of_the_users_own_comes_back(model: Any) -> None:
    mine = model.generate
    model.generate = mine
    with trimkit.reduce(model, method="none"):
        assert model.generate is not mine
    assert model.generate is mine


@pytest.mark.parametrize("where", ["scorer", "vision", "language", "prompt"])
def test_hooks_go_after_an_exception(
    model: Any, batch: dict[str, torch.Tensor], where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(tiny.ToyScorer):
        def similarity(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("planted")

    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("planted")

    scorer = Broken() if where == "scorer" else tiny.ToyScorer()
    if where == "vision":
        monkeypatch.setattr(model.model.vision_tower, "forward", fail)
    if where == "language":
        monkeypatch.setattr(model.model.language_model, "forward", fail)
    if where == "prompt":
        batch = {**batch, "input_ids": batch["input_ids"].clamp(max=90)}
    for call in (lambda: model.generate(**batch, **GREEDY), lambda: model(**batch)):
        with (
            pytest.raises(trimkit.InputError if where == "prompt" else RuntimeError),
            trimkit.reduce(model, method="trim", scorer=scorer, query="what"),
        ):
            call()
        assert _is_stock(model)


def test_an_exception_does_not_spoil_the_next_call(model: Any, batch: dict[str, torch.Tensor]) -> None:
    with trimkit.reduce(model, method="random", budget=0.2) as trim:
        expected = model.generate(**batch, **GREEDY)
        stock = model.model.language_model.forward
        model.model.language_model.forward = lambda *a, **k: 1 / 0
        for call in (lambda: model.generate(**batch, **GREEDY), lambda: model(**batch)):
            with pytest.raises(ZeroDivisionError):
                call()
        model.model.language_model.forward = stock
        assert torch.equal(model.generate(**batch, **GREEDY), expected)
        with torch.no_grad():
            shrunk = model(**batch).logits.shape[1]
        assert shrunk < batch["input_ids"].shape[1]
        assert trim.report.seconds.prefill > 0


def test_two_attachments_on_one_model_are_refused(model: Any) -> None:
    with trimkit.reduce(model, method="none"), pytest.raises(trimkit.ConfigError, match="attached already"):
        trimkit.attach(model, method="none")


def test_two_models_do_not_meet(batch: dict[str, torch.Tensor]) -> None:
    first, second = tiny.llava(0), tiny.llava(1)
    stock = second.generate(**batch, **GREEDY)
    with trimkit.reduce(first, method="random", budget=4):
        assert torch.equal(second.generate(**batch, **GREEDY), stock)
        with trimkit.reduce(second, method="random", budget=9) as other:
            second.generate(**batch, **GREEDY)
            assert [image.tokens_after for image in other.report.images] == [9, 9, 9]
        first.generate(**batch, **GREEDY)
    assert torch.equal(second.generate(**batch, **GREEDY), stock)


def test_threads_on_one_model(model: Any) -> None:
    batches = [tiny.llava_batch([1], seed=seed) for seed in range(4)]
    with trimkit.reduce(model, method="random", budget=0.3):
        expected = [model.generate(**one, **GREEDY) for one in batches]
        got: dict[int, torch.Tensor] = {}

        def work(index: int) -> None:
            got[index] = model.generate(**batches[index], **GREEDY)

        threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(torch.equal(got[index], expected[index]) for index in range(4))


def test_second_question_costs_no_vision_pass(model: Any, batch: dict[str, torch.Tensor]) -> None:
    passes = []
    model.model.vision_tower.register_forward_hook(lambda *a: passes.append(1))
    with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer()) as trim:
        model.generate(**batch, **GREEDY, query="first")
        assert len(passes) == 1
        assert not any(image.cached for image in trim.report.images)
        model.generate(**batch, **GREEDY, query="second question")
        assert len(passes) == 1
        assert all(image.cached for image in trim.report.images)
        mixed = {**batch, "pixel_values": batch["pixel_values"].clone()}
        mixed["pixel_values"][1] += 0.5
        with_cache = model.generate(**mixed, **GREEDY, query="first")
        assert [image.cached for image in trim.report.images] == [True, False, True]
        trim.clear_cache()
        assert torch.equal(model.generate(**mixed, **GREEDY, query="first"), with_cache)


def test_features_of_another_precision_are_not_taken(model: Any) -> None:
    batch = tiny.llava_batch([1], seed=4)
    with trimkit.reduce(model, method="random", budget=4) as trim, torch.no_grad():
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model(**batch)
        plain = model(**batch).logits
        assert not trim.report.images[0].cached
    with trimkit.reduce(model, method="random", budget=4, cache_images=0), torch.no_grad():
        assert torch.equal(model(**batch).logits, plain)


@pytest.mark.parametrize("mask", ["4-D", "dict"])
def test_a_mask_that_cannot_be_cut_is_refused(model: Any, mask: str) -> None:
    batch = tiny.llava_batch([1], seed=2)
    length = batch["input_ids"].shape[1]
    causal = torch.tril(torch.ones(1, 1, length, length)).bool()
    batch["attention_mask"] = causal if mask == "4-D" else {"full_attention": causal}  # type: ignore[assignment]
    with (
        trimkit.reduce(model, method="random", budget=4),
        pytest.raises(trimkit.UnsupportedError, match="custom attention mask"),
    ):
        model(**batch)


@pytest.mark.parametrize("query", [5, {"what": "?"}, [1]])
def test_a_query_that_is_no_text_is_refused(model: Any, query: Any) -> None:
    with (
        trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer()),
        pytest.raises(trimkit.InputError, match="query"),
    ):
        model.generate(**tiny.llava_batch([1]), **GREEDY, query=query)


def test_models_that_encode_for_themselves_are_refused() -> None:
    """BLIP-2's generate wants the pixels; Fuyu's forward reads another field."""
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    vision, qformer = {**small, "image_size": 14}, {**small, "encoder_hidden_size": 16}
    text = {"model_type": "opt", **small, "ffn_dim": 16, "word_embed_proj_dim": 16, "vocab_size": 50}
    blip = Blip2ForConditionalGeneration(Blip2Config(vision_config=vision, qformer_config=qformer, text_config=text))
    with pytest.raises(trimkit.UnsupportedError, match="encodes its images itself"):
        trimkit.attach(blip, method="random")
    words = {"model_type": "persimmon", **small, "vocab_size": 50}
    fuyu = FuyuForCausalLM(FuyuConfig(vocab_size=50, patch_size=4, text_config=words, **small))
    with pytest.raises(trimkit.UnsupportedError, match="not covered"):
        trimkit.attach(fuyu, method="random")


def test_as_many_feature_layers_as_pictures(model: Any) -> None:
    arguments = {"pixel_values": tiny.pixels(2), "vision_feature_layer": [-2, -1]}
    family = family_of(model)
    parts = family.split(model, arguments)
    assert [part["vision_feature_layer"] for part in parts] == [[-2, -1]] * 2
    assert all(len(part["pixel_values"]) == 1 for part in parts)
    together, apart = family.encode(model, arguments), family.encode_parts(model, parts)
    assert all(torch.equal(a.features, b.features) for a, b in zip(together, apart, strict=True))


def test_the_cache_is_bounded_and_forgets_on_new_weights(model: Any) -> None:
    with trimkit.reduce(model, method="random", budget=4, cache_images=2) as trim:
        for seed in range(5):
            model.generate(**tiny.llava_batch([1], seed=seed), **GREEDY)
        assert trim.cached_images == 2
        batch = tiny.llava_batch([1], seed=4)
        model.generate(**batch, **GREEDY)
        assert trim.report.images[0].cached
        with torch.no_grad():
            model.model.vision_tower.embeddings.patch_embedding.weight.add_(0.1)
        model.generate(**batch, **GREEDY)
        assert not trim.report.images[0].cached
    with trimkit.reduce(model, method="random", budget=4, cache_images=0) as trim:
        model.generate(**batch, **GREEDY)
        model.generate(**batch, **GREEDY)
        assert not trim.report.images[0].cached


def test_text_only_calls_are_stock(model: Any) -> None:
    text = tiny.llava_batch([0, 0], seed=1)
    expected = model.generate(**text, **GREEDY)
    logits = model(**text).logits
    with trimkit.reduce(model, method="random", budget=0.2):
        assert torch.equal(model.generate(**text, **GREEDY), expected)
        assert torch.equal(model.generate(text["input_ids"], attention_mask=text["attention_mask"], **GREEDY), expected)
        assert torch.equal(model(**text).logits, logits)


def test_positional_inputs(model: Any, batch: dict[str, torch.Tensor]) -> None:
    ids, rest = batch["input_ids"], {k: v for k, v in batch.items() if k != "input_ids"}
    with trimkit.reduce(model, method="random", budget=0.2), torch.no_grad():
        assert torch.equal(model.generate(ids, **rest, **GREEDY), model.generate(**batch, **GREEDY))
        expected = model(**batch).logits
        assert torch.equal(model(ids, batch["pixel_values"], batch["attention_mask"]).logits, expected)


def test_inferred_mask_equals_given(model: Any, batch: dict[str, torch.Tensor]) -> None:
    unmasked = {name: value for name, value in batch.items() if name != "attention_mask"}
    with trimkit.reduce(model, method="random", budget=0.2):
        assert torch.equal(model.generate(**unmasked, **GREEDY), model.generate(**batch, **GREEDY))


def test_training_reduces_and_reaches_the_projector(model: Any, batch: dict[str, torch.Tensor]) -> None:
    model.train()
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == tiny.IMAGE_TOKEN, -100)
    with trimkit.reduce(model, method="trim", scorer=tiny.ToyScorer(), query=["a", "b"]) as trim:
        model(**batch, labels=labels).loss.backward()
        assert trim.report.tokens_after < trim.report.tokens_before
    for part in (model.model.multi_modal_projector.linear_1, model.model.vision_tower.embeddings.patch_embedding):
        assert part.weight.grad is not None
        assert part.weight.grad.abs().sum() > 0
