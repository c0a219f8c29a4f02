"""Families that batch the tiles (crops) of all pictures in one row, and rank each tile by itself: InternVL, Gemma 3."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.models import ModelInputs
from trimkit.serving.vllm.base_model import ReducingModel

__all__ = ["FlatTilesModel"]


class FlatTilesModel(ReducingModel):
    """Every tile has a square grid of as many tokens.

    Class attributes:
        tile_counts: name of the argument that says how many tiles a picture has.
    """

    tile_counts: ClassVar[str]

    def split_pictures(self, arguments: ModelInputs) -> list[ModelInputs]:
        counts = torch.as_tensor(arguments[self.tile_counts]).flatten()
        tiles = arguments["pixel_values"].split(counts.tolist())
        return [
            {**arguments, "pixel_values": part, self.tile_counts: counts[i : i + 1]} for i, part in enumerate(tiles)
        ]

    def join_pictures(self, pictures: Sequence[ModelInputs]) -> ModelInputs:
        several = {
            name: torch.cat([picture[name] for picture in pictures]) for name in ("pixel_values", self.tile_counts)
        }
        return {**pictures[0], **several}

    def rows(self, picture: ModelInputs) -> int:
        return len(picture["pixel_values"])

    def ranked(self, picture: ModelInputs, features: Tensor) -> list[ImageTokens]:
        length = len(features) // len(picture["pixel_values"])
        side = math.isqrt(length)
        grid = (side, side) if side * side == length else None
        return [ImageTokens(features[i : i + length], grid) for i in range(0, len(features), length)]

    def encoder_arguments(self, picture: ModelInputs, number: int) -> ModelInputs:
        return {"pixel_values": picture["pixel_values"][number : number + 1]}
