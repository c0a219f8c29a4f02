"""Signals of other layers, behind the projector, and of the question: equal to those by hand, and carried everywhere."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

import trimkit
from tests import tiny
from tests.tiny import ToyScorer
from trimkit import EncoderProfile, ImageTokens
from trimkit.core.sharing import merge_images
from trimkit.core.signals import SIGNALS, parse_signal
from trimkit.core.types import TokenBatch
from trimkit.demo import load_demo
from trimkit.methods import Method
from trimkit.methods._choosing import signal
from trimkit.methods._images import single
from trimkit.models import family_of
from trimkit.pipeline.encoding import encode
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.pipeline.selecting import make_batch

NAMES = frozenset(
    {
        "cls_attention",
        "cls_attention@1",
        "cls_attention@-1",
        "cls_attention_wide@-1",
        "keys@-1",
        "keys_mean",
        "received@1",
        "received",
        "received@-1",
        "cls_state",
        "projected",
    }
)


class Asking(Method):
    """Asks for what a test names, and remembers what it was given."""

    name: ClassVar[str] = "asking"
    summary: ClassVar[str] = "for a test"
    uses_text: ClassVar[bool] = True
    reads_relevance: ClassVar[bool] = False
    seen: ClassVar[list[TokenBatch]] = []

    wanted: tuple[str, ...] = ()

    @property
    def asked_signals(self) -> frozenset[str]:
        return frozenset() if self.keeps_all else frozenset(self.wanted)

    def scores(self, batch: TokenBatch) -> Tensor:
        self.seen.append(batch)
        return batch.mask.float()


def by_hand(model: Any, pixels: Tensor) -> dict[str, Tensor]:
    """Every signal of ``NAMES`` ``[B, ...]`` from the tower's own eager attention and its modules."""
    tower = copy.deepcopy(model.model.vision_tower)
    tower.set_attn_implementation("eager")
    inner = getattr(tower, "vision_model", tower)
    with torch.no_grad():
        out = tower(pixels, output_attentions=True, output_hidden_states=True)
        last, state = inner.encoder.layers[-1], out.hidden_states[-2]
        normed = last.layer_norm1(state)
        query, keys = last.self_attn.q_proj(normed), last.self_attn.k_proj(normed)
        wide = (query[:, :1] @ keys.mT * keys.shape[-1] ** -0.5).softmax(dim=-1)[:, 0, 1:]
        features = inner.encoder.layers[-2]
        own = features.self_attn.k_proj(features.layer_norm1(out.hidden_states[-3]))[:, 1:]
        projected = model.model.multi_modal_projector(state[:, 1:])
    heads = last.self_attn.num_heads
    received = [each.mean(dim=(1, 2))[:, 1:] for each in out.attentions]
    rows = [each[:, :, 0, 1:].mean(dim=1) for each in out.attentions]
    return {
        "cls_attention": rows[-2],
        "cls_attention@1": rows[0],
        "cls_attention@-1": rows[-1],
        "cls_attention_wide@-1": wide,
        "keys@-1": keys[:, 1:],
        "keys_mean": own.unflatten(2, (heads, -1)).mean(dim=2),
        "received@1": received[0],
        "received": received[-2],
        "received@-1": received[-1],
        "cls_state": state[:, 0],
        "projected": projected,
    }


def test_every_signal_is_what_the_model_computes() -> None:
    model, pixels = tiny.llava(), tiny.pixels(2)
    with torch.no_grad():
        images, _ = encode(family_of(model), model, {"pixel_values": pixels}, None, NAMES)
    for name, expected in by_hand(model, pixels).items():
        for row, image in enumerate(images):
            found = image.signal(name)
            assert found is not None, name
            torch.testing.assert_close(found, expected[row], msg=lambda text, name=name: f"{name}: {text}")


def test_only_asked_layers_are_listened_to_and_no_hook_stays() -> None:
    from trimkit.models._signals import record_signals

    model = tiny.llava()
    source = family_of(model).signal_source(model, {})
    assert source is not None
    layers = source.layers
    with record_signals(source, ["received@1", "projected", "cls_state"]):
        assert [len(each.self_attn.k_proj._forward_hooks) for each in layers] == [1, 0, 0]
    with record_signals(source, ["keys@-1"]):
        assert [len(each._forward_hooks) for each in layers] == [0, 1, 0]
    for each in layers:
        assert len(each._forward_hooks) == len(each.self_attn.k_proj._forward_hooks) == 0


def test_the_cache_holds_them_and_gives_them_only_whole() -> None:
    model, cache = tiny.llava(), FeatureCache(4)
    arguments, some = {"pixel_values": tiny.pixels(2)}, frozenset({"projected"})
    with torch.no_grad():
        encode(family_of(model), model, arguments, cache, some)
        _, cached = encode(family_of(model), model, arguments, cache, NAMES)
        assert cached == [False, False]
        held, cached = encode(family_of(model), model, arguments, cache, NAMES | {"words"})
    assert cached == [True, True]
    for image in held:
        for name in NAMES:
            found = image.signal(name)
            assert found is not None
            assert found.untyped_storage().nbytes() == found.numel() * found.element_size()


def test_projected_tokens_are_made_of_what_the_cache_holds() -> None:
    model, cache = tiny.llava(), FeatureCache(4)
    arguments = {"pixel_values": tiny.pixels(2)}
    with torch.no_grad():
        encode(family_of(model), model, arguments, cache)
        first, cached = encode(family_of(model), model, arguments, cache, frozenset({"projected"}))
        assert cached == [True, True]
        second, _ = encode(family_of(model), model, arguments, cache, frozenset({"projected"}))
    for one, other in zip(first, second, strict=True):
        expected = model.model.multi_modal_projector(one.features)
        torch.testing.assert_close(one.signals["projected"], expected)
        assert torch.equal(one.signals["projected"], other.signals["projected"])


def test_a_family_whose_features_stand_behind_the_projector() -> None:
    model = tiny.llava()
    model.config.vision_config.model_type = "pixtral"  # LLaVA's shell around another tower
    model.model.get_image_features = lambda **given: SimpleNamespace(pooler_output=[torch.ones(4, 5)])
    with torch.no_grad():
        (image,), _ = encode(family_of(model), model, {"pixel_values": tiny.pixels(1)}, None, frozenset({"projected"}))
    assert torch.equal(image.signals["projected"], image.features)


def test_question_words_are_rows_of_the_embedding_table() -> None:
    model, processor = load_demo()
    inputs = tiny_demo_inputs(processor)
    Asking.seen.clear()
    with trimkit.reduce(model, processor, method=Asking(budget=9, wanted=("words",))), torch.no_grad():
        model(**inputs)
    ids = processor.tokenizer("What is red?", add_special_tokens=False)["input_ids"]
    assert torch.equal(Asking.seen[0].signals["words"][0], model.get_input_embeddings().weight[ids])
    with pytest.raises(trimkit.ConfigError, match="pass the model's processor"), torch.no_grad():
        trimkit.prepare(model, None, inputs, query="q", method=Asking(budget=9, wanted=("words",)))


def test_embeddings_in_clip_space() -> None:
    class Scored(Asking):
        reads_relevance: ClassVar[bool] = True

    model, processor = load_demo()
    Asking.seen.clear()
    method = Scored(budget=9, wanted=("clip_patches", "clip_text"))
    with torch.no_grad():
        trimkit.prepare(model, processor, tiny_demo_inputs(processor), method=method)
    batch = Asking.seen[0]
    assert batch.relevance is not None
    patches, text = batch.signals["clip_patches"][0], batch.signals["clip_text"][0]
    torch.testing.assert_close((patches @ text.T)[:, 0], batch.relevance[0], rtol=1e-4, atol=1e-4)
    with pytest.raises(trimkit.UnsupportedError, match="ToyScorer does not give"), torch.no_grad():
        trimkit.prepare(model, processor, tiny_demo_inputs(processor), method=method, scorer=ToyScorer())


def test_a_vision_encoder_without_the_language_model_has_no_words() -> None:
    encoder = trimkit.VisionEncoder.from_pretrained("demo", method=Asking(budget=9, wanted=("words",)))
    from PIL import Image

    with pytest.raises(trimkit.UnsupportedError, match="not loaded"):
        encoder(Image.new("RGB", (40, 40)), "what?")


def test_what_a_caller_hands_in_is_taken_and_what_is_missing_is_named() -> None:
    generator = torch.Generator().manual_seed(0)
    tokens = ImageTokens(torch.randn(9, 4), signals={"projected": torch.randn(9, 5, generator=generator)})
    assert len(trimkit.choose(tokens, method=Asking(budget=3, wanted=("projected",)))) == 3
    with pytest.raises(trimkit.ConfigError, match="needs keys_mean beside the features"):
        trimkit.choose(tokens, method=Asking(budget=3, wanted=("projected", "keys_mean")))


def test_batches_parts_and_merged_images_carry_them() -> None:
    def image(n: int, value: float) -> ImageTokens:
        own = {"projected": torch.full((n, 2), value), "cls_state": torch.full((3,), value), "words": torch.ones(2, 4)}
        return ImageTokens(torch.ones(n, 3), signals=own)

    images = [image(2, 1.0), image(4, 2.0)]
    batch = make_batch(images, None, [None, None], EncoderProfile())
    assert signal(Asking(), batch, "projected").tolist()[0] == [[1, 1], [1, 1], [0, 0], [0, 0]]
    assert single(batch, 1).signals["cls_state"][0].tolist() == [2, 2, 2]
    merged = merge_images(images)
    assert merged.signals["projected"][:, 0].tolist() == [1, 1, 2, 2, 2, 2]
    assert set(merged.signals) == {"projected", "words"}


@pytest.mark.parametrize("name", ["attention", "keys@0", "keys@x", "projected@3", "cls_state@2"])
def test_names_that_are_none(name: str) -> None:
    with pytest.raises(trimkit.ConfigError) as caught:
        parse_signal(name)
    assert "\n" not in str(caught.value)


def test_names_and_layers_are_checked_when_the_model_is_attached() -> None:
    assert all(parse_signal(name) == (name, None) for name in SIGNALS)
    with pytest.raises(trimkit.ConfigError, match="has 3 layers, and the method reads layer 9"):
        trimkit.reduce(tiny.llava(), method=Asking(budget=3, wanted=("received@9",)))
    with pytest.raises(trimkit.UnsupportedError, match="needs cls_state and received@9 of a CLIP tower"):
        trimkit.reduce(tiny.qwen2_5_vl(), method=Asking(budget=3, wanted=("received@9", "cls_state", "projected")))


def tiny_demo_inputs(processor: Any) -> dict[str, Any]:
    from PIL import Image

    picture = Image.new("RGB", (60, 40), "red")
    prompt = "USER: <image>\nWhat is red? ASSISTANT:"
    return dict(processor(images=picture, text=prompt, return_tensors="pt"))
