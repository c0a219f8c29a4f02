"""Qwen2-VL, 2.5, 3 and GLM-4V: flattened patches of any size, and M-RoPE, whose 3-D positions survive the shrinking."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.geometry import View, grid_view
from trimkit.models._base import Family, ModelInputs
from trimkit.types import ImageTokens

__all__ = ["QwenVL"]


class QwenVL(Family):
    """A kept token keeps its original (time, row, column) position; text keeps its own as well."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v")
    title: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL, GLM-4V"

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        grids = arguments["image_grid_thw"]
        pixels = arguments["pixel_values"].split(grids.prod(dim=-1).tolist())
        return [
            {**arguments, "pixel_values": part, "image_grid_thw": grids[i : i + 1]} for i, part in enumerate(pixels)
        ]

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        merge = model.config.vision_config.spatial_merge_size
        tokens = super().encode(model, arguments)
        grids = [(int(h) // merge, int(w) // merge) for _, h, w in arguments["image_grid_thw"]]
        return [replace(t, grid=grid) for t, grid in zip(tokens, grids, strict=True)]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        vision = model.config.vision_config
        merge, side = vision.spatial_merge_size, vision.patch_size
        _, rows, columns = (int(n) for n in arguments["image_grid_thw"][0])
        # Rows of patches run block by block; a patch holds channels, frames (one picture twice), rows, columns.
        patches = arguments["pixel_values"].view(
            rows // merge, columns // merge, merge, merge, -1, vision.temporal_patch_size, side, side
        )[:, :, :, :, :, 0]
        pixels = patches.permute(4, 0, 2, 5, 1, 3, 6).reshape(-1, rows * side, columns * side)
        return (grid_view(pixels, rows // merge, columns // merge),)

    def positions(self, model: Any, inputs: ModelInputs) -> Tensor | None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        given = inputs.get("position_ids")
        if given is not None and given.ndim == 3:
            return torch.as_tensor(given[-3:])
        types = inputs.get("mm_token_type_ids")
        if types is None:
            types = (ids == self.image_token_id(model)).int() + 2 * (ids == model.config.video_token_id).int()
        positions, _ = self.base(model).get_rope_index(
            ids,
            mm_token_type_ids=types,
            image_grid_thw=inputs.get("image_grid_thw"),
            video_grid_thw=inputs.get("video_grid_thw"),
            attention_mask=mask,
            **{name: inputs[name] for name in ("second_per_grid_ts",) if inputs.get(name) is not None},
        )
        return positions  # type: ignore[no-any-return]

    def place(self, model: Any, inputs: ModelInputs, positions: Tensor, *, generating: bool) -> None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        real = torch.ones_like(ids) if mask is None else mask.long()
        text = (real.cumsum(dim=-1) - 1).clamp(min=0)
        # Decoding goes on from the largest position that is left.
        lengths = real.sum(dim=-1, keepdim=True)
        largest = positions.amax(dim=0).masked_fill(real == 0, 0).amax(dim=-1, keepdim=True)
        self.base(model).rope_deltas = largest + 1 - lengths
        inputs["position_ids"] = torch.cat([text.unsqueeze(0), positions]) if generating else positions
