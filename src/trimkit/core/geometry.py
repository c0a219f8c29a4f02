"""Where tokens look: boxes on the pixels an encoder was given, and maps of any resolution averaged over them. Pure tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

__all__ = ["View", "box_means", "even_boxes", "grid_view"]


@dataclass(frozen=True)
class View:
    """A picture, or a part of it, as the model's encoder was given it, and the tokens that see its parts.

    Attributes:
        pixels: ``[3, H, W]``, as the model's processor has normalised them; for a scorer, RGB in 0 to 1.
        tokens: ``[k]`` int64, which of the image's tokens.
        boxes: ``[k, 4]`` float, the left, top, right and bottom that each sees, in pixels.
    """

    pixels: Tensor
    tokens: Tensor
    boxes: Tensor

    def as_rgb(self, mean: Sequence[float], std: Sequence[float]) -> View:
        """The view with the normalisation of its pixels undone."""
        place = self.pixels.device
        shift, scale = (torch.tensor(list(v)).to(place, non_blocking=True).view(-1, 1, 1) for v in (mean, std))
        return replace(self, pixels=self.pixels.float() * scale + shift)


def even_boxes(rows: int, columns: int, height: float, width: float) -> Tensor:
    """Boxes ``[rows * columns, 4]`` of an even grid over ``height x width`` pixels, in raster order."""
    y = torch.arange(rows, dtype=torch.float64) * (height / rows)
    x = torch.arange(columns, dtype=torch.float64) * (width / columns)
    top, left = torch.meshgrid(y, x, indexing="ij")
    corners = (left, top, left + width / columns, top + height / rows)
    return torch.stack([c.flatten() for c in corners], dim=-1).float()


def grid_view(pixels: Tensor, rows: int, columns: int, first: int = 0) -> View:
    """The view of tokens ``first`` and following that lie over ``pixels`` as an even grid."""
    boxes = even_boxes(rows, columns, pixels.shape[-2], pixels.shape[-1])
    return View(pixels, torch.arange(first, first + rows * columns), boxes)


def box_means(values: Tensor, boxes: Tensor, height: float, width: float) -> Tensor:
    """Mean of a map over boxes, exact where the map is constant within each of its cells.

    Args:
        values: ``[g, h]`` cells of an even grid over ``height x width`` pixels.
        boxes: ``[k, 4]`` in those pixels; what lies outside does not count.

    Returns:
        ``[k]``.
    """
    rows, columns = values.shape
    integral = torch.zeros(rows + 1, columns + 1, dtype=torch.float64, device=values.device)
    integral[1:, 1:] = values.double().cumsum(0).cumsum(1)
    left, top, right, bottom = boxes.double().to(values.device, non_blocking=True).unbind(-1)
    x0, x1 = (x.clamp(0, width) * (columns / width) for x in (left, right))
    y0, y1 = (y.clamp(0, height) * (rows / height) for y in (top, bottom))
    inside = _at(integral, y1, x1) - _at(integral, y0, x1) - _at(integral, y1, x0) + _at(integral, y0, x0)
    return (inside / ((x1 - x0) * (y1 - y0)).clamp(min=1e-9)).to(values.dtype)


def _at(integral: Tensor, y: Tensor, x: Tensor) -> Tensor:
    """A summed-area table between its nodes: bilinear, which is exact for piecewise constant maps."""
    row = y.floor().long().clamp(max=integral.shape[0] - 2)
    column = x.floor().long().clamp(max=integral.shape[1] - 2)
    dy, dx = y - row, x - column
    upper = integral[row, column] * (1 - dx) + integral[row, column + 1] * dx
    lower = integral[row + 1, column] * (1 - dx) + integral[row + 1, column + 1] * dx
    return upper * (1 - dy) + lower * dy
