"""Images of a batch: all of their tokens, one of them alone, and their counts beside them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from trimkit.core.transfer import upload
from trimkit.core.types import Selection, TokenBatch

__all__ = ["keep_all", "on_device", "single"]


def keep_all(batch: TokenBatch) -> list[Selection]:
    """Every token of every image, nothing aggregated."""
    every = torch.arange(batch.mask.shape[1], device=batch.mask.device)
    return [Selection(indices=every[:total], total=total) for total in batch.totals]


def single(batch: TokenBatch, row: int) -> TokenBatch:
    """One image of a batch, without padding: a method that looks at one at a time gets the same numbers in any batch."""
    return batch.part([row], batch.totals[row])


def on_device(counts: Sequence[int], like: Tensor) -> Tensor | int:
    """Counts for ``count_select`` beside ``like``: a number where all are the same."""
    return counts[0] if len(set(counts)) == 1 else upload(counts, like.device)
