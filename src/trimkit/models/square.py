"""Families whose encoder gives every picture, crop or tile the same square grid of tokens, after the projector."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from trimkit.models._base import Family, ModelInputs
from trimkit.types import ImageTokens

__all__ = ["SquareGrid"]


class SquareGrid(Family):
    """One row of ``pixel_values`` is one square of pixels; merging and pooling keep the raster order of its tokens."""

    model_types: ClassVar[tuple[str, ...]] = (
        "video_llava",
        "paligemma",
        "gemma3",
        "internvl",
        "aya_vision",
        "cohere2_vision",
    )
    title: ClassVar[str] = "Video-LLaVA (images), PaliGemma, Gemma 3, InternVL, Aya Vision, Command A Vision"

    def first_position(self, model: Any) -> int:
        return int(model.config.model_type == "paligemma")

    def continues(self, model: Any) -> bool:
        return bool(model.config.model_type != "paligemma")  # its prompts see themselves both ways

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        images = super().encode(model, arguments)
        sides = [math.isqrt(len(image)) for image in images]
        return [
            replace(image, grid=(side, side) if side * side == len(image) else None)
            for image, side in zip(images, sides, strict=True)
        ]
