"""Families whose encoder gives every picture, crop or tile the same square grid of tokens, after the projector."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs

__all__ = ["InternVL", "SquareGrid"]


class SquareGrid(Family):
    """One row of ``pixel_values`` is one square of pixels; merging and pooling keep the raster order of its tokens."""

    model_types: ClassVar[tuple[str, ...]] = (
        "paligemma",
        "gemma3",
        "aya_vision",
        "cohere2_vision",
    )
    title: ClassVar[str] = "PaliGemma, Gemma 3, Aya Vision, Command A Vision"

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


class InternVL(SquareGrid):
    """The processor gives a video as so many images, one a frame; each is reduced as one."""

    model_types: ClassVar[tuple[str, ...]] = ("internvl",)
    title: ClassVar[str] = "InternVL"
    video: ClassVar[bool] = True
