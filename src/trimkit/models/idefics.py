"""Idefics 3 and SmolVLM: all tiles of a row's pictures come together; tokens of a tile are a square after the shuffle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from packaging.version import Version

from trimkit.core.geometry import View, grid_view
from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError
from trimkit.models._base import Family, ModelInputs
from trimkit.models._pixels import join_padded, real_tiles

__all__ = ["Idefics", "SmolVLM"]


class Idefics(Family):
    """What counts as one image is all that a row holds: its pictures' tiles and overviews, in order of the prompt."""

    model_types: ClassVar[tuple[str, ...]] = ("idefics3",)
    title: ClassVar[str] = "Idefics 3"
    cuts_by_axes: ClassVar[bool] = False

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        parts = []
        for part in super().split(model, arguments):
            real = real_tiles(part["pixel_values"][0])
            if bool(real.any()):
                tiles = ("pixel_values", "pixel_attention_mask")
                parts.append({name: v[:, real] if name in tiles else v for name, v in part.items()})
        return parts

    def join(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        return super().join(join_padded(parts))

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        images = [image for image in super().encode(model, arguments) if len(image)]
        tiles = [int(n) for n in real_tiles(arguments["pixel_values"]).sum(dim=1) if n]
        if len(images) == len(tiles):
            return images
        # transformers 5.18 gives tiles one by one
        parts = torch.split(torch.cat([image.features for image in images]), [n * len(images[0]) for n in tiles])
        return [ImageTokens(features=part) for part in parts]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        tiles = arguments["pixel_values"][0]
        each = len(image) // len(tiles)
        side = math.isqrt(each)
        return tuple(grid_view(tile, side, side, first=i * each) for i, tile in enumerate(tiles))


class SmolVLM(Idefics):
    """The processor gives a video's frames as tiles, so that a row's video is its one image, ranked as a whole."""

    model_types: ClassVar[tuple[str, ...]] = ("smolvlm",)
    title: ClassVar[str] = "SmolVLM"
    video: ClassVar[bool] = True

    def check(self, model: Any) -> None:
        import transformers

        super().check(model)
        found = transformers.__version__
        if Version(found).release < (5, 23):
            raise UnsupportedError(
                f"SmolVLM takes fewer tokens than whole tiles from transformers 5.23 on, and this is {found}: upgrade it"
            )
