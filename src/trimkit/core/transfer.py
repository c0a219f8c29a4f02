"""Numbers between the host and a model's device, without making the host wait where that can be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

__all__ = ["rows_of", "upload"]


def upload(values: ArrayLike, device: torch.device) -> Tensor:
    """Numbers of the host as a tensor on ``device``; integers are int64. Does not wait for what the device has to do."""
    return torch.from_numpy(np.array(values, copy=True)).to(device, non_blocking=True)


def rows_of(padded: Tensor, lengths: Sequence[int]) -> list[Tensor]:
    """The first ``lengths[i]`` entries of each row of ``[B, N, ...]``, in a few calls whatever B."""
    if not lengths:
        return []
    width = max(lengths)
    if min(lengths) == width:
        return list((padded if width == padded.shape[1] else padded[:, :width]).unbind(0))
    places = np.concatenate([row * padded.shape[1] + np.arange(n) for row, n in enumerate(lengths)])
    return list(padded.flatten(0, 1).index_select(0, upload(places, padded.device)).split(list(lengths)))
