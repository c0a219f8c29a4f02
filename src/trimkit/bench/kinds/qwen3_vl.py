"""Qwen3-VL: pictures of any size, four patches to a token, states of three tower layers for the language model's first ones."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from trimkit.bench.kinds.parts import language, patch_rows, patch_tower, vision_ids
from trimkit.bench.shapes import Shape

__all__ = ["config", "inputs"]


def config(shape: Shape) -> Any:
    """See ``Kind``."""
    from transformers import Qwen3VLConfig

    head = shape.head or shape.language[1] // shape.language[2]
    third = 5 * head // 32  # 24, 20, 20 of 64
    axes = [head // 2 - 2 * third, third, third]
    positions = {"rope_type": "default", "mrope_section": axes, "mrope_interleaved": True, "rope_theta": 5_000_000.0}
    return Qwen3VLConfig(
        text_config=language(shape, "qwen3_vl_text", head_dim=head, rope_parameters=positions),
        vision_config=patch_tower(shape, num_position_embeddings=2304, deepstack_visual_indexes=list(shape.deepstack)),
        **vision_ids(),
    )


def inputs(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """See ``Kind``."""
    return patch_rows(shape, pictures, generator)
