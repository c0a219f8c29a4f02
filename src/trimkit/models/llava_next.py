"""LLaVA-NeXT: any-resolution tiles, packed with newline tokens; pictures of one batch are padded to the most tiles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch

from trimkit.models._base import Family, ModelInputs

__all__ = ["LlavaNext"]


class LlavaNext(Family):
    """Features after the packing. A picture counts its own tiles, so that it is the same picture in any batch."""

    model_types: ClassVar[tuple[str, ...]] = ("llava_next",)
    title: ClassVar[str] = "LLaVA-NeXT (1.6)"
    tested: ClassVar[str] = "keep-all, hand-built, ragged batch, beam, labels"

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

        config = model.config
        parts = super().split(model, arguments)
        if arguments["pixel_values"].ndim != 5:
            return parts
        for part in parts:
            tiles = image_size_to_num_patches(
                part["image_sizes"][0], config.image_grid_pinpoints, config.vision_config.image_size
            )
            part["pixel_values"] = part["pixel_values"][:, :tiles]
        return parts

    def join(self, parts: Sequence[ModelInputs]) -> ModelInputs:
        most = max(part["pixel_values"].shape[1] for part in parts)
        padded = [{**part, "pixel_values": _pad(part["pixel_values"], most)} for part in parts]
        return super().join(padded)


def _pad(pixels: torch.Tensor, tiles: int) -> torch.Tensor:
    """Zero tiles behind ``[1, t, C, H, W]``."""
    missing = tiles - pixels.shape[1]
    return pixels if missing == 0 else torch.cat([pixels, pixels.new_zeros(1, missing, *pixels.shape[2:])], dim=1)
