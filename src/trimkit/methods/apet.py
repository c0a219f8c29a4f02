"""ApET: patches that a few basis patches describe badly, the rest merged into them, and the basis itself."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.budget import Budget, BudgetField
from trimkit.core.greedy import gram
from trimkit.core.transfer import upload
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, wide_dtype
from trimkit.methods._images import on_device

__all__ = ["ApET", "approximation_errors", "farthest_points"]

_RIDGE = 1e-5  # the released code's


class ApET(ChoosingMethod):
    """Ranks patches by how badly they are approximated as a linear combination of a few basis patches. Reads no attention.

    1. Basis: farthest point sampling of ``basis`` patches by squared Euclidean distance.
    2. Error of a patch: the distance to its least-squares fit by the basis (ridge 1e-5).
    3. The T patches of largest error stay. At the places of the last ``basis`` of them, in raster order, stand the basis
       patches in the order in which they were chosen; the others take in, by their mean, every patch nearest (cosine) to them.

    The released code draws the first basis patch at random and seeds nothing. Here the draw follows from the picture's content
    and ``seed``, so that it is the same each time. The released code goes on in float16 behind the errors; here the model's own
    precision stays. Its scripts compress a second time inside the language model, which is left out.

    Options:
        basis: how many basis patches; at most one less than what is kept stands for itself.
        first: index of the first basis patch, or ``drawn``.
        seed: of the draw.
    """

    name: ClassVar[str] = "apet"
    summary: ClassVar[str] = "ApET: patches that a few basis patches approximate badly; the others merge into them"
    paper: ClassVar[str] = "https://github.com/MaQianKun0/ApET"

    budget: BudgetField = Budget("count", 64)
    basis: int = Field(default=10, ge=1)
    first: Literal["drawn"] | int = "drawn"
    seed: int = 0

    def qualities(self, batch: TokenBatch) -> Tensor:
        return approximation_errors(batch.features, self._basis(batch))

    def choices(self, batch: TokenBatch, scores: Tensor, counts: Sequence[int]) -> Tensor:
        return F.count_select(scores, on_device(counts, scores), batch.padding)

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        basis, total = self._basis(image), image.features.shape[1]
        errors, basis = approximation_errors(image.features, basis)[0], basis[0]
        order = indices[errors[indices].sort(descending=True, stable=True).indices]
        placed = min(self.basis, len(order) - 1)
        leads, device = order[: len(order) - placed], indices.device
        rows = torch.zeros(len(indices), total, device=device)
        at = torch.zeros(total, dtype=torch.int64, device=device)
        at[indices] = torch.arange(len(indices), device=device)
        free = torch.ones(total, dtype=torch.bool, device=device).index_fill(0, indices, False)
        joining = F.places(free, total - len(indices))
        nearest = leads[cosines(image.features[0])[joining][:, leads].argmax(dim=1)]
        rows[at[nearest], joining] = 1.0
        rows[at[leads], leads] = 1.0
        rows[at[order[len(order) - placed :].sort().values], basis[:placed]] = 1.0
        return rows / rows.sum(dim=1, keepdim=True)

    def _basis(self, batch: TokenBatch) -> Tensor:
        total = batch.features.shape[1]
        first = [self._first(key, total) for key in batch.keys]
        return farthest_points(batch.features, first, min(self.basis, total))

    def _first(self, key: str, total: int) -> int:
        if self.first != "drawn":
            return min(max(self.first, 0), total - 1)
        content = key.partition("|")[0]  # of the picture alone: the question has no say
        digest = hashlib.blake2b(f"{self.seed}:{content}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % total


def farthest_points(features: Tensor, first: Sequence[int], count: int) -> Tensor:
    """``[B, count]`` int64: from each ``first`` on, always the row of ``[B, N, D]`` that is farthest from those chosen."""
    wide = features.to(wide_dtype(features.device)).nan_to_num(0.0)
    chosen = [upload(first, features.device).unsqueeze(1)]
    distance = torch.full(features.shape[:2], torch.inf, dtype=wide.dtype, device=wide.device)
    for _ in range(1, count):
        distance = torch.minimum(distance, (wide - _rows(wide, chosen[-1])).square().sum(dim=2))
        chosen.append(distance.argmax(dim=1, keepdim=True))
    return torch.cat(chosen, dim=1)


def approximation_errors(features: Tensor, basis: Tensor) -> Tensor:
    """``[B, N]`` distance of each row of ``[B, N, D]`` to its ridge fit by the rows ``basis`` ``[B, K]``."""
    wide = features.to(wide_dtype(features.device)).nan_to_num(0.0)
    rows = _rows(wide, basis)
    ridge = _RIDGE * torch.eye(basis.shape[1], dtype=wide.dtype, device=wide.device)
    # Without a check of the matrix, for which the host would wait: the ridge makes it regular.
    shares = torch.linalg.solve_ex(gram(rows) + ridge, gram(rows, wide)).result
    fits = gram(shares.transpose(1, 2), rows.transpose(1, 2))
    errors: Tensor = torch.linalg.vector_norm(wide - fits, dim=2)
    return errors


def _rows(wide: Tensor, places: Tensor) -> Tensor:
    """``[B, K, D]`` rows of ``[B, N, D]``."""
    return wide.gather(1, places.unsqueeze(2).expand(-1, -1, wide.shape[2]))
