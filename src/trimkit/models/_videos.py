"""Videos that come as ``[V, T, C, H, W]``: every frame is encoded alone and gives as many tokens as every other."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.geometry import View, even_boxes, grid_view
from trimkit.core.types import ImageTokens
from trimkit.models._base import Family, ModelInputs

__all__ = ["FrameVideos", "even_frames"]


def even_frames(tokens: int, frames: int) -> tuple[int, ...]:
    """Tokens of each frame; what is left over (a newline token) is the last one's."""
    each, rest = divmod(tokens, frames)
    return (*[each] * (frames - 1), each + rest)


class FrameVideos(Family):
    """A row of the pixels is one video; its tokens follow each other frame by frame, each a square in raster order.

    Class attributes:
        lead: tokens of a frame in front of the square, which see all of it (CLS).
    """

    medium: ClassVar[str] = "video"
    lead: ClassVar[int] = 0

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        videos, frames = arguments[self.pixels(model)].shape[:2]
        found = [image.features.flatten(0, -2) for image in super().encode(model, arguments)]
        # Some versions give frames one by one. All videos of one tensor are equally long.
        features = torch.cat(found).view(videos, -1, found[0].shape[-1])
        return [ImageTokens(video, frames=even_frames(len(video), frames)) for video in features]

    def views(self, model: Any, arguments: ModelInputs, image: ImageTokens) -> tuple[View, ...]:
        frames = arguments[self.pixels(model)][0]
        starts = [sum(image.frames[:i]) for i in range(len(image.frames))]
        side = math.isqrt(image.frames[0] - self.lead)
        return tuple(self._frame(pixels, side, start) for pixels, start in zip(frames, starts, strict=True))

    def _frame(self, pixels: Tensor, side: int, start: int) -> View:
        view = grid_view(pixels, side, side, first=start + self.lead)
        if not self.lead:
            return view
        whole = even_boxes(1, 1, pixels.shape[-2], pixels.shape[-1]).expand(self.lead, -1)
        tokens = torch.cat([torch.arange(start, start + self.lead), view.tokens])
        return replace(view, tokens=tokens, boxes=torch.cat([whole, view.boxes]))
