"""A runner that shows what a user would see, and small checkpoints on disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from PIL import Image

from trimkit.cli import run
from trimkit.demo import demo_model_path


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str


Cli = Callable[..., Outcome]


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a short command is slow, and says how far it is: tests of what else it prints wait longer."""
    monkeypatch.setattr("trimkit.cli._progress._FIRST", 3600.0)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: str) -> Outcome:
        code = run(arguments)
        seen = capsys.readouterr()
        return Outcome(code, seen.out, seen.err)

    return call


@pytest.fixture
def picture(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    Image.linear_gradient("L").resize((120, 90)).convert("RGB").save(path)
    return str(path)


@pytest.fixture(scope="session")
def no_text_tower(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete LLaVA of random weights that names no CLIP its tower was taken from."""
    from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("checkpoints") / "no-text-tower"
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, **tower},
        text_config={"model_type": "llama", "vocab_size": 1024, "max_position_embeddings": 1024, **tower},
        image_token_index=2,
    )
    torch.manual_seed(0)
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    AutoProcessor.from_pretrained(demo_model_path()).save_pretrained(folder)
    return folder


@pytest.fixture
def broken_copy(no_text_tower: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A copy of that checkpoint with something wrong."""

    def make(kind: str) -> Path:
        folder = tmp_path / kind
        shutil.copytree(no_text_tower, folder)
        weights = folder / "model.safetensors"
        if kind == "cut-weights":
            weights.write_bytes(weights.read_bytes()[:5000])
        elif kind == "no-weights":
            weights.unlink()
        elif kind == "lacks-tensors":
            from safetensors.torch import load_file, save_file

            kept = {name: value for name, value in load_file(weights).items() if "multi_modal_projector" not in name}
            save_file(kept, weights, metadata={"format": "pt"})
        elif kind == "bad-config":
            (folder / "config.json").write_text("{ not json")
        elif kind == "unknown-type":
            (folder / "config.json").write_text('{"model_type": "no_such_model"}')
        elif kind == "no-processor":
            for name in (
                "processor_config.json",
                "preprocessor_config.json",
                "tokenizer.json",
                "tokenizer_config.json",
            ):
                (folder / name).unlink(missing_ok=True)
        return folder

    return make


@pytest.fixture(scope="session")
def llava_next_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete LLaVA-NeXT of random weights, whose tower has no text half: relevance needs a scorer."""
    import transformers
    from transformers import (
        AutoProcessor,
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextProcessor,
    )

    folder = tmp_path_factory.mktemp("checkpoints") / "llava-next"
    tokenizer = AutoProcessor.from_pretrained(demo_model_path()).tokenizer
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    pinpoints = [[56, 112], [112, 56], [112, 112]]
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", "image_size": 56, "patch_size": 14, **tower},
        text_config={"model_type": "llama", "vocab_size": 1024, "max_position_embeddings": 2048, **tower},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=pinpoints,
    )
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    # Without torchvision; older transformers have one class alone.
    reader = getattr(transformers, "LlavaNextImageProcessorPil", None) or transformers.LlavaNextImageProcessor
    size = {"crop_size": {"height": 56, "width": 56}, "size": {"shortest_edge": 56}}
    LlavaNextProcessor(
        reader(image_grid_pinpoints=pinpoints, **size),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    ).save_pretrained(folder)
    return folder
