"""What is kept of the images of a call, before the projector and behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from trimkit.core.types import ImageTokens, Selection
from trimkit.pipeline.media import MediaItem

__all__ = ["ChosenImages"]


@dataclass(frozen=True)
class ChosenImages:
    """What is kept of every image: ``kept`` before the projector, ``embeddings`` ``[k_i, H]`` behind it.

    ``outputs`` holds the same as ``mm_encoder_outputs`` takes it.
    """

    items: Sequence[MediaItem]
    selections: Sequence[Selection]
    kept: Sequence[ImageTokens]
    embeddings: Sequence[Tensor]
    outputs: dict[str, Any]
