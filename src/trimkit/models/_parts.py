"""A vision tower and a projector as two modules with tensors in and tensors out: what can be exported, or run elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from trimkit.core.types import ImageTokens
from trimkit.models._clip_tower import layer_states

__all__ = ["ClipFeatures", "VisionParts"]


@dataclass(frozen=True)
class VisionParts:
    """What a family's ``encode`` and ``project`` do, where that is one module each.

    Attributes:
        tower: pixels ``[B, 3, H, W]`` to features ``[B, N, D]``.
        projector: kept features ``[B, k, D]`` to the language model's width, ``[B, k, H]``.
        grid, tower_columns: of every picture, see ``ImageTokens``.
        side: H and W of the pixels.
    """

    tower: nn.Module
    projector: nn.Module
    grid: tuple[int, int] | None
    tower_columns: tuple[int, int] | None
    side: int

    def images(self, features: Tensor) -> list[ImageTokens]:
        """The pictures whose features ``[B, N, D]`` the tower, or another engine in its place, has given."""
        grid = self.grid if self.grid and self.grid[0] * self.grid[1] == features.shape[1] else None
        return [ImageTokens(features=each, grid=grid, tower_columns=self.tower_columns) for each in features]


class ClipFeatures(nn.Module):
    """Some layers of a CLIP vision tower, side by side.

    Args:
        tower: a ``CLIPVisionModel``.
        layers: their numbers, as ``layer_states`` takes them.
        first: of the tokens that are given: 1 leaves the class token out.
    """

    def __init__(self, tower: Any, layers: Sequence[int], first: int) -> None:
        super().__init__()
        self.tower, self._layers, self._first = tower, tuple(layers), first

    def extra_repr(self) -> str:
        return f"layers={self._layers}, first={self._first}"

    def forward(self, pixel_values: Tensor) -> Tensor:
        """``[B, 3, H, W]`` to ``[B, N, D]``."""
        hidden = layer_states(self.tower, pixel_values, self._layers)
        return torch.cat([hidden[number][:, self._first :] for number in self._layers], dim=-1)
