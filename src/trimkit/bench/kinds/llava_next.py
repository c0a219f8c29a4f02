"""LLaVA-NeXT: tiles and the whole picture through a CLIP tower; rows of tiles end with a newline token."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from trimkit.bench.kinds import IMAGE_TOKEN
from trimkit.bench.kinds.parts import clip_tower, language, tiles
from trimkit.bench.shapes import Shape

__all__ = ["config", "inputs"]


def config(shape: Shape) -> Any:
    """See ``Kind``."""
    from transformers import LlavaNextConfig

    return LlavaNextConfig(
        vision_config=clip_tower(shape),
        text_config=language(shape, "llama"),
        image_token_index=IMAGE_TOKEN,
        image_grid_pinpoints=[list(shape.pixels)],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def inputs(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """See ``Kind``."""
    return tiles(shape, pictures, generator)
