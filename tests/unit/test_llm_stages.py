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
from tests.unit.test_fastv import REFUSED, answers, hooks, singles
from trimkit.errors import ConfigError, UnsupportedError
from trimkit.methods import get_method

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
    model, one = deep_llava(layers=5), tiny.llava_batch([1], seed=2)
    options = {"method": "sparsevlm-plus", "layers": (1, 4, 4), "budget": 12, "heads": 2}
    method = get_method(**options)
    first = method.left(0, TOKENS, TOKENS)
    head_dim = model.model.language_model.layers[0].self_attn.head_dim
    with torch.no_grad(), trimkit.reduce(model, **options) as trim:
        caught: list[Tensor] = []
        handle = model.model.language_model.layers[1].mlp.register_forward_pre_hook(lambda m, a: caught.append(a[0]))
        model(**one)
        handle.remove()
        assert trim.report.tokens_after == method.left(2, TOKENS, first)
    cut = {1: sparsevlm_plus(first, head_dim, 2)}
    expected = by_hand(model, one, cut, renumber=False, steps=1)
    assert caught[0].shape[1] == expected.lengths[1]
    assert "test_the_kept_are_those_by_hand"


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
