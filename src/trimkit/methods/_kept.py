"""What a method keeps of a batch, between its choice and the selections of the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.transfer import rows_of

__all__ = ["Kept"]


@dataclass(frozen=True)
class Kept:
    """Tensors stay on the device; ``counts`` is what the host has to know of them.

    Attributes:
        keep: ``[B, N]`` bool; any where ``listed`` and ``counts`` say it all.
        counts: how many tokens each image keeps; None where the device has to be asked.
        listed: ``[B, K]`` int64 of methods that list tokens instead of marking them: those of each image, then N.
        ordered: whether ``listed`` is the order in the language model; else tokens stay in raster order.
    """

    keep: Tensor
    counts: list[int] | None = None
    listed: Tensor | None = None
    ordered: bool = False

    def places(self, counts: Sequence[int]) -> tuple[list[Tensor], list[Tensor] | None]:
        """``[k_i]`` int64 tokens of each image, ascending, and which of them comes first, second and so on, or None.

        Args:
            counts: tokens of each image.
        """
        most = max(counts, default=0)
        if self.listed is None:
            return rows_of(F.places(self.keep, most), counts), None
        indices, place = torch.sort(self.listed, dim=1, stable=True)
        orders = rows_of(place.argsort(dim=1), counts) if self.ordered else None
        return rows_of(indices, counts), orders
