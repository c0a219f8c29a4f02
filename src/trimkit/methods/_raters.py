"""What SparseVLM's two versions share: which text tokens rate the image, and how many tokens each layer keeps."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

__all__ = ["scheduled", "text_raters"]

_FULL = 576  # image tokens that the published tables are for


def text_raters(image: Tensor, text: Tensor) -> Tensor:
    """``[M]`` bool: text tokens that the image tokens agree with more than with the mean one.

    Args:
        image: ``[N, D]`` input embeddings of the image tokens.
        text: ``[M, D]`` those of the text behind them.
    """
    agreement = torch.softmax(image.float() @ text.float().T, dim=1).mean(dim=0)
    return agreement > agreement.mean()


def scheduled(table: dict[int, tuple[int, ...]], stage: int, budget: int, total: int) -> int:
    """How many tokens a stage keeps of an image of ``total``, for a mean of ``budget`` over the layers.

    The published table is for 576 tokens and four budgets; it is scaled to other images, and interpolated between its rows.
    """
    known = {0: 0, **{mean: counts[stage] for mean, counts in sorted(table.items())}, _FULL: _FULL}
    wanted = budget * _FULL / total
    for (low, least), (high, most) in pairwise(known.items()):
        if wanted <= high:
            exact = least + (most - least) * (wanted - low) / (high - low)
            return max(1, round(exact * total / _FULL))
    return total
