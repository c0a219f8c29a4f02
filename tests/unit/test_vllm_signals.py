"""Signals of vLLM's CLIP tower, which computes queries, keys and values in one step: those that transformers' towers give."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.unit.test_vllm_engine import TOKENS, WIDTH, Model, pixels, rows
from trimkit.demo import load_demo
from trimkit.errors import ConfigError
from trimkit.methods import get_method
from trimkit.models import family_of, record_signals
from trimkit.models._signals import signal_source
from trimkit.serving.vllm.settings import FIELD, Reduction, check_method
from trimkit.serving.vllm.tower_signals import LayerNumbers, recorded

NAMES = ("cls_attention", "cls_attention_wide@2", "keys", "keys_mean@1", "received@0.5", "cls_state")


class Fused(nn.Module):
    """The attention of a transformers layer with vLLM's projection."""

    def __init__(self, attention: Any) -> None:
        super().__init__()
        parts = (attention.q_proj, attention.k_proj, attention.v_proj)
        self.qkv_proj = nn.Linear(parts[0].in_features, 3 * parts[0].out_features)
        self.qkv_proj.weight = nn.Parameter(torch.cat([part.weight for part in parts]))
        self.qkv_proj.bias = nn.Parameter(torch.cat([part.bias for part in parts]))
        self.num_heads, self.scale, self.tp_size = attention.num_heads, attention.scale, 1


def test_signals_are_those_of_transformers_towers() -> None:
    model, _ = load_demo()
    numbers = LayerNumbers.of(model.config)
    assert numbers == LayerNumbers(total=6, deepest=5)
    family, names = family_of(model), set(NAMES) - {"cls_state"}
    arguments = {"pixel_values": torch.randn(2, 3, 336, 336, generator=torch.Generator().manual_seed(0))}
    tower = model.model.vision_tower
    layers: Any = getattr(tower, "vision_model", tower).encoder.layers
    fused = [SimpleNamespace(self_attn=Fused(layer.self_attn)) for layer in layers[: numbers.deepest]]
    inputs: list[Tensor] = []
    handles = [layer.layer_norm1.register_forward_hook(lambda *seen: inputs.append(seen[2])) for layer in layers]
    with torch.no_grad(), record_signals(signal_source(tower, -2), names) as recorder:
        images = recorder.onto(family.encode(model, arguments))
    for handle in handles:
        handle.remove()
    with recorded(fused, numbers, NAMES) as record:
        for layer, state in zip(fused, inputs, strict=False):
            layer.self_attn.qkv_proj(state)
    for number, image in enumerate(images):
        found = record.signals(number)
        assert found.keys() == names
        for name, value in found.items():
            wanted = image.signal(name)
            assert wanted is not None
            torch.testing.assert_close(value, wanted, rtol=1e-4, atol=1e-5)
    assert not any(layer.self_attn.qkv_proj._forward_hooks for layer in fused)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        *[("keys", 23), ("cls_state", 23), ("received@9", 9), ("keys@-2", 23), ("received@0.375", 9)],
        *[("words", None), ("keys@-1", None), ("keys@24", None), ("received@0.99", None)],
    ],
)
def test_layers_behind_the_features_are_not_there(name: str, number: int | None) -> None:
    assert LayerNumbers(24, 23).number(name) == number


def test_a_tower_of_another_kind_gives_none() -> None:
    vision = SimpleNamespace(model_type="siglip_vision_model", num_hidden_layers=3)
    given: dict[str, Any] = {"vision_feature_layer": -2, "vision_feature_select_strategy": "default"}
    assert LayerNumbers.of(SimpleNamespace(model_type="llava", vision_config=vision, **given)) is None
    clip = SimpleNamespace(model_type="clip_vision_model", num_hidden_layers=3)
    assert LayerNumbers.of(SimpleNamespace(model_type="llava_next", vision_config=clip, **given)) is None
    assert LayerNumbers.of(SimpleNamespace(model_type="llava", vision_config=clip, **given)) == LayerNumbers(3, 2)
    several = SimpleNamespace(model_type="llava", vision_config=clip, **{**given, "vision_feature_layer": [-2, -3]})
    assert LayerNumbers.of(several) is None


def test_what_the_tower_gives_is_let_in() -> None:
    for name in ("cls-attention", "scope", "visionzip"):
        with pytest.raises(ConfigError, match="does not give"):
            check_method(get_method(name, budget=64))
        check_method(get_method(name, budget=64), LayerNumbers(24, 23))
    for name, missing in (("mmtok", "words"), ("prumerge", "keys@-1")):
        with pytest.raises(ConfigError, match=missing):
            check_method(get_method(name, budget=64), LayerNumbers(24, 23))


class Signalling(Model):
    """A tower whose class token attends to the first patches most."""

    def encode_with_signals(self, pictures: Any, names: frozenset[str]) -> list[tuple[Tensor, dict[str, Tensor]]]:
        return [
            (features, {name: torch.arange(TOKENS, 0.0, -1) for name in names}) for features in self.encode(pictures)
        ]


def test_a_method_gets_the_signals_that_it_asks_for_and_they_are_held() -> None:
    model = Signalling()
    method = get_method("cls-attention", budget=3, aggregate="none")
    for _ in range(2):
        (found,) = model.embed_multimodal(pixel_values=pixels(1), **{FIELD: rows([Reduction(method)])})
        assert found[:, 0].tolist() == [0, 1, 2]
        assert found.shape[1] == WIDTH
    assert model.batches == [1]
    assert model._reducing.chooser.counts.fallbacks == 0


def test_features_that_are_held_without_a_signal_are_made_again() -> None:
    model = Signalling()
    for method in (get_method("uniform", budget=3), get_method("cls-attention", budget=3)):
        model.embed_multimodal(pixel_values=pixels(1), **{FIELD: rows([Reduction(method)])})
    assert model.batches == [1, 1]
