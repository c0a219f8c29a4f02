"""Average pooling: every kept token is the mean of a cell of the picture. The plain way to have fewer tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from trimkit.core.types import TokenBatch
from trimkit.methods._grid import cells
from trimkit.methods.uniform import Uniform

__all__ = ["AveragePool"]


class AveragePool(Uniform):
    """Cuts the token grid into exactly as many cells as tokens may stay, and keeps the mean of each, at its middle patch.

    A quarter of the tokens of a square grid is 2 x 2 pooling. VTC-Bench (arXiv 2510.07143) finds that down-sampling the picture
    beats many methods on common benchmarks; this is the same on features. Budgets and grids are as in ``uniform``.
    """

    name: ClassVar[str] = "avg-pool"
    summary: ClassVar[str] = "the mean of each cell of a grid over the picture: down-sampling (baseline)"

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        cell = cells(image.mask.shape[1], image.grids[0], len(indices)).to(indices.device, non_blocking=True)
        member = torch.nn.functional.one_hot(cell, len(indices)).T.float()
        return member / member.sum(dim=1, keepdim=True)
