"""Qwen2.5-VL: pictures of any size through a tower with windows, four patches to a token, 3-D positions."""

from __future__ import annotations

from typing import Any

from torch import Generator, Tensor

from trimkit.bench.kinds.parts import language, patch_rows, patch_tower, vision_ids
from trimkit.bench.shapes import Shape

__all__ = ["config", "inputs"]


def config(shape: Shape) -> Any:
    """See ``Kind``."""
    from transformers import Qwen2_5_VLConfig

    half = (shape.head or shape.language[1] // shape.language[2]) // 2
    axes = [half - 2 * (3 * half // 8), 3 * half // 8, 3 * half // 8]  # 16, 24, 24 of 64
    positions = {"rope_type": "default", "mrope_section": axes, "rope_theta": 1_000_000.0}
    return Qwen2_5_VLConfig(
        text_config=language(shape, "qwen2_5_vl_text", rope_parameters=positions),
        vision_config=patch_tower(shape, window_size=shape.window, fullatt_block_indexes=list(shape.full_attention)),
        **vision_ids(),
    )


def inputs(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """See ``Kind``."""
    return patch_rows(shape, pictures, generator)
