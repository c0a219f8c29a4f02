"""Methods that drop tokens at several layers of the language model, against layers written out by hand, in every way of use."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from tests.contract.families import FAMILIES
from tests.tiny import GREEDY, IMAGE_TOKEN, TOKENS
from tests.unit.fastv_by_hand import deep_llava
from tests.unit.stages_by_hand import by_hand, pyramiddrop, sparsevlm, sparsevlm_plus
from tests.unit.stages_by_hand import density_peaks as by_loops
from tests.unit.test_fastv import REFUSED, answers, hooks, singles
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import get_method
from trimkit.methods.sparsevlm import density_peaks

Batch = dict[str, Tensor]
LAYERS = (1, 3, 4)
METHODS: dict[str, dict[str, Any]] = {
    "pyramiddrop": {"method": "pyramiddrop", "layers": LAYERS, "budget": 0.125},
    "sparsevlm": {"method": "sparsevlm", "layers": LAYERS, "budget": 12},
    "sparsevlm-plus": {"method": "sparsevlm-plus", "layers": LAYERS, "budget": 12},
}
IMAGES = [1, 2, 1]


@pytest.fixture(params=METHODS)
def options(request: pytest.FixtureRequest) -> dict[str, Any]:
    return METHODS[request.param]


def counts(options: dict[str, Any]) -> list[int]:
    """What each cut leaves of the tiny image, clusters not counted."""
    method = get_method(**options)
    found, now = [], TOKENS
    for stage in range(len(LAYERS)):
        found.append(method.left(stage, TOKENS, now))
        now = method.after(stage, TOKENS, now)
    return found


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("renumber", [True, False])
def test_pyramiddrop_is_that_by_hand(attention: str, renumber: bool) -> None:
    model, one = deep_llava(layers=5, attention=attention), tiny.llava_batch([1], seed=2)
    options = {**METHODS["pyramiddrop"], "renumber": renumber}
    expected = [18, 9, 4]
    assert counts(options) == expected
    cuts = {layer: pyramiddrop(count) for layer, count in zip(LAYERS, expected, strict=True)}
    _check(model, one, options, cuts, renumber=renumber)


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("recycle", [True, False])
def test_sparsevlm_is_that_by_hand(kind: str, recycle: bool) -> None:
    model, one = deep_llava(kind, layers=5), tiny.llava_batch([1], seed=2)
    options = {**METHODS["sparsevlm"], "recycle": recycle}
    cuts = {layer: sparsevlm(count, clusters=recycle) for layer, count in zip(LAYERS, counts(options), strict=True)}
    _check(model, one, options, cuts, renumber=True)


def test_sparsevlm_plus_is_that_by_hand() -> None:
    """One layer for all three stages: the last stage's count, at one cut."""
    model, one = deep_llava(layers=5), tiny.llava_batch([1], seed=2)
    options = {"method": "sparsevlm-plus", "layers": (2, 2, 2), "budget": 24, "heads": 2}
    head_dim = model.model.language_model.layers[0].self_attn.head_dim
    cuts = {2: sparsevlm_plus(get_method(**options).left(2, TOKENS, TOKENS), head_dim, 2)}
    _check(model, one, options, cuts, renumber=False)


def test_a_ragged_batch_is_its_rows(options: dict[str, Any]) -> None:
    model, batch = deep_llava(layers=5), tiny.llava_batch(IMAGES, seed=5)
    real = batch["attention_mask"].bool()
    with torch.no_grad(), trimkit.reduce(model, **options) as trim:
        logits = model(**batch).logits
        together = [image.indices.tolist() for image in trim.report.images]
        generated, alone = answers(model, batch), []
        for row, inputs in enumerate(singles(batch)):
            assert (model(**inputs).logits[0, -1] - logits[row][real[row]][-1]).abs().max() < 1e-4
            alone += [image.indices.tolist() for image in trim.report.images]
            assert answers(model, inputs)[0] == generated[row]
        assert answers(model, batch, use_cache=False) == generated
    assert together == alone


def test_beams_and_a_loop_of_forward_passes(options: dict[str, Any]) -> None:
    model, one = deep_llava(layers=5), tiny.llava_batch([1], seed=2)
    with torch.no_grad(), trimkit.reduce(model, **options):
        assert answers(model, one, num_beams=1) == answers(model, one)
        both = tiny.llava_batch([1, 1], seed=2)
        beams = answers(model, both, num_beams=3)
        rows = [answers(model, tiny.single(both, row, [1, 1]), num_beams=3)[0] for row in range(2)]
        assert beams == rows
        expected = answers(model, one)[0]
        out, mask, found = model(**one, use_cache=True), one["attention_mask"], list[int]()
        for _ in range(3):
            found.append(int(out.logits[0, -1].argmax()))
            mask = torch.cat([mask, torch.ones(1, 1, dtype=torch.long)], dim=1)
            given: Any = {"input_ids": torch.tensor([found[-1:]]), tiny.CACHE: out.past_key_values}
            out = model(**given, attention_mask=mask, position_ids=mask.sum(dim=1, keepdim=True) - 1)
    assert found == expected[:3]


def test_everything_kept_is_the_stock_call_and_hooks_are_gone(options: dict[str, Any]) -> None:
    model, batch = deep_llava(layers=5), tiny.llava_batch(IMAGES, seed=5)
    with torch.no_grad():
        expected = model(**batch, output_hidden_states=True).logits
        before = hooks(model)
        for budget in (1.0, 1000):
            with trimkit.reduce(model, **{**options, "budget": budget}):
                assert torch.equal(model(**batch).logits, expected)
    bad = model.model.language_model.layers[3].mlp.register_forward_pre_hook(_fail)
    with trimkit.reduce(model, **options), pytest.raises(ZeroDivisionError):
        model(**batch)
    bad.remove()
    assert hooks(model) == before


def _fail(*args: Any) -> None:
    raise ZeroDivisionError


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_families(name: str) -> None:
    """Where FastV works, they do: with a cache as without. Models with 3-D positions keep them."""
    case = FAMILIES[name]
    model, batch = case.build(), case.batch("left")
    model.generation_config.eos_token_id = None
    model.generation_config.suppress_tokens = [IMAGE_TOKEN, 98]  # without a cache they would be taken for placeholders
    for method in METHODS:
        if name in REFUSED:
            with pytest.raises(UnsupportedError, match=REFUSED[name]), trimkit.reduce(model, method=method, budget=2):
                model(**batch)
            continue
        with torch.no_grad(), trimkit.reduce(model, method=method, budget=2) as trim:
            together = answers(model, batch)
            assert trim.report.tokens_after < trim.report.tokens_before
            assert answers(model, batch, use_cache=False) == together
            assert answers(model, case.single(batch, 0))[0] == together[0]


@pytest.mark.parametrize("count", [1, 3, 6])
def test_clusters_are_those_by_hand(count: int) -> None:
    """Three clouds of tokens. The tiny picture above is dropped into one cluster at most."""
    generator = torch.Generator().manual_seed(count)
    clouds = 3 * torch.randn(3, 8, generator=generator)
    states = clouds.repeat_interleave(9, dim=0) + torch.randn(27, 8, generator=generator)
    groups = density_peaks(states, count)
    assert [(groups == c).nonzero().squeeze(1).tolist() for c in range(count)] == by_loops(states, count)


def test_layers_by_depth() -> None:
    assert get_method("pyramiddrop").cuts(32) == (8, 16, 24) == get_method("pyramiddrop").cuts(40)
    assert get_method("pyramiddrop").cuts(4) == (1, 2, 3)
    assert get_method("sparsevlm").cuts(32) == (3, 7, 16)
    assert get_method("sparsevlm").cuts(2) == (1, 1, 1)


def test_counts_of_the_published_tables() -> None:
    """Exactly those of 576 tokens; of others in proportion, and between the rows of the table."""
    for name, rows in {
        "sparsevlm": {192: (300, 200, 110), 128: (303, 110, 36), 96: (238, 48, 26), 64: (66, 30, 17)},
        "sparsevlm-plus": {192: (300, 200, 118), 128: (238, 108, 60), 96: (246, 54, 28), 64: (66, 34, 20)},
    }.items():
        for budget, expected in rows.items():
            method = get_method(name, budget=budget)
            assert tuple(method.left(stage, 576, 576) for stage in range(3)) == expected
            assert get_method(name, budget=budget // 2).left(2, 288, 288) == round(expected[2] / 2)
        assert get_method(name, budget=80).left(0, 576, 576) in (152, 156)
    assert [get_method("pyramiddrop").left(stage, 576, 576) for stage in range(3)] == [288, 144, 72]


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("pyramiddrop", {"budget": "iqr"}, "needs a fixed budget"),
        ("pyramiddrop", {"aggregate": "mean"}, "makes no aggregated token"),
        ("pyramiddrop", {"ratios": (0.5, 0.25)}, "2 ratios for 3 layers"),
        ("pyramiddrop", {"ratios": (0.25, 0.5, 0.1)}, "not falling shares"),
        ("pyramiddrop", {"ratios": (0.5, 0.25, 0.1), "budget": 0.1}, "not both"),
        ("sparsevlm", {"layers": (3, 7)}, "cuts at 3 layers"),
    ],
)
def test_options_that_cannot_be(name: str, options: dict[str, Any], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        get_method(name, **options)


@pytest.mark.parametrize(
    ("layers", "match"), [((0, 2, 3), "one layer at least"), ((2, 1, 3), "ascending"), ((1, 2, 9), "behind")]
)
def test_layers_that_are_not_there(layers: tuple[int, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        trimkit.reduce(deep_llava(layers=5), method="pyramiddrop", layers=layers)


def _check(model: Any, one: Batch, options: dict[str, Any], cuts: dict[int, Any], *, renumber: bool) -> None:
    """Logits, answers with and without a cache, and lengths of what each layer sees and holds."""
    expected = by_hand(model, one, cuts, renumber=renumber, steps=GREEDY["max_new_tokens"])
    lengths: list[int] = []
    layers = model.model.language_model.layers
    with torch.no_grad(), trimkit.reduce(model, **options) as trim:
        handles = [layer.mlp.register_forward_pre_hook(lambda m, a: lengths.append(a[0].shape[1])) for layer in layers]
        logits = model(**one).logits[0, -1]
        for handle in handles:
            handle.remove()
        assert lengths == expected.lengths
        torch.testing.assert_close(logits, expected.logits, rtol=1e-4, atol=1e-4)
        assert answers(model, one)[0] == expected.answer
        assert answers(model, one, use_cache=False)[0] == expected.answer
        out = model.generate(**one, **GREEDY, return_dict_in_generate=True)
        more = out.sequences.shape[1] - one["input_ids"].shape[1] - 1
        held = [out.past_key_values.get_seq_length(layer) for layer in range(len(layers))]
        assert held == [length + more for length in expected.lengths]
        dropped = expected.lengths[0] - expected.lengths[-1]
        assert trim.report.tokens_after == TOKENS - dropped == get_method(**options).tokens(TOKENS)
        assert len(trim.report.images[0].indices) == TOKENS - dropped
        assert (model(**one).logits[0, -1] - logits).abs().max() == 0
    with torch.no_grad():
        assert (model(**one).logits[0, -1] - logits).abs().max() > 0.01, "dropping changed nothing"
