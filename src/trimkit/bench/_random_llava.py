"""A LLaVA of a given geometry with random weights, and a CLIP text tower to match: all that speed depends on."""

from __future__ import annotations

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import torch

from trimkit.errors import ConfigError
from trimkit.scorers import ClipNativeScorer

__all__ = ["SHAPES", "Shape", "build_inputs", "build_llava", "build_scorer", "shape_of"]

_IMAGE_TOKEN = 3


@dataclass(frozen=True)
class Shape:
    """Layers, widths and heads of the vision tower, the CLIP text tower and the language model."""

    vision: tuple[int, int, int]
    text: tuple[int, int, int]
    language: tuple[int, int, int]
    language_inner: int
    image_size: int
    projection: int
    vocabulary: int
    patch_size: int = 14

    @property
    def image_tokens(self) -> int:
        """Patches of one picture."""
        return int((self.image_size // self.patch_size) ** 2)

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "image_tokens": self.image_tokens}


SHAPES = {
    "clip-l-336": Shape(
        vision=(24, 1024, 16),
        text=(12, 768, 12),
        language=(12, 1024, 16),
        language_inner=2816,
        image_size=336,
        projection=768,
        vocabulary=32_000,
    ),
    "small": Shape(
        vision=(2, 64, 4),
        text=(2, 32, 4),
        language=(2, 64, 4),
        language_inner=128,
        image_size=140,
        projection=32,
        vocabulary=256,
    ),
}


def shape_of(name: str) -> Shape:
    """The shape called ``name``.

    Raises:
        ConfigError: there is none.
    """
    if name not in SHAPES:
        raise ConfigError(f"shape {name!r} is not known: give one of {', '.join(SHAPES)}")
    return SHAPES[name]


def build_llava(shape: Shape, seed: int = 0) -> Any:
    """A stock ``LlavaForConditionalGeneration`` in eval mode, float32, on the CPU."""
    from transformers import LlavaConfig, LlavaForConditionalGeneration

    layers, width, heads = shape.language
    text = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": shape.language_inner,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    config = LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_tower(shape.vision, shape)},
        text_config=text,
        image_token_index=_IMAGE_TOKEN,
        image_seq_length=shape.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    torch.manual_seed(seed)
    model: Any = LlavaForConditionalGeneration(config)
    return model.eval()


def build_scorer(shape: Shape, seed: int = 0) -> ClipNativeScorer:
    """A text tower with random weights, fitting the vision features of ``build_llava``."""
    from transformers import CLIPConfig, CLIPModel

    layers, width, heads = shape.text
    text = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": 49_408 if shape.vocabulary > 1000 else shape.vocabulary,
        "projection_dim": shape.projection,
        "bos_token_id": 0,
        "eos_token_id": 2,  # transformers' mark for pooling at the highest id, as in OpenAI's checkpoints
    }
    vision = {**_tower(shape.vision, shape), "num_hidden_layers": 1}  # its layers are not used
    torch.manual_seed(seed)
    clip: Any = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection))
    return ClipNativeScorer(clip.eval(), _WordHash(text["vocab_size"]))


def build_inputs(shape: Shape, text_tokens: int, seed: int = 0) -> dict[str, torch.Tensor]:
    """One picture of noise and a prompt of ``text_tokens`` random ids around its placeholders."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.randint(_IMAGE_TOKEN + 1, shape.vocabulary, (text_tokens,), generator=generator)
    ids = torch.cat([words[:4], torch.full((shape.image_tokens,), _IMAGE_TOKEN), words[4:]]).unsqueeze(0)
    pixels = torch.randn(1, 3, shape.image_size, shape.image_size, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "pixel_values": pixels}


def _tower(sizes: tuple[int, int, int], shape: Shape) -> dict[str, Any]:
    layers, width, heads = sizes
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "projection_dim": shape.projection,
    }


class _WordHash:
    """Stands in for CLIP's tokenizer: one id a word, between a start and an end token."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        words = [3 + zlib.crc32(word.encode()) % (self._size - 4) for word in text.split()]
        return {"input_ids": [0, *words, self._size - 1]}
