"""LLaVA-OneVision: tiles and the whole picture through a SigLIP tower before a Qwen2."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from trimkit.bench.kinds import IMAGE_TOKEN
from trimkit.bench.kinds.parts import clip_tower, language, tiles
from trimkit.bench.shapes import Shape

__all__ = ["config", "inputs"]


def config(shape: Shape) -> Any:
    """See ``Kind``."""
    from transformers import LlavaOnevisionConfig

    return LlavaOnevisionConfig(
        vision_config=clip_tower(shape, "siglip_vision_model"),
        text_config=language(shape, "qwen2"),
        image_token_index=IMAGE_TOKEN,
        video_token_index=IMAGE_TOKEN - 1,
        image_grid_pinpoints=[list(shape.pixels)],
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        vision_aspect_ratio="anyres_max_9",
    )


def inputs(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """See ``Kind``. Every picture is tiled, as if it were alone in its row."""
    return {**tiles(shape, pictures, generator), "batch_num_images": torch.ones(pictures, dtype=torch.long)}
