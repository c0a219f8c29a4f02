"""Equal cells over a token grid: an exact number of them, whatever it is."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["cells", "centres"]

Box = tuple[int, int, int, int]


def cells(total: int, grid: tuple[int, int] | None, count: int) -> Tensor:
    """``[total]`` int64, the cell of every token: 0 to ``count - 1`` in raster order, none empty (``1 <= count <= total``)."""
    _, columns = _sides(total, grid)
    cell = torch.empty(total, dtype=torch.int64)
    for number, (top, bottom, left, right) in enumerate(_boxes(total, grid, count)):
        cell.view(-1, columns)[top:bottom, left:right] = number
    return cell


def centres(total: int, grid: tuple[int, int] | None, count: int) -> Tensor:
    """``[count]`` int64, ascending: the token in the middle of every cell."""
    _, columns = _sides(total, grid)
    middles = [
        ((top + bottom - 1) // 2) * columns + (left + right - 1) // 2
        for top, bottom, left, right in _boxes(total, grid, count)
    ]
    return torch.tensor(middles, dtype=torch.int64)


def _sides(total: int, grid: tuple[int, int] | None) -> tuple[int, int]:
    """Rows and columns; one row where the tokens are no grid."""
    return grid if grid is not None and grid[0] * grid[1] == total else (1, total)


def _boxes(total: int, grid: tuple[int, int] | None, count: int) -> list[Box]:
    """Bands of rows, each cut into as many columns as its share of ``count``; cells are as square as that allows."""
    rows, columns = _sides(total, grid)
    wanted = round(math.sqrt(count * rows / columns))
    bands = min(max(wanted, math.ceil(count / columns)), rows, count)
    boxes = []
    for band in range(bands):
        width = (band + 1) * count // bands - band * count // bands
        top, bottom = band * rows // bands, (band + 1) * rows // bands
        boxes += [(top, bottom, i * columns // width, (i + 1) * columns // width) for i in range(width)]
    return boxes
