"""FastV: what is dropped inside the language model, against layers written out by hand, in every way of calling the model."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import DynamicCache, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, flash_attention_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY, IMAGE_TOKEN, TOKENS
from tests.unit.fastv_by_hand import by_hand, deep_llava
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import get_method

Batch = dict[str, Tensor]
HALF: dict[str, Any] = {"method": "fastv", "layer": 2, "budget": 0.5}
IMAGES = [1, 2, 1]


@pytest.fixture
def model() -> Any:
    return deep_llava()


@pytest.fixture
def one() -> Batch:
    return tiny.llava_batch([1], seed=2)


@pytest.fixture
def batch() -> Batch:
    return tiny.llava_batch(IMAGES, seed=5)


def hooks(model: Any) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


def answers(model: Any, inputs: dict[str, Any], **options: Any) -> list[list[int]]:
    out: Tensor = model.generate(**inputs, **{**GREEDY, **options})
    return out[:, inputs["input_ids"].shape[1] :].tolist()


def singles(batch: Batch) -> list[Batch]:
    return [tiny.single(batch, row, IMAGES) for row in range(len(IMAGES))]


@pytest.mark.parametrize(
    ("kind", "kv_heads", "attention", "layer", "budget"),
    [
        ("llama", 2, "sdpa", 2, 0.5),
        ("llama", 4, "eager", 1, 0.25),
        ("llama", 1, "sdpa", 3, 5),
        ("qwen2", 2, "sdpa", 2, 0.5),
        ("qwen2", 2, "eager", 1, 1),
    ],
)
def test_logits_and_answers_are_those_by_hand(
    kind: str, kv_heads: int, attention: str, layer: int, budget: float
) -> None:
    model = deep_llava(kind, kv_heads=kv_heads, attention=attention)
    for counts in ([1], [2]):
        inputs = tiny.llava_batch(counts, seed=2)
        kept = [get_method("fastv", budget=budget).budget.tokens(TOKENS)] * counts[0]
        expected = by_hand(model, inputs, layer, kept, steps=GREEDY["max_new_tokens"])
        with torch.no_grad(), trimkit.reduce(model, method="fastv", layer=layer, budget=budget) as trim:
            logits = model(**inputs).logits
            images = trim.report.images
            assert answers(model, inputs)[0] == expected.answer
            assert answers(model, inputs, use_cache=False)[0] == expected.answer
        torch.testing.assert_close(logits[0], expected.logits, rtol=1e-4, atol=1e-4)
        assert torch.cat([image.indices + i * TOKENS for i, image in enumerate(images)]).tolist() == expected.kept
        scores = torch.cat([image.scores for image in images if image.scores is not None])
        torch.testing.assert_close(scores, expected.weights, rtol=1e-4, atol=1e-6)
        with torch.no_grad():
            assert (model(**inputs).logits - logits)[:, -1].abs().max() > 0.01, "dropping changed nothing"


def test_later_layers_hold_less(model: Any, one: Batch) -> None:
    width = one["input_ids"].shape[1]
    with trimkit.reduce(model, **HALF) as trim:
        out = model.generate(**one, **GREEDY, return_dict_in_generate=True, output_hidden_states=True)
    new = out.sequences.shape[1] - width
    lengths = [out.past_key_values.get_seq_length(layer) for layer in range(4)]
    assert lengths == [width + new - 1] * 2 + [width + new - 1 - TOKENS // 2] * 2
    assert [states.shape[1] for states in out.hidden_states[0]] == [width] * 3 + [width - TOKENS // 2, width]
    assert (trim.report.tokens_before, trim.report.tokens_after) == (TOKENS, TOKENS // 2)
    image = trim.report.images[0]
    assert image.grid == (6, 6)
    assert trim.report.seconds.select > 0
    assert trim.report.seconds.prefill > 0


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("budget", [0.5, "iqr", "top-p:0.7", "auto"])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_ragged_batch_is_its_rows(attention: str, budget: Any, side: str) -> None:
    model = deep_llava(attention=attention)
    batch = tiny.llava_batch(IMAGES, seed=5, side=side)
    real = batch["attention_mask"].bool()
    with torch.no_grad(), trimkit.reduce(model, method="fastv", layer=2, budget=budget) as trim:
        logits = model(**batch).logits
        together = [image.indices.tolist() for image in trim.report.images]
        generated = answers(model, batch)
        alone = []
        for row, inputs in enumerate(singles(batch)):
            torch.testing.assert_close(model(**inputs).logits[0], logits[row][real[row]], rtol=1e-4, atol=1e-4)
            alone += [image.indices.tolist() for image in trim.report.images]
            assert answers(model, inputs)[0] == generated[row]
    assert together == alone


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("padded", [False, True])
def test_rows_of_one_length_may_keep_different_numbers(attention: str, padded: bool) -> None:
    """What is missing is no padding. Where no row has any, stock sdpa runs without a mask, and the later layers need one."""
    rows = [[1, *[IMAGE_TOKEN] * 36, *range(5, 41), 7, 8], [1, *[IMAGE_TOKEN] * 72, 7, 8]]
    inputs = tiny.pad_rows([*rows, [1, 5, 6]] if padded else rows)
    inputs["pixel_values"] = tiny.pixels(3)
    model = deep_llava(attention=attention)
    with torch.no_grad(), trimkit.reduce(model, **HALF):
        logits, generated = model(**inputs).logits, answers(model, inputs)
        for row, pictures in enumerate(([0], [1, 2])):
            ids = torch.tensor(rows[row : row + 1])
            alone = {"input_ids": ids, "pixel_values": inputs["pixel_values"][pictures]}
            torch.testing.assert_close(model(**alone).logits[0], logits[row], rtol=1e-4, atol=1e-4)
            assert answers(model, {**alone, "attention_mask": torch.ones_like(ids)})[0] == generated[row]


def test_flash_attention_s_masks_are_cut_too(monkeypatch: pytest.MonkeyPatch, batch: Batch) -> None:
    """FlashAttention takes a 2-D mask, or none. A stand-in that reads such masks gives what sdpa gives."""

    def flash_like(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **kwargs: Any) -> Any:
        assert mask is None or mask.shape == (len(key), key.shape[2])
        queries, keys = query.shape[2], key.shape[2]
        seen = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)[None, None]
        seen = seen if mask is None else (seen & mask[:, None, None, :].bool())
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        out = torch.nn.functional.scaled_dot_product_attention(query, key, value, seen, scale=kwargs["scaling"])
        return out.nan_to_num().transpose(1, 2), None

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "my_flash", flash_like)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "my_flash", flash_attention_mask)
    model, flash = deep_llava(), deep_llava()
    flash.model.language_model.config._attn_implementation = "my_flash"
    level = {name: value for name, value in batch.items() if name != "attention_mask"}
    for inputs in (
        batch,
        tiny.llava_batch([1], seed=2),
        {**level, "attention_mask": torch.ones_like(batch["input_ids"])},
    ):
        with torch.no_grad(), trimkit.reduce(model, **HALF), trimkit.reduce(flash, **HALF):
            real = inputs["attention_mask"].bool()
            torch.testing.assert_close(flash(**inputs).logits[real], model(**inputs).logits[real], rtol=1e-4, atol=1e-4)
            assert answers(flash, inputs) == answers(model, inputs)


@pytest.mark.parametrize("budget", [1.0, 1000])
def test_everything_kept_is_the_stock_call(model: Any, batch: Batch, budget: float) -> None:
    with torch.no_grad():
        expected, tokens = model(**batch).logits, answers(model, batch, num_beams=2)
        with trimkit.reduce(model, method="fastv", budget=budget):
            assert torch.equal(model(**batch).logits, expected)
            assert answers(model, batch, num_beams=2) == tokens


@pytest.mark.parametrize("at", [0, 1, 2, 3])
def test_hooks_are_gone_after_an_error(model: Any, one: Batch, at: int) -> None:
    model(**one, output_hidden_states=True)  # transformers installs its own, for good, on first use
    before = hooks(model)

    def fails(*args: Any) -> None:
        raise RuntimeError("on purpose")

    with trimkit.reduce(model, **HALF):
        bad = model.model.language_model.layers[at].mlp.register_forward_pre_hook(fails)
        for call, options in ((model, {}), (model.generate, GREEDY)):
            with pytest.raises(RuntimeError, match="on purpose"):
                call(**one, **options)
            assert hooks(model) == before + 1
        bad.remove()
        model.generate(**one, **GREEDY)
        assert hooks(model) == before
    assert hooks(model) == before


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}])
def test_beams(model: Any, batch: Batch, options: dict[str, Any]) -> None:
    stock = [answers(model, batch, **options, use_cache=cached) for cached in (True, False)]
    with trimkit.reduce(model, **HALF) as trim:
        together = answers(model, batch, **options)
        assert len(trim.report.images) == sum(IMAGES)
        if stock[0] == stock[1]:  # beams without a cache are wrong in stock transformers 5.18
            assert answers(model, batch, **options, use_cache=False) == together
        rows = [row for inputs in singles(batch) for row in answers(model, inputs, **options)]
    assert together == rows


def test_sampling_is_the_distribution_and_can_be_repeated(model: Any, one: Batch) -> None:
    with trimkit.reduce(model, **HALF), torch.no_grad():
        logits = model(**one).logits[:, -1]
        drawn = []
        for _ in range(2):
            torch.manual_seed(3)
            drawn.append(answers(model, one, do_sample=True, top_k=0, num_return_sequences=4))
    assert drawn[0] == drawn[1]
    torch.manual_seed(3)
    first = torch.multinomial(logits.softmax(dim=-1).expand(4, -1), 1)
    assert [row[0] for row in drawn[0]] == first.flatten().tolist()


def test_drafts_of_a_prompt_change_nothing(model: Any, one: Batch) -> None:
    with trimkit.reduce(model, **HALF):
        expected = answers(model, one, max_new_tokens=12)
        assert answers(model, one, max_new_tokens=12, prompt_lookup_num_tokens=3) == expected


def test_a_loop_of_forward_passes(model: Any, batch: Batch) -> None:
    mask = batch["attention_mask"]
    with torch.no_grad(), trimkit.reduce(model, **HALF):
        expected = answers(model, batch)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        out = model(**batch, position_ids=positions, use_cache=True)
        found = [out.logits[:, -1].argmax(dim=-1)]
        for _ in range(2):
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=torch.long)], dim=1)
            positions = positions[:, -1:] + 1
            out = model(
                input_ids=found[-1][:, None],
                attention_mask=mask,
                position_ids=positions,
                past_key_values=out.past_key_values,
            )
            found.append(out.logits[:, -1].argmax(dim=-1))
    assert torch.stack(found, dim=1).tolist() == [row[:3] for row in expected]


def test_new_words_alone_go_on_behind_a_cut_cache(model: Any, one: Batch) -> None:
    quiet = {**GREEDY, "suppress_tokens": [tiny.IMAGE_TOKEN]}
    first = []
    with trimkit.reduce(model, method="fastv", budget=0.3), torch.no_grad():
        for again in (True, False):
            cache = DynamicCache(config=model.config.text_config)
            out = model.generate(**one, **quiet, past_key_values=cache)
            new = torch.cat([out[:, -1:], torch.tensor([[6, 7, 41]])], dim=1)
            mask = torch.ones(1, int(cache.get_seq_length()) + 4, dtype=torch.long)
            given: Any = {"input_ids": new, "attention_mask": mask, "past_key_values": cache}
            first.append(
                int(model.generate(**given, **quiet)[0, 4] if again else model(**given).logits[0, -1].argmax())
            )
    assert first[0] == first[1]


def test_a_conversation_on_one_cache_is_asked_anew(model: Any, one: Batch) -> None:
    with trimkit.reduce(model, **HALF) as trim:
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**one, **GREEDY, past_key_values=cache)
        ids = torch.cat([out, torch.tensor([[6, 7, 41]])], dim=1)
        later = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        answer = answers(model, later, past_key_values=cache)
        assert trim.report.reused == 0
        assert trim.report.tokens_after == TOKENS // 2
        assert answer == answers(model, {**later, "pixel_values": one["pixel_values"]})


def test_training(model: Any, one: Batch) -> None:
    """Logits have the length of the labels, what ranks is the last token before the answer, and gradients flow."""
    ids = torch.cat([one["input_ids"], torch.tensor([[11, 12, 13]])], dim=1)
    labels = torch.full_like(ids, -100)
    labels[:, -3:] = ids[:, -3:]
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": one["pixel_values"]}
    with trimkit.reduce(model, **HALF) as trim:
        model(**one)
        expected = trim.report.images[0].indices
        model.train()
        out = model(**inputs, labels=labels)
        out.loss.backward()
        assert torch.equal(trim.report.images[0].indices, expected)
        torch.testing.assert_close(out.loss, cross_entropy(out.logits[0, -4:-1], ids[0, -3:]))
        assert model.model.language_model.layers[0].self_attn.q_proj.weight.grad.abs().sum() > 0
        for module in model.model.language_model.modules():
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = True
        with pytest.raises(UnsupportedError, match="gradient checkpointing"):
            model(**inputs, labels=labels)


@pytest.mark.parametrize("aggregate", ["mean", "weighted"])
def test_one_token_for_the_rest(model: Any, batch: Batch, aggregate: str) -> None:
    seen: list[Tensor] = []
    layers = model.model.language_model.layers
    with torch.no_grad(), trimkit.reduce(model, **HALF, aggregate=aggregate) as trim:
        handles = [layers[1].register_forward_hook(lambda m, a, out: seen.append(out))]
        handles += [layers[2].mlp.register_forward_pre_hook(lambda m, a: seen.append(a[0]))]
        model(**tiny.llava_batch([1], seed=2))
        image = trim.report.images[0]
        for handle in handles:
            handle.remove()
        assert image.aggregated
        assert image.tokens_after == TOKENS // 2
        assert len(image.indices) == TOKENS // 2 - 1
        assert answers(model, batch) == [answers(model, inputs)[0] for inputs in singles(batch)]
    assert seen[0].shape[1] - seen[1].shape[1] == TOKENS // 2


def test_the_mean_is_that_of_hidden_states(one: Batch) -> None:
    """With a budget of 2 and a second layer that is the last, by hand: one kept, one mean in the middle of the rest."""
    model = deep_llava(layers=2)
    text = model.model.language_model
    with torch.no_grad(), trimkit.reduce(model, method="fastv", layer=1, budget=2, aggregate="mean") as trim:
        caught: list[Tensor] = []
        handle = text.layers[1].input_layernorm.register_forward_pre_hook(lambda m, a: caught.append(a[0]))
        states = model(**one, output_hidden_states=True).hidden_states[1]
        handle.remove()
    places = (one["input_ids"][0] == IMAGE_TOKEN).nonzero().squeeze(1)
    kept = int(trim.report.images[0].indices)
    rest = [int(place) for i, place in enumerate(places) if i != kept]
    mean = states[0, rest].mean(dim=0)
    middle = rest[len(rest) // 2]
    columns = sorted([*(set(range(states.shape[1])) - set(places.tolist())), int(places[kept]), middle])
    expected = torch.stack([mean if column == middle else states[0, column] for column in columns])
    torch.testing.assert_close(caught[0][0], expected)


def test_images_of_a_prompt_may_share_the_budget(model: Any) -> None:
    inputs = tiny.llava_batch([2], seed=2)
    with trimkit.reduce(model, method="fastv", budget=0.25, share="prompt") as trim:
        model.generate(**inputs, **GREEDY)
        counts = [image.tokens_after for image in trim.report.images]
    assert sum(counts) == TOKENS // 2
    assert 1 <= min(counts) < TOKENS // 4, "as if each image had a budget of its own"


def test_two_threads_do_not_meet(model: Any, one: Batch) -> None:
    other = tiny.llava_batch([2], seed=8)
    with trimkit.reduce(model, **HALF) as trim:
        expected = [answers(model, each) for each in (one, other)]
        found: dict[int, Any] = {}

        def ask(number: int, inputs: Batch) -> None:
            replies = [answers(model, inputs) for _ in range(6)]
            found[number] = replies, len(trim.report.images)

        threads = [threading.Thread(target=ask, args=pair) for pair in enumerate((one, other))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [found[i] for i in range(2)] == [([expected[i]] * 6, i + 1) for i in range(2)]


def test_a_compiled_model_runs_it_uncompiled(model: Any, one: Batch) -> None:
    with torch.no_grad():
        with trimkit.reduce(model, **HALF):
            expected, tokens = model(**one).logits, answers(model, one)
        with trimkit.reduce(model, **HALF):
            compiled = torch.compile(model, backend="eager")
            assert torch.equal(compiled(**one).logits, expected)
            assert answers(compiled, one) == tokens


class TestRefusals:
    """One line that says what cannot be, and hooks are gone."""

    def test_a_cache_of_one_length(self, model: Any, one: Batch) -> None:
        model(**one, output_hidden_states=True)
        before = hooks(model)
        cache = StaticCache(config=model.config.text_config, max_cache_len=128)
        with trimkit.reduce(model, **HALF):
            for options in ({"cache_implementation": "static", "disable_compile": True}, {"past_key_values": cache}):
                with pytest.raises(UnsupportedError, match="layers differ in length"):
                    model.generate(**one, **GREEDY, **options)
        assert hooks(model) == before

    def test_a_prompt_in_parts(self, model: Any, one: Batch) -> None:
        with trimkit.reduce(model, **HALF), pytest.raises(UnsupportedError, match="prefill_chunk_size"):
            model.generate(**one, **GREEDY, prefill_chunk_size=8)

    @pytest.mark.parametrize("layer", [4, 40])
    def test_a_layer_that_is_not_there(self, model: Any, layer: int) -> None:
        with pytest.raises(ConfigError, match=f"layer {layer} is behind the last of .* 4 layers: give 1 to 3"):
            trimkit.reduce(model, method="fastv", layer=layer)

    @pytest.mark.parametrize("layer", [0, -1])
    def test_a_layer_before_the_first(self, layer: int) -> None:
        with pytest.raises(ConfigError, match="one layer at least"):
            get_method("fastv", layer=layer)

    def test_options_of_other_methods(self, model: Any) -> None:
        for options in ({"positions": "contiguous"}, {"turns": "first"}):
            with pytest.raises(ConfigError, match="leave positions= and turns= out"):
                trimkit.reduce(model, **HALF, **options)

    def test_a_window(self, model: Any) -> None:
        model.model.language_model.config.layer_types = ["sliding_attention"] * 4
        with pytest.raises(UnsupportedError, match="see a window"):
            trimkit.reduce(model, **HALF)

    def test_a_mask_of_one_s_own(self, model: Any, one: Batch) -> None:
        width = one["input_ids"].shape[1]
        with trimkit.reduce(model, **HALF), pytest.raises(UnsupportedError, match="2-D"):
            model(**{**one, "attention_mask": torch.ones(1, 1, width, width)})


def test_the_paper_s_layer_or_the_last_but_one() -> None:
    method = get_method("fastv")
    assert [method.first_short_layer(n) for n in (2, 3, 4, 32)] == [1, 2, 2, 2]
    assert get_method("fastv", layer=7).first_short_layer(32) == 7


def test_features_and_prompts_alone_do_not_rank() -> None:
    from trimkit.core.types import EncoderProfile, TokenBatch

    batch = TokenBatch(torch.zeros(1, 4, 2), torch.ones(1, 4, dtype=torch.bool), None, EncoderProfile(), (None,), ("",))
    with pytest.raises(ConfigError, match=r"within trimkit\.reduce"):
        get_method("fastv").select(batch)


REFUSED = {
    **dict.fromkeys(("aya_vision", "cohere2_vision", "gemma3", "mistral3"), "see a window"),
    "lfm2_vl": "self_attn",
    "llama4": "self_attn",
    "qwen3_vl": "adds image features",
}


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_families(name: str) -> None:
    """With a cache as without, in beams too; where the language model cannot, one line says so."""
    case = FAMILIES[name]
    model, batch = case.build(), case.batch("left")
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [IMAGE_TOKEN, 98]  # without a cache they would be taken for placeholders
    options: dict[str, Any] = {"method": "fastv", "layer": 1, "budget": 0.5}
    if name in REFUSED:
        with pytest.raises(UnsupportedError, match=REFUSED[name]), trimkit.reduce(model, **options):
            model(**batch)
        return
    with torch.no_grad(), trimkit.reduce(model, **options) as trim:
        logits = model(**batch).logits
        assert trim.report.tokens_after < trim.report.tokens_before
        together = answers(model, batch)
        assert answers(model, batch, use_cache=False) == together
        first = case.single(batch, 0)
        real = batch["attention_mask"][0].bool()
        torch.testing.assert_close(model(**first).logits[0], logits[0][real], rtol=1e-4, atol=1e-4)
        assert answers(model, first)[0] == together[0]
    with torch.no_grad():
        assert not torch.allclose(model(**batch).logits[:, -1], logits[:, -1], atol=1e-3)


def test_behind_deep_stack_features(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3-VL adds image features to all image columns of its first layers; behind those they may go."""
    monkeypatch.setitem(tiny.TEXT, "num_hidden_layers", 4)
    case = FAMILIES["qwen3_vl"]
    model, batch = case.build(), case.batch("left")
    model.generation_config.eos_token_id = None
    with torch.no_grad(), trimkit.reduce(model, **HALF) as trim:
        together = answers(model, batch)
        assert trim.report.tokens_after <= trim.report.tokens_before // 2 + 2
        assert answers(model, case.single(batch, 0))[0] == together[0]
    with pytest.raises(UnsupportedError, match="give layer=2 or more"), trimkit.reduce(model, method="fastv", layer=1):
        model(**batch)


def test_the_demo_model_answers() -> None:
    from trimkit.ask import ask
    from trimkit.demo import load_demo, sample_images
    from trimkit.images import load_image

    model, processor = load_demo()
    sample = next(iter(sample_images().values()))
    answer = ask(model, processor, load_image(sample.path), sample.question, method="fastv", budget=0.5)
    assert answer.answer.lower().strip(" .") == sample.answer.lower().strip(" .")
    assert (answer.image_tokens_full, answer.image_tokens_kept) == (576, 288)
