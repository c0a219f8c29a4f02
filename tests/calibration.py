"""Small stand-ins for calibration: a random LLaVA with a CLIP on disk, scenes of one bright spot, a scorer that sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from tests import tiny
from trimkit import EncoderProfile
from trimkit.demo import demo_model_path

QUESTIONS = ["What is this?", "How many lamps are there?"]
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


def write_checkpoint(folder: Path) -> Path:
    """A complete random LLaVA, and in ``clip`` the random CLIP that its tower is taken to come from; sign +1."""
    from transformers import (
        AutoProcessor,
        AutoTokenizer,
        CLIPConfig,
        CLIPModel,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = {"model_type": "clip_vision_model", "image_size": 336, "patch_size": 14, "projection_dim": 16, **_TOWER}
    text = {"model_type": "llama", "vocab_size": 936, "max_position_embeddings": 1024, **_TOWER}
    torch.manual_seed(0)
    model = tiny.ready(
        LlavaForConditionalGeneration(LlavaConfig(vision_config=vision, text_config=text, image_token_index=2))
    )
    model.resize_token_embeddings(
        986, mean_resizing=False
    )  # the demo tokenizer's; those that came later are drawn last
    model.generation_config.eos_token_id = 4
    model.save_pretrained(folder)
    processor = AutoProcessor.from_pretrained(demo_model_path())
    processor.save_pretrained(folder)
    words = {"vocab_size": 936, "max_position_embeddings": 32, "bos_token_id": 3, "eos_token_id": 4, **_TOWER}
    CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=16)).save_pretrained(folder / "clip")
    AutoTokenizer.from_pretrained(demo_model_path() / "clip").save_pretrained(folder / "clip")
    (folder / "trimkit.json").write_text(json.dumps({"clip": "clip", "sign": 1}))
    return folder


def spots(count: int) -> dict[str, Image.Image]:
    """Grey pictures with one noisy, coloured square each, at another place in each."""
    found = {}
    for number in range(count):
        random = np.random.default_rng(number)
        pixels = np.full((336, 336, 3), 128, dtype=np.uint8)
        top, left = random.integers(0, 336 - 56, size=2)
        pixels[top : top + 56, left : left + 56] = random.integers(0, 256, size=(56, 56, 3))
        found[f"{number:02}.png"] = Image.fromarray(pixels)
    return found


def write_spots(folder: Path, count: int) -> Path:
    """``spots`` as files."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, image in spots(count).items():
        image.save(folder / name)
    return folder


class Salience:
    """Similarity is how far a patch lies from the picture's mean, or with ``inverted`` minus that; no text is read."""

    def __init__(self, inverted: bool = False, sign: int = 1) -> None:
        self.profile = EncoderProfile(sign=sign)
        self._factor = -1.0 if inverted else 1.0
        self.encoded: list[str] = []

    def similarity(self, images: Any, queries: Any, *, normalize: bool = False, truncate: bool = False) -> Any:
        out = []
        for image in images:
            self.encoded.append(image.key)
            far = (image.features - image.features.mean(dim=0)).norm(dim=1)
            out.append(self._factor * far)
        return out
