"""Qwen2-VL, 2.5, 3 and GLM-4V: flattened patches of any size, and M-RoPE: kept tokens keep their 3-D positions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.geometry import View, grid_view
from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs

__all__ = ["Glm4v", "QwenVL"]


class _QwenPatches(Family):
    """Images and videos alike: ``<medium>_grid_thw`` has frames (pairs of frames in a video), rows and columns of patches."""

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        name, pixels = self._grids, self.pixels(model)
        grids = arguments[name]
        patches = arguments[pixels].split(grids.prod(dim=-1).tolist())
        return [{**arguments, pixels: part, name: grids[i : i + 1]} for i, part in enumerate(patches)]

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        merge = model.config.vision_config.spatial_merge_size
        tokens = super().encode(model, arguments)
        grids = [(int(t), int(h) // merge, int(w) // merge) for t, h, w in arguments[self._grids]]
        if self.medium == "video":
            return [replace(v, frames=(h * w,) * t) for v, (t, h, w) in zip(tokens, grids, strict=True)]
        return [replace(image, grid=(h, w)) for image, (_, h, w) in zip(tokens, grids, strict=True)]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        vision = model.config.vision_config
        merge, side = vision.spatial_merge_size, vision.patch_size
        times, rows, columns = (int(n) for n in arguments[self._grids][0])
        # Rows of patches run block by block; a patch holds channels, frames (a still picture twice), rows, columns. Frames
        # that are encoded together are seen as their mean.
        patches = arguments[self.pixels(model)].view(
            times, rows // merge, columns // merge, merge, merge, -1, vision.temporal_patch_size, side, side
        )
        pixels = patches.mean(dim=6).permute(0, 5, 1, 3, 6, 2, 4, 7).reshape(times, -1, rows * side, columns * side)
        high, wide = rows // merge, columns // merge
        return tuple(grid_view(frame, high, wide, first=i * high * wide) for i, frame in enumerate(pixels))

    @property
    def _grids(self) -> str:
        return f"{self.medium}_grid_thw"


class _QwenVideos(_QwenPatches):
    medium: ClassVar[str] = "video"


class QwenVL(_QwenPatches):
    """A kept token keeps its original (time, row, column) position; text keeps its own as well."""

    model_types: ClassVar[tuple[str, ...]] = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl")
    title: ClassVar[str] = "Qwen2-VL, Qwen2.5-VL, Qwen3-VL"
    videos: ClassVar[Family | None] = _QwenVideos()
    video: ClassVar[bool] = True

    def positions(self, model: Any, inputs: ModelInputs) -> Tensor | None:
        ids, mask = inputs["input_ids"], inputs.get("attention_mask")
        given = inputs.get("position_ids")
        if given is not None and given.ndim == 3:
            return torch.as_tensor(given[-3:])
        types = inputs.get("mm_token_type_ids")
        if types is None:
            types = self.places(model, inputs).int()
            if self.videos is not None:
                types = types + 2 * self.videos.places(model, inputs).int()
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


class _GlmVideos(_QwenVideos):
    """Frames stand in the prompt as images do; only the token types tell them apart, and without those all are video."""

    def image_token_id(self, model: Any) -> int:
        return int(model.config.image_token_id)

    def places(self, model: Any, inputs: ModelInputs) -> Tensor:
        places = super().places(model, inputs)
        if inputs.get("mm_token_type_ids") is not None:
            return places & torch.as_tensor(inputs["mm_token_type_ids"] == 2)
        return places & (inputs.get("video_grid_thw") is not None)

    def handed_as(self) -> str:
        return "image"


_GLM_VIDEOS = _GlmVideos()


class Glm4v(QwenVL):
    """Images and frames have one placeholder, so that their features are handed over together."""

    model_types: ClassVar[tuple[str, ...]] = ("glm4v",)
    title: ClassVar[str] = "GLM-4V"
    videos: ClassVar[Family | None] = _GLM_VIDEOS

    def places(self, model: Any, inputs: ModelInputs) -> Tensor:
        return super().places(model, inputs) & ~_GLM_VIDEOS.places(model, inputs)
