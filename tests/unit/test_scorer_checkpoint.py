"""What is read of a scorer's checkpoint, and what is refused: the text half for the native scorer, all of it for pixels."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, CLIPModel, modeling_utils

import trimkit
from tests import tiny
from tests.unit.test_scorer import _tokenizer
from trimkit import ClipNativeScorer, ExternalScorer, ImageTokens
from trimkit.scorers import load_scorer

QUESTION = "what is on the left"
TOWER = tiny._vision()


def save(directory: Path, clip: Any = None, **options: Any) -> Path:
    """A CLIP with its tokenizer."""
    (clip or tiny.clip()).save_pretrained(directory, **options)
    _tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture
def clip_dir(tmp_path: Path) -> Path:
    return save(tmp_path / "clip")


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Bytes of every tensor that transformers takes out of a safetensors file."""
    taken: dict[str, int] = {}

    class Slice:
        def __init__(self, name: str, inner: Any) -> None:
            self.name, self.inner = name, inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __getitem__(self, index: Any) -> Any:
            found = self.inner[index]
            taken[self.name] = taken.get(self.name, 0) + found.nbytes
            return found

    class Opened:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.inner = safe_open(*args, **kwargs)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def __exit__(self, *args: Any) -> None:
            self.inner.__exit__(*args)

        def get_slice(self, name: str) -> Any:
            return Slice(name, self.inner.get_slice(name))

    monkeypatch.setattr(modeling_utils, "safe_open", Opened)
    return taken


def _narrow_clip_l() -> CLIPModel:
    """CLIP-L's numbers of layers and vocabulary at an eighth of its widths."""
    vision = {"hidden_size": 128, "intermediate_size": 512, "num_hidden_layers": 24, "num_attention_heads": 2}
    text = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 12, "num_attention_heads": 2}
    config = CLIPConfig(
        vision_config={**vision, "image_size": 336, "patch_size": 14},
        text_config={**text, "vocab_size": 6000, "max_position_embeddings": 77},
        projection_dim=96,
    )
    return CLIPModel(config)


def _bytes(clip: Any, start: str) -> int:
    return sum(value.nbytes for name, value in clip.state_dict().items() if name.startswith(start))


@pytest.mark.parametrize("shards", [{}, {"max_shard_size": "500KB"}], ids=["one-file", "sharded"])
def test_only_the_text_half_is_read(tmp_path: Path, read: dict[str, int], shards: dict[str, str]) -> None:
    clip = _narrow_clip_l()
    save(tmp_path, clip, **shards)
    assert (tmp_path / "model.safetensors").is_file() == (not shards)
    assert isinstance(load_scorer(tmp_path, tower=clip.config.vision_config), ClipNativeScorer)
    half = _bytes(clip, "text_") + _bytes(clip, "visual_projection")
    assert _bytes(clip, "text_") <= sum(read.values()) <= 1.1 * half
    assert not any(name.startswith("vision_model.encoder") for name in read)


def test_pixels_need_all_of_it(clip_dir: Path, read: dict[str, int]) -> None:
    assert isinstance(load_scorer(clip_dir), ExternalScorer)
    assert set(read) == set(tiny.clip().state_dict())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_what_is_read_scores_as_the_whole(tmp_path: Path, dtype: torch.dtype) -> None:
    save(tmp_path, tiny.clip().to(dtype))
    whole = ClipNativeScorer(CLIPModel.from_pretrained(tmp_path).eval().float(), _tokenizer())
    image = ImageTokens(features=torch.randn(tiny.TOKENS, 32, generator=torch.Generator().manual_seed(1)))
    half: Any = load_scorer(tmp_path, tower=TOWER)
    for scorer in (half, load_scorer(tmp_path, tower=TOWER, dtype=torch.bfloat16)):
        assert type(scorer) is ClipNativeScorer
    assert torch.equal(half.text_embeddings([QUESTION])[0], whole.text_embeddings([QUESTION])[0])
    assert torch.equal(half.similarity([image], [QUESTION])[0], whole.similarity([image], [QUESTION])[0])


def test_an_old_checkpoint_with_position_ids(clip_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    weights = load_file(clip_dir / "model.safetensors")
    old = {f"{half}_model.embeddings.position_ids": torch.arange(9)[None] for half in ("text", "vision")}
    save_file({**weights, **old}, clip_dir / "model.safetensors", metadata={"format": "pt"})
    scorer: Any = load_scorer(clip_dir, tower=TOWER)
    words = scorer.text_model.embeddings.token_embedding.weight
    assert torch.equal(words, tiny.clip().text_model.embeddings.token_embedding.weight)
    assert caplog.records == []


@pytest.mark.parametrize("lost", ["text_model", "text_projection", "visual_projection", "vision_model.post_layernorm"])
@pytest.mark.parametrize("tower", [TOWER, None], ids=["native", "external"])
def test_half_a_clip_is_refused(clip_dir: Path, lost: str, tower: Any) -> None:
    _without(clip_dir, lost)
    with pytest.raises(trimkit.ModelError, match=f"no CLIP text tower, or half of one .no {lost}"):
        load_scorer(clip_dir, tower=tower)


def test_a_clip_that_lacks_vision_layers_cannot_look_at_pixels(clip_dir: Path) -> None:
    _without(clip_dir, "vision_model.encoder.layers.0.mlp")
    assert load_scorer(clip_dir, tower=TOWER)
    with pytest.raises(trimkit.ModelError, match="is incomplete: it lacks 4 tensors"):
        load_scorer(clip_dir)


def _without(directory: Path, lost: str) -> None:
    weights = load_file(directory / "model.safetensors")
    left = {name: value for name, value in weights.items() if not name.startswith(lost)}
    save_file(left, directory / "model.safetensors", metadata={"format": "pt"})


def test_a_hub_id_is_read_from_the_cache(tmp_path: Path) -> None:
    repository = tmp_path / "hub" / "models--owner--clip"
    save(repository / "snapshots" / "0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123abcd")
    code = (
        "from tests.tiny import _vision; from trimkit.scorers import load_scorer\n"
        "one, other = (load_scorer('owner/clip', tower=_vision()) for _ in range(2))\n"
        f"print(type(one).__name__, one is other, one.text_embeddings([{QUESTION!r}])[0].sum().item())"
    )
    offline = {"HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path / "hub")}
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **offline}, capture_output=True, text=True)
    expected = ClipNativeScorer(tiny.clip(), _tokenizer()).text_embeddings([QUESTION])[0].sum().item()
    assert done.stdout.split()[:2] == ["ClipNativeScorer", "True"], done.stderr
    assert float(done.stdout.split()[2]) == pytest.approx(expected, rel=1e-4)
    assert done.stderr == ""
