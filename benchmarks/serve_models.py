"""Checkpoints for load tests: LLaVA-1.5 and LLaVA-NeXT with random weights, at widths that two CPU cores can serve.

The vision tower has 6 % of the language model's parameters (LLaVA-1.5-7B: 5 %).
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from trimkit.demo import demo_model_path

__all__ = ["SHAPES", "Shape", "save_model"]

_TOWER = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4}
_TEXT = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_SIDE, _PATCH = 336, 14


@dataclass(frozen=True)
class Shape:
    """A model and what it is asked about.

    Attributes:
        full, budget: image tokens of a picture, and how many the reduced server keeps.
        picture: width and height.
        context: positions of the language model.
        tiled: whether the picture is cut to tiles (LLaVA-NeXT).
        per_client: requests of every client in a round, at least.
    """

    full: int
    budget: int
    picture: tuple[int, int]
    context: int
    tiled: bool = False
    per_client: int = 2


SHAPES = {
    "llava": Shape(576, 121, (336, 336), 2048),
    "llava-next": Shape(2928, 320, (672, 672), 4096, tiled=True, per_client=1),
}
"""LLaVA-NeXT's 2,880 patches come with a newline token for each of 48 rows."""


def save_model(shape: str, folder: Path, seed: int = 0) -> None:
    """Write a checkpoint with its processor and a CLIP, by names of weights that stock vLLM reads, too."""
    tokenizer = tf.AutoTokenizer.from_pretrained(demo_model_path())
    tiled = SHAPES[shape].tiled
    config = _config(tokenizer, SHAPES[shape])
    torch.manual_seed(seed)
    model = (tf.LlavaNextForConditionalGeneration if tiled else tf.LlavaForConditionalGeneration)(config)
    model.generation_config = tf.GenerationConfig(eos_token_id=tokenizer.eos_token_id)
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    named = {_older(name): value for name, value in weights.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})
    _processor(tokenizer, tiled).save_pretrained(folder)
    _clip(tokenizer, folder / "clip", tiled)
    (folder / "trimkit.json").write_text(json.dumps({"clip": "clip"}), encoding="utf-8")


def _older(name: str) -> str:
    head, found, inside = name.partition("vision_tower.")
    return f"{head}{found}vision_model.{inside}" if found and not inside.startswith("vision_model.") else name


def _config(tokenizer: Any, shape: Shape) -> Any:
    settings = {
        "vision_config": {"model_type": "clip_vision_model", "image_size": _SIDE, "patch_size": _PATCH, **_TOWER},
        "text_config": {
            "model_type": "llama",
            "vocab_size": len(tokenizer),
            "max_position_embeddings": shape.context,
            "eos_token_id": tokenizer.eos_token_id,
            **_TEXT,
        },
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
    }
    return (
        tf.LlavaNextConfig(image_grid_pinpoints=_PINPOINTS, **settings) if shape.tiled else tf.LlavaConfig(**settings)
    )


def _processor(tokenizer: Any, tiled: bool) -> Any:
    size = {"size": {"shortest_edge": _SIDE}, "crop_size": {"height": _SIDE, "width": _SIDE}}
    plain = {"patch_size": _PATCH, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    template = tf.AutoProcessor.from_pretrained(demo_model_path()).chat_template
    if tiled:
        images = tf.LlavaNextImageProcessor(image_grid_pinpoints=_PINPOINTS, **size)
        return tf.LlavaNextProcessor(images, tokenizer, chat_template=template, **plain)
    return tf.LlavaProcessor(tf.CLIPImageProcessor(**size), tokenizer, chat_template=template, **plain)


def _clip(tokenizer: Any, folder: Path, tiled: bool) -> None:
    """Of the tower's shape, so that it reads LLaVA's own features; for LLaVA-NeXT the demo model's looks at the pixels."""
    if tiled:
        shutil.copytree(demo_model_path() / "clip", folder)
        return
    inside = demo_model_path() / "clip"
    config = tf.CLIPConfig.from_pretrained(inside)
    vision = {**config.vision_config.to_dict(), **_TOWER, "image_size": _SIDE, "patch_size": _PATCH}
    clip = tf.CLIPModel(tf.CLIPConfig(text_config=config.text_config.to_dict(), vision_config=vision))
    clip.save_pretrained(folder)
    tf.AutoTokenizer.from_pretrained(inside).save_pretrained(folder)
