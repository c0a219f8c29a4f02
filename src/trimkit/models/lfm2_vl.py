"""LFM2-VL (SigLIP 2 tower): flattened patches of any grid, padded in a batch; tokens are blocks of patches."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

from trimkit.core.geometry import View, grid_view
from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs

__all__ = ["Lfm2Vl"]


class Lfm2Vl(Family):
    """``spatial_shapes`` holds the rows and columns of patches; a patch is its pixels, channel last."""

    model_types: ClassVar[tuple[str, ...]] = ("lfm2_vl",)
    title: ClassVar[str] = "LFM2-VL"

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        factor = model.config.downsample_factor
        grids = [(int(h) // factor, int(w) // factor) for h, w in arguments["spatial_shapes"]]
        return [replace(t, grid=grid) for t, grid in zip(super().encode(model, arguments), grids, strict=True)]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        rows, columns = (int(n) for n in arguments["spatial_shapes"][0])
        side = model.config.vision_config.patch_size
        patches = arguments["pixel_values"][0, : rows * columns].view(rows, columns, side, side, -1)
        pixels = patches.permute(4, 0, 2, 1, 3).reshape(-1, rows * side, columns * side)
        if image.grid is None:
            return super().views(model, arguments, image)
        return (grid_view(pixels, *image.grid),)
