"""Video-LLaVA: one tower for pictures and one for videos, whose frames keep their CLS token."""

from __future__ import annotations

from typing import ClassVar

from trimkit.models._base import Family
from trimkit.models._videos import FrameVideos
from trimkit.models.square import SquareGrid

__all__ = ["VideoLlava"]


class _VideoLlavaVideos(FrameVideos):
    lead: ClassVar[int] = 1


class VideoLlava(SquareGrid):
    """Features after the projector, of either tower."""

    model_types: ClassVar[tuple[str, ...]] = ("video_llava",)
    title: ClassVar[str] = "Video-LLaVA"
    videos: ClassVar[Family | None] = _VideoLlavaVideos()
    video: ClassVar[bool] = True
