"""The class token's attention and the keys: equal to eager attention's, only where asked for, and carried everywhere."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from trimkit.core.sharing import merge_images
from trimkit.core.types import EncoderProfile, ImageTokens, Selection, TokenBatch
from trimkit.methods import Method
from trimkit.models import family_of
from trimkit.models._signals import record_signals, signal_source
from trimkit.pipeline.encoding import encode
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.selecting import make_batch, reduced_image

BOTH = frozenset({"cls_attention", "keys"})


class Watching(Method):
    """Ranks by class attention, and remembers what it was given."""

    name: ClassVar[str] = "watching"
    summary: ClassVar[str] = "for a test"
    signals: ClassVar[frozenset[str]] = BOTH
    seen: ClassVar[list[TokenBatch]] = []

    def scores(self, batch: TokenBatch) -> Tensor:
        self.seen.append(batch)
        assert batch.cls_attention is not None
        return batch.cls_attention


def _eager(model: Any, pixels: Tensor, layer: int) -> tuple[Tensor, Tensor]:
    """Attention row and keys by the model's own eager attention."""
    tower = copy.deepcopy(model.model.vision_tower)
    tower.set_attn_implementation("eager")
    attention = getattr(tower, "vision_model", tower).encoder.layers[layer].self_attn
    keys: list[Tensor] = []
    attention.k_proj.register_forward_hook(lambda module, args, out: keys.append(out))
    with torch.no_grad():
        out = tower(pixels, output_attentions=True)
    return out.attentions[layer][:, :, 0, 1:].mean(dim=1), keys[0][:, 1:]


@pytest.mark.parametrize(("features", "layer"), [(-2, 1), (-1, 2), (1, 0), ([0, 2], 1), ([-3, -2], 1)])
def test_signals_are_those_of_eager_attention(features: Any, layer: int) -> None:
    model = tiny.llava()
    model.config.vision_feature_layer = features
    pixels = tiny.pixels(2)
    with torch.no_grad():
        images, _ = encode(family_of(model), model, {"pixel_values": pixels}, None, BOTH)
    attention, keys = _eager(model, pixels, layer)
    for i, image in enumerate(images):
        assert image.cls_attention is not None
        assert image.keys is not None
        torch.testing.assert_close(image.cls_attention, attention[i])
        torch.testing.assert_close(image.keys, keys[i])
        assert len(image.keys) == len(image)


def test_a_tower_that_keeps_its_class_token() -> None:
    model = tiny.llava()
    arguments = {"pixel_values": tiny.pixels(1), "vision_feature_select_strategy": "full"}
    with torch.no_grad():
        (image,), _ = encode(family_of(model), model, arguments, None, BOTH)
    assert image.cls_attention is not None
    assert len(image.cls_attention) == len(image) == tiny.TOKENS + 1
    assert float(image.cls_attention.sum()) == pytest.approx(1.0)


def test_only_what_is_asked_for() -> None:
    model, pixels = tiny.llava(), {"pixel_values": tiny.pixels(1)}
    with torch.no_grad():
        (plain,), _ = encode(family_of(model), model, pixels, None)
        (one,), _ = encode(family_of(model), model, pixels, None, frozenset({"keys"}))
    assert plain.cls_attention is None
    assert plain.keys is None
    assert one.cls_attention is None
    assert one.keys is not None
    assert torch.equal(one.features, plain.features)


def test_the_cache_holds_them() -> None:
    model, cache = tiny.llava(), FeatureCache(4)
    arguments = {"pixel_values": tiny.pixels(2)}
    with torch.no_grad():
        fresh, _ = encode(family_of(model), model, arguments, cache, BOTH)
        held, cached = encode(family_of(model), model, arguments, cache, BOTH)
    assert cached == [True, True]
    for one, other in zip(fresh, held, strict=True):
        assert one.cls_attention is not None
        assert other.cls_attention is not None
        assert other.keys is not None
        assert torch.equal(one.cls_attention, other.cls_attention)
        assert other.keys.untyped_storage().nbytes() == other.keys.numel() * other.keys.element_size()


def test_batches_and_merged_images_carry_them() -> None:
    def image(n: int, value: float) -> ImageTokens:
        return ImageTokens(torch.ones(n, 3), cls_attention=torch.full((n,), value), keys=torch.full((n, 2), value))

    images = [image(2, 1.0), image(4, 2.0)]
    batch = make_batch(images, None, [None, None], EncoderProfile())
    assert batch.cls_attention is not None
    assert batch.tower_keys is not None
    assert batch.cls_attention.tolist() == [[1, 1, 0, 0], [2, 2, 2, 2]]
    assert batch.tower_keys.shape == (2, 4, 2)
    merged = merge_images(images)
    assert merged.cls_attention is not None
    assert merged.cls_attention.tolist() == [1, 1, 2, 2, 2, 2]
    assert (
        make_batch([*images, ImageTokens(torch.ones(2, 3))], None, [None] * 3, EncoderProfile()).cls_attention is None
    )
    reduced = reduced_image(images[0], Selection(indices=torch.tensor([1]), total=2))
    assert reduced.cls_attention is None
    assert reduced.keys is None


def test_through_a_model() -> None:
    model, inputs = tiny.llava(), tiny.llava_batch([1])
    Watching.seen.clear()
    with trimkit.reduce(model, method=Watching(budget=5)) as trim, torch.no_grad():
        model(**inputs)
    attention, _ = _eager(model, inputs["pixel_values"], 1)
    assert trim.report.images[0].indices.tolist() == attention[0].topk(5).indices.sort().values.tolist()
    assert Watching.seen[0].tower_keys is not None


def test_under_autocast_attention_stays_in_float32() -> None:
    model = tiny.llava()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (image,), _ = encode(family_of(model), model, {"pixel_values": tiny.pixels(1)}, None, BOTH)
    assert image.cls_attention is not None
    assert image.cls_attention.dtype == torch.float32


def test_a_family_without_a_class_token_refuses_in_one_line() -> None:
    model = tiny.qwen2_5_vl()
    with pytest.raises(trimkit.UnsupportedError, match="method 'watching' needs cls_attention and keys") as caught:
        trimkit.reduce(model, method=Watching(budget=5))
    assert "\n" not in str(caught.value)
    trimkit.reduce(model, method=Watching(budget=1.0)).detach()  # everything kept: nothing is asked for


def test_a_tower_that_is_not_clip_has_no_layer() -> None:
    assert signal_source(torch.nn.Linear(2, 2), -2) is None
    assert signal_source(tiny.llava().model.vision_tower, 0) is None  # the embeddings


def test_hooks_go_whatever_happens() -> None:
    source = signal_source(tiny.llava().model.vision_tower, -2)

    def fail() -> None:
        with record_signals(source, BOTH):
            assert len(source.layers[1].self_attn.k_proj._forward_hooks) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    layer = source.layers[1].self_attn
    assert len(layer.q_proj._forward_hooks) == len(layer.k_proj._forward_hooks) == 0


def test_an_encoder_that_runs_the_layer_otherwise_is_refused() -> None:
    source = signal_source(tiny.llava().model.vision_tower, -2)
    with record_signals(source, BOTH) as heard, pytest.raises(trimkit.UnsupportedError, match="one by one"):
        heard.onto([ImageTokens(torch.ones(3, 2))])
