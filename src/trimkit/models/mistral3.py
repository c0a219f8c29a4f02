"""Mistral 3 (Pixtral tower): pictures of any size, padded in a batch to the largest; tokens are blocks of patches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs
from trimkit.models._pixels import join_padded

__all__ = ["Mistral3"]


class Mistral3(Family):
    """Features after the projector, on a grid of ``patch_size * spatial_merge_size`` pixels."""

    model_types: ClassVar[tuple[str, ...]] = ("mistral3",)
    title: ClassVar[str] = "Mistral 3, Pixtral"
    cuts_by_axes: ClassVar[bool] = False

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        parts = super().split(model, arguments)
        for part in parts:
            height, width = (int(side) for side in part["image_sizes"][0])
            part["pixel_values"] = part["pixel_values"][..., :height, :width]
        return parts

    def join(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        return super().join(join_padded(parts))

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        step = model.config.vision_config.patch_size * model.config.spatial_merge_size
        sizes = [(int(h) // step, int(w) // step) for h, w in arguments["image_sizes"]]
        return [replace(t, grid=grid) for t, grid in zip(super().encode(model, arguments), sizes, strict=True)]
