"""Random patches: the baseline that every method has to beat at the same count."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from torch import Tensor

from trimkit.core import functional as F
from trimkit.core.content import public_key
from trimkit.core.types import TokenBatch
from trimkit.methods._base import Method
from trimkit.methods._choosing import trim_counts

__all__ = ["Random"]


class Random(Method):
    """Uniformly random patches, the same ones each time for the same image, question and ``seed``.

    With ``budget="iqr"`` it keeps as many patches as TRIM would keep on that image and question, so that the two compare
    at equal counts; this is the only case in which it reads the text. The aggregated token is made as TRIM makes it: what
    differs is the choice alone.
    """

    name: ClassVar[str] = "random"
    summary: ClassVar[str] = "uniformly random patches at the same count (baseline)"
    paper: ClassVar[str] = "https://arxiv.org/abs/2511.02650"

    aggregate: Literal["mean", "weighted", "none"] = "mean"
    seed: int = 0

    @property
    def needs_relevance(self) -> bool:
        return self.budget.kind == "iqr"

    def scores(self, batch: TokenBatch) -> Tensor:
        rows = [self._row(key, batch.mask.shape[1]) for key in batch.keys]
        return torch.stack(rows).to(batch.mask.device, non_blocking=True)

    def keep(self, scores: Tensor, batch: TokenBatch) -> Tensor:
        if self.budget.kind != "iqr" or batch.relevance is None:
            return super().keep(scores, batch)
        return F.count_select(scores, trim_counts(self, batch), batch.padding)

    def fixed_counts(self, totals: Sequence[int]) -> list[int] | None:
        return self._patch_counts(totals) if self.budget.kind in ("ratio", "count") else None

    def _row(self, key: str, length: int) -> Tensor:
        # Seeded by content, not by position in the batch: a batch equals its rows alone.
        digest = hashlib.blake2b(f"{self.seed}:{public_key(key)}".encode(), digest_size=8).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)
        return torch.rand(length, generator=generator)
