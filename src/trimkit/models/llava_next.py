"""LLaVA-NeXT and OneVision: any-resolution tiles, packed with newline tokens; a batch is padded to the most tiles."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.geometry import View, even_boxes
from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs
from trimkit.models._pixels import join_padded
from trimkit.models._videos import FrameVideos

__all__ = ["LlavaNext", "LlavaNextVideo"]

_ROUNDING = 1e-3  # patches: what interpolation in half precision may be off


class LlavaNext(Family):
    """Features after the packing. A picture counts its own tiles, so that it is the same picture in any batch."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    title: ClassVar[str] = "LLaVA-NeXT (1.6)"

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        parts = super().split(model, arguments)
        if arguments["pixel_values"].ndim != 5:
            return parts
        for part, tiled in zip(parts, _tiled(arguments), strict=True):
            part["pixel_values"] = part["pixel_values"][:, : self._tiles(model, part) if tiled else 1]
            if "batch_num_images" in part:  # an image among several is not tiled: say so again when it is alone
                part["batch_num_images"] = torch.tensor([1 if tiled else 2])
        return parts

    def join(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        joined = super().join(join_padded(parts))
        if "batch_num_images" in joined and not _tiled(parts[0])[0]:
            joined["batch_num_images"] = torch.tensor([max(2, len(parts))])
        return joined

    def encode_parts(self, model: Any, parts: Sequence[ModelInputs]) -> list[ImageTokens]:
        """Tiled and untiled images cannot come together when each is alone: first the ones, then the others."""
        tiled = [_tiled(part)[0] for part in parts]
        found: dict[int, ImageTokens] = {}
        for kind in sorted(set(tiled)):
            places = [i for i, each in enumerate(tiled) if each == kind]
            images = super().encode_parts(model, [parts[i] for i in places])
            found.update(zip(places, images, strict=True))
        return [found[i] for i in range(len(parts))]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        """The whole picture at low resolution, and the tiles put together; newline tokens look nowhere."""
        vision, tiles = model.config.vision_config, arguments["pixel_values"][0]
        side = vision.image_size // vision.patch_size
        size = tuple(int(n) for n in arguments["image_sizes"][0])
        whole = View(tiles[0], torch.arange(side * side), even_boxes(side, side, *tiles[0].shape[-2:]))
        if len(tiles) == 1:
            return (whole,)
        rows, columns = self._grid(model, size)
        pixels = tiles[1:].unflatten(0, (rows, columns)).permute(2, 0, 3, 1, 4).flatten(3, 4).flatten(1, 2)
        return whole, _mosaic(
            self._centres(model, arguments, side, (rows, columns)), pixels, side * side, vision.patch_size
        )

    def _centres(self, model: Any, arguments: ModelInputs, side: int, grid: tuple[int, int]) -> Tensor:
        """Row and column ``[n, 2]`` of every token's centre in patches of the mosaic, -1 where it is a newline: the model's own
        packing says so, run on coordinates instead of features.
        """
        rows, columns = grid
        y = torch.arange(rows * side).float().view(rows, 1, side, 1) + 0.5
        x = torch.arange(columns * side).float().view(1, columns, 1, side) + 0.5
        shape = (rows, columns, side, side)
        tiles = torch.stack([y.expand(shape), x.expand(shape)], dim=-1).view(rows * columns, side * side, 2)
        features = torch.cat([torch.zeros(1, side * side, 2), tiles])
        pack = self.base(model).pack_image_features
        config = model.config
        known = {
            "vision_feature_select_strategy": config.vision_feature_select_strategy,
            "vision_aspect_ratio": arguments.get("vision_aspect_ratio") or getattr(config, "vision_aspect_ratio", None),
        }
        extra = {name: value for name, value in known.items() if name in inspect.signature(pack).parameters}
        packed, _ = pack([features], arguments["image_sizes"], image_newline=torch.full((2,), -1.0), **extra)
        centres: Tensor = packed[0]
        return centres

    def _grid(self, model: Any, size: tuple[int, ...]) -> tuple[int, int]:
        from transformers.models.llava_next.modeling_llava_next import get_anyres_image_grid_shape

        shape: Any = get_anyres_image_grid_shape
        rows, columns = shape(size, model.config.image_grid_pinpoints, model.config.vision_config.image_size)
        return rows, columns

    def _tiles(self, model: Any, arguments: ModelInputs) -> int:
        rows, columns = self._grid(model, tuple(int(n) for n in arguments["image_sizes"][0]))
        return rows * columns + 1


class LlavaNextVideo(LlavaNext):
    """With videos, whose frames are pooled and not tiled; OneVision ends each video with a newline token."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next_video", "llava_onevision")
    title: ClassVar[str] = "LLaVA-NeXT-Video, LLaVA-OneVision"
    videos: ClassVar[Family | None] = FrameVideos()
    video: ClassVar[bool] = True


def _tiled(arguments: ModelInputs) -> list[bool]:
    """Which images are cut to tiles: in OneVision only those that are alone in their row."""
    counts = arguments.get("batch_num_images")
    if counts is None:
        return [True] * len(arguments["pixel_values"])
    return [int(n) == 1 for n in counts for _ in range(int(n))]


def _mosaic(centres: Tensor, pixels: Tensor, first: int, patch: int) -> View:
    """The view of the tokens behind ``first``, from their centres in patches (the first ones are the whole picture's).

    Where the packing has resized the features, a token is a mixture of the two patches on either side of its centre, along each
    axis, or one patch where the centre is that patch's own.
    """
    tokens = torch.arange(first, len(centres))
    tokens = tokens[(centres[tokens] >= 0).all(dim=1)]
    at = centres[tokens] - 0.5  # in steps from the middle of the first patch
    upper, lower = (at + _ROUNDING).floor(), (at - _ROUNDING).ceil() + 1
    return View(pixels, tokens, torch.cat([upper.flip(1), lower.flip(1)], dim=1) * patch)
