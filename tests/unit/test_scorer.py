"""The native CLIP scorer against CLIP by hand, where it is found, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPModel, CLIPVisionModel, PreTrainedTokenizerFast

import trimkit
from tests import tiny
from trimkit import ClipNativeScorer, EncoderProfile, ImageTokens
from trimkit.scorers import load_scorer
from trimkit.scorers.resolve import resolve_scorer

WORDS = ["what", "is", "on", "the", "left", "cat", "dog"]


def _tokenizer() -> PreTrainedTokenizerFast:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{word: i + 3 for i, word in enumerate(WORDS)}, "<unk>": 20}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        model_max_length=12,
    )  # fmt: skip


@pytest.fixture
def clip_dir(tmp_path: Path) -> Path:
    tiny.clip().save_pretrained(tmp_path / "clip")
    _tokenizer().save_pretrained(tmp_path / "clip")
    return tmp_path / "clip"


@pytest.fixture
def scorer() -> ClipNativeScorer:
    return ClipNativeScorer(tiny.clip(), _tokenizer(), EncoderProfile(sign=-1))


def _image(seed: int = 0) -> ImageTokens:
    generator = torch.Generator().manual_seed(seed)
    return ImageTokens(features=torch.randn(tiny.TOKENS, 32, generator=generator))


@pytest.mark.parametrize("normalize", [False, True])
def test_similarity_is_clips_own(scorer: ClipNativeScorer, normalize: bool) -> None:
    clip, image, question = tiny.clip(), _image(), "what is on the left"
    ids = _tokenizer()(question, return_tensors="pt").input_ids
    with torch.no_grad():
        text = clip.get_text_features(input_ids=ids, return_dict=True).pooler_output[0]
        patches = clip.visual_projection(clip.vision_model.post_layernorm(image.features))
    if normalize:
        text, patches = text / text.norm(), patches / patches.norm(dim=-1, keepdim=True)
    got = scorer.similarity([image], [question], normalize=normalize)[0]
    torch.testing.assert_close(got, patches @ text, rtol=1e-4, atol=1e-5)


def test_of_several_layers_side_by_side_the_towers_own_is_read(scorer: ClipNativeScorer) -> None:
    image = _image()
    other = torch.randn(tiny.TOKENS, 32, generator=torch.Generator().manual_seed(9))
    wide = ImageTokens(features=torch.cat([other, image.features], dim=1), tower_columns=(32, 64))
    expected = scorer.similarity([image], ["dog"])[0]
    assert torch.equal(scorer.similarity([wide], ["dog"])[0], expected)


def test_a_question_scores_the_same_in_any_company(scorer: ClipNativeScorer) -> None:
    alone = scorer.similarity([_image(1)], ["dog"])[0]
    scorer.clear_cache()
    together = scorer.similarity([_image(0), _image(1)], ["what is on the left cat dog", "dog"])[1]
    assert torch.equal(alone, together)


def test_long_questions_are_chunked_or_truncated(scorer: ClipNativeScorer) -> None:
    long = " ".join(WORDS * 4)  # 28 words for a tower of 12 tokens, two of them start and end
    chunked = scorer.text_embeddings([long])[0]
    truncated = scorer.text_embeddings([long], truncate=True)[0]
    first = scorer.text_embeddings([" ".join((WORDS * 4)[:10])])[0]
    assert torch.equal(truncated, first)
    parts = [" ".join((WORDS * 4)[i * 10 : i * 10 + 10]) for i in range(3)]
    weights = torch.tensor([10.0, 10.0, 8.0])
    mean = (torch.stack(scorer.text_embeddings(parts)) * weights.unsqueeze(1)).sum(0) / weights.sum()
    torch.testing.assert_close(chunked, mean)
    assert not torch.allclose(chunked, truncated)
    changed_end = long + " dog dog"
    assert torch.equal(scorer.text_embeddings([changed_end], truncate=True)[0], truncated)
    assert not torch.allclose(scorer.text_embeddings([changed_end])[0], chunked)


@pytest.mark.parametrize("question", ["", "   ", "\n"])
def test_an_empty_question_is_refused(scorer: ClipNativeScorer, question: str) -> None:
    with pytest.raises(trimkit.InputError, match="question is empty"):
        scorer.similarity([_image()], [question])


def test_another_towers_features_are_refused(scorer: ClipNativeScorer) -> None:
    with pytest.raises(trimkit.ConfigError, match="pass the CLIP checkpoint that the tower was taken from"):
        scorer.similarity([ImageTokens(features=torch.randn(4, 8))], ["dog"])


def test_the_towers_own_clip_comes_without_its_vision_layers(clip_dir: Path) -> None:
    loaded: Any = CLIPModel.from_pretrained(clip_dir)
    assert torch.equal(loaded.visual_projection.weight, tiny.clip().visual_projection.weight)
    model = tiny.llava()
    found = resolve_scorer(str(clip_dir), model, None, model.config.vision_config)
    assert isinstance(found, ClipNativeScorer)
    assert resolve_scorer(loaded, model, None, model.config.vision_config) is not None
    assert len(loaded.vision_model.encoder.layers) > 0, "a module that the user passed is left whole"


def test_the_checkpoint_names_its_scorer(clip_dir: Path) -> None:
    model = tiny.llava()
    model.config._name_or_path = str(clip_dir.parent)
    assert resolve_scorer(None, model, None) is None
    settings = {"clip": "clip", "sign": 1, "normalize": True, "temperature": 0.5}
    (clip_dir.parent / "trimkit.json").write_text(json.dumps(settings))
    found = resolve_scorer(None, model, "some/hub-id", model.config.vision_config)
    assert found is not None
    assert found.profile == EncoderProfile(sign=1, normalize=True, temperature=0.5)
    (clip_dir.parent / "trimkit.json").write_text("{")
    with pytest.raises(trimkit.ConfigError, match=r"cannot read .*trimkit.json"):
        resolve_scorer(None, model, None)


def test_of_a_model_whose_weights_are_elsewhere(clip_dir: Path) -> None:
    """An offloaded model is on no device until it is called."""
    model = tiny.llava().to("meta")
    found = resolve_scorer(str(clip_dir), model, None, model.config.vision_config)
    assert isinstance(found, ClipNativeScorer)
    assert found.text_embeddings(["what is on the left"])[0].device.type == "cpu"


def test_end_to_end_from_a_saved_clip(clip_dir: Path) -> None:
    model, batch = tiny.llava(), tiny.llava_batch([1], seed=0)
    with trimkit.reduce(model, scorer=str(clip_dir), query="what is on the left", sign=-1) as trim:
        model.generate(**batch, max_new_tokens=2, do_sample=False)
        image = trim.report.images[0]
    with torch.no_grad():
        features = model.model.vision_tower(batch["pixel_values"], output_hidden_states=True).hidden_states[-2][0, 1:]
    scorer = ClipNativeScorer(tiny.clip(), _tokenizer())
    scores = torch.softmax(-scorer.similarity([ImageTokens(features=features)], ["what is on the left"])[0], dim=0)
    torch.testing.assert_close(image.scores, scores, rtol=1e-4, atol=1e-6)
    q1, q3 = torch.quantile(scores, 0.25), torch.quantile(scores, 0.75)
    outliers = (scores > q3 + 1.5 * (q3 - q1)).nonzero().squeeze(1)
    expected = outliers if len(outliers) else scores.argmax().unsqueeze(0)
    assert image.indices.tolist() == expected.tolist()


def test_a_tower_without_text_is_refused(tmp_path: Path) -> None:
    CLIPVisionModel(tiny._vision()).save_pretrained(tmp_path / "vision")
    with pytest.raises(trimkit.ModelError, match="without a CLIP text tower"):
        load_scorer(tmp_path / "vision")
    with pytest.raises(trimkit.ModelError, match="cannot load the CLIP checkpoint"):
        load_scorer(tmp_path / "nowhere")
    with pytest.raises(trimkit.ConfigError, match="has no text_model"):
        ClipNativeScorer(CLIPVisionModel(tiny._vision()), _tokenizer())


def test_a_checkpoint_with_half_a_clip_is_refused(clip_dir: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(clip_dir / "model.safetensors")
    half = {name: value for name, value in weights.items() if not name.startswith("text_model")}
    save_file(half, clip_dir / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(trimkit.ModelError, match="no CLIP text tower"):
        load_scorer(clip_dir)
