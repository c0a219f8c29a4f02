"""The external scorer: CLIP and SigLIP by hand, aspect ratio, newlines, caching, and which scorer a model gets."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)

import trimkit
from tests import tiny
from tests.unit.test_scorer import _tokenizer
from trimkit import ClipNativeScorer, EncoderProfile, ExternalScorer, ImageTokens
from trimkit.core.geometry import View, grid_view
from trimkit.models import family_of
from trimkit.scorers.resolve import resolve_scorer

QUESTION = "what is on the left"
_SIGLIP_TOWER = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 4,
}


def _siglip() -> SiglipModel:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**shape, "image_size": 24, "patch_size": 4}
    text = {**shape, "vocab_size": 100, "max_position_embeddings": 12, "projection_size": 32, "pad_token_id": 0}
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision)).eval()


def _image(height: int = 24, width: int = 24, key: str = "") -> ImageTokens:
    pixels = torch.rand(3, height, width, generator=torch.Generator().manual_seed(3))
    return ImageTokens(features=torch.zeros(36, 8), grid=(6, 6), key=key, views=(grid_view(pixels, 6, 6),))


def test_clip_by_hand() -> None:
    clip, image = tiny.clip(), _image()
    mean, std = [0.4, 0.5, 0.6], [0.2, 0.3, 0.4]
    scorer = ExternalScorer(clip, _tokenizer(), mean=mean, std=std)
    pixels = (image.views[0].pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        hidden = clip.vision_model(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(hidden))
        ids = _tokenizer()(QUESTION, return_tensors="pt").input_ids
        text = clip.get_text_features(input_ids=ids, return_dict=True).pooler_output[0]
    torch.testing.assert_close(scorer.similarity([image], [QUESTION])[0], patches @ text, rtol=1e-3, atol=1e-4)
    assert scorer.profile.sign == -1


def test_siglip_pools_every_patch_alone() -> None:
    siglip, image = _siglip(), _image()
    scorer = ExternalScorer(siglip, _tokenizer())
    with torch.no_grad():
        hidden = siglip.vision_model((image.views[0].pixels[None] - 0.5) / 0.5).last_hidden_state[0]
        patches = torch.cat([siglip.vision_model.head(patch[None, None]) for patch in hidden])
        ids = torch.tensor([_tokenizer()(QUESTION)["input_ids"]])
        ids = torch.nn.functional.pad(ids, (0, 12 - ids.shape[1]))
        text = siglip.text_model(input_ids=ids).pooler_output[0]
    torch.testing.assert_close(scorer.similarity([image], [QUESTION])[0], patches @ text, rtol=1e-3, atol=1e-4)
    assert scorer.profile.sign == 1


def test_an_oblong_picture_keeps_its_aspect_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, seen = ExternalScorer(tiny.clip(), _tokenizer()), []
    stock = scorer._vision.forward

    def spy(*args: Any, **kwargs: Any) -> Any:
        seen.append(tuple(kwargs["pixel_values"].shape[-2:]))
        return stock(*args, **kwargs)

    monkeypatch.setattr(scorer._vision, "forward", spy)
    scores = scorer.similarity([_image(48, 108)], [QUESTION])[0]
    assert seen == [(16, 36)]  # 4 x 9 patches, as many as 6 x 6, two to three
    assert scores.shape == (36,)


def test_a_newline_has_the_score_before_it() -> None:
    pixels = torch.rand(3, 24, 24, generator=torch.Generator().manual_seed(5))
    view = grid_view(pixels, 6, 6)
    tokens = torch.arange(36) + torch.arange(36) // 6  # a newline behind each row of six
    image = ImageTokens(features=torch.zeros(42, 8), views=(View(pixels, tokens, view.boxes),))
    plain = ImageTokens(features=torch.zeros(36, 8), views=(view,))
    scorer = ExternalScorer(tiny.clip(), _tokenizer())
    scores, alone = (scorer.similarity([each], [QUESTION])[0] for each in (image, plain))
    assert torch.equal(scores.view(6, 7)[:, :6], alone.view(6, 6))
    assert torch.equal(scores.view(6, 7)[:, 6], alone.view(6, 6)[:, 5])
    assert len(set(alone.tolist())) > 30


def test_a_second_question_costs_no_vision_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    scorer, calls = ExternalScorer(tiny.clip(), _tokenizer()), []
    stock = scorer._vision.forward
    monkeypatch.setattr(scorer._vision, "forward", lambda *a, **k: (calls.append(1), stock(*a, **k))[1])
    first = scorer.similarity([_image(key="a")], [QUESTION])[0]
    second = scorer.similarity([_image(key="a")], ["the dog"])[0]
    assert len(calls) == 1
    assert not torch.equal(first, second)
    scorer.clear_cache()
    scorer.similarity([_image(key="a")], [QUESTION])
    assert len(calls) == 2


def test_views_are_needed() -> None:
    with pytest.raises(trimkit.ConfigError, match="looks at pixels"):
        ExternalScorer(tiny.clip(), _tokenizer()).similarity([ImageTokens(torch.zeros(4, 8))], [QUESTION])
    with pytest.raises(trimkit.ConfigError, match="not a CLIP or SigLIP"):
        ExternalScorer(torch.nn.Linear(2, 2), _tokenizer())


def test_the_towers_own_clip_reads_features_and_any_other_pixels(tmp_path: Path) -> None:
    model = tiny.llava()
    for name, encoder in (("clip", tiny.clip()), ("siglip", _siglip())):
        encoder.save_pretrained(tmp_path / name)
        _tokenizer().save_pretrained(tmp_path / name)
    tower = model.config.vision_config
    native = resolve_scorer(str(tmp_path / "clip"), model, None, tower)
    assert isinstance(native, ClipNativeScorer)
    assert isinstance(resolve_scorer(str(tmp_path / "clip"), model, None, None), ExternalScorer)
    external = resolve_scorer(str(tmp_path / "siglip"), model, None, tower)
    assert isinstance(external, ExternalScorer)
    assert external.profile == EncoderProfile(sign=1)
    (tmp_path / "siglip" / "trimkit.json").write_text('{"sign": -1, "normalize": true}')
    measured = resolve_scorer(str(tmp_path / "siglip"), model, None, tower)
    assert measured is not None
    assert measured.profile == EncoderProfile(sign=-1, normalize=True)


@pytest.mark.parametrize("by_name", [True, False])
def test_earlier_pictures_are_asked_for_again_whatever_names_the_scorer(by_name: bool, tmp_path: Path) -> None:
    _siglip().save_pretrained(tmp_path)
    _tokenizer().save_pretrained(tmp_path)
    model, first = tiny.llava(), tiny.llava_batch([1], seed=2)
    processor = SimpleNamespace(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    scorer = str(tmp_path) if by_name else ExternalScorer(_siglip(), _tokenizer())
    with trimkit.reduce(model, processor, method="trim", scorer=scorer, budget=0.3):
        cache = DynamicCache(config=model.config.text_config)
        out = model.generate(**first, **tiny.GREEDY, query="a cat", past_key_values=cache)
        ids = torch.cat([out, torch.tensor([[6, 7]])], dim=1)
        with pytest.raises(trimkit.InputError, match="pass every picture of the conversation"):
            model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), query="a dog", past_key_values=cache)


def test_llava_with_a_siglip_tower_knows_where_its_tokens_look() -> None:
    vision = {**_SIGLIP_TOWER, "model_type": "siglip_vision_model", "vision_use_head": False}
    settings = {
        "vision_feature_layer": -1,
        "vision_feature_select_strategy": "full",
        "image_token_id": tiny.IMAGE_TOKEN,
    }
    text = LlamaConfig(**tiny.TEXT)
    model = tiny.ready(LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, **settings)))
    family = family_of(model)
    arguments = {"pixel_values": torch.rand(1, 3, 24, 24)}
    (image,) = family.encode(model, arguments)
    (view,) = family.views(model, arguments, image)
    assert image.grid == (6, 6)
    assert view.boxes[7].tolist() == [4.0, 4.0, 8.0, 8.0]
