"""LLaVA-1.5: a CLIP tower, a two-layer projector and a Llama; one square picture is one crop."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from trimkit.bench.kinds import IMAGE_TOKEN
from trimkit.bench.kinds.parts import clip_tower, language
from trimkit.bench.shapes import Shape

__all__ = ["config", "inputs"]


def config(shape: Shape) -> Any:
    """See ``Kind``."""
    from transformers import LlavaConfig

    return LlavaConfig(
        vision_config=clip_tower(shape),
        text_config=language(shape, "llama"),
        image_token_index=IMAGE_TOKEN,
        image_seq_length=shape.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def inputs(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """See ``Kind``."""
    return {"pixel_values": torch.randn(pictures, 3, shape.image_size, shape.image_size, generator=generator)}
