"""ApET: patches that a few basis patches describe badly, the rest merged into them, and the basis itself."""

from __future__ import annotations

import hashlib
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from trimkit.core.budget import Budget, BudgetField
from trimkit.core.types import TokenBatch
from trimkit.methods._choosing import ChoosingMethod, cosines, wide_dtype

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

    def quality(self, image: TokenBatch) -> Tensor:
        return approximation_errors(image.features[0], self._basis(image))

    def choose(self, image: TokenBatch, scores: Tensor, count: int) -> Tensor:
        return scores.sort(descending=True, stable=True).indices[:count]

    def mixing(self, image: TokenBatch, indices: Tensor) -> Tensor | None:
        features, basis = image.features[0], self._basis(image)
        errors = approximation_errors(features, basis)
        order = indices[errors[indices].sort(descending=True, stable=True).indices]
        placed = min(self.basis, len(order) - 1)
        leads, rows = order[: len(order) - placed], torch.zeros(len(indices), len(features), device=features.device)
        at = torch.zeros(len(features), dtype=torch.int64, device=features.device)
        at[indices] = torch.arange(len(indices), device=features.device)
        joining = torch.ones(len(features), dtype=torch.bool, device=features.device)
        joining[indices] = False
        joining = joining.nonzero().squeeze(1)
        nearest = leads[cosines(features)[joining][:, leads].argmax(dim=1)]
        rows[at[nearest], joining] = 1.0
        rows[at[leads], leads] = 1.0
        rows[at[order[len(order) - placed :].sort().values], basis[:placed]] = 1.0
        return rows / rows.sum(dim=1, keepdim=True)

    def _basis(self, image: TokenBatch) -> Tensor:
        features = image.features[0]
        return farthest_points(features, self._first(image.keys[0], len(features)), min(self.basis, len(features)))

    def _first(self, key: str, total: int) -> int:
        if self.first != "drawn":
            return min(max(self.first, 0), total - 1)
        content = key.partition("|")[0]  # of the picture alone: the question has no say
        digest = hashlib.blake2b(f"{self.seed}:{content}".encode(), digest_size=8).digest()
        return int.from_bytes(digest, "big") % total


def farthest_points(features: Tensor, first: int, count: int) -> Tensor:
    """``[count]`` int64: from ``first`` on, always the row of ``[N, D]`` that is farthest from those already chosen."""
    wide = features.to(wide_dtype(features.device)).nan_to_num(0.0)
    chosen = torch.full((count,), first, dtype=torch.int64, device=features.device)
    distance = (wide - wide[first]).square().sum(dim=1)
    for turn in range(1, count):
        chosen[turn] = distance.argmax()
        distance = torch.minimum(distance, (wide - wide[chosen[turn]]).square().sum(dim=1))
    return chosen


def approximation_errors(features: Tensor, basis: Tensor) -> Tensor:
    """``[N]`` distance of each row of ``[N, D]`` to its ridge fit by the rows ``basis``."""
    wide = features.to(wide_dtype(features.device)).nan_to_num(0.0)
    rows = wide[basis]
    ridge = _RIDGE * torch.eye(len(basis), dtype=wide.dtype, device=wide.device)
    shares = torch.linalg.solve(rows @ rows.T + ridge, rows @ wide.T)
    errors: Tensor = torch.linalg.vector_norm(wide - shares.T @ rows, dim=1)
    return errors
