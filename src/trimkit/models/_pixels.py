"""Encoder arguments that are padded to a common size: cut to one image's own, and padded again when several are joined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["join_padded", "real_tiles"]


def join_padded(parts: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The parts with their tensors padded by zeros behind, so that each can be concatenated with its namesakes."""
    out = [dict(part) for part in parts]
    for name, first in parts[0].items():
        tensors = [part[name] for part in parts]
        if not isinstance(first, Tensor) or first.ndim < 2:
            continue
        size = [max(sizes) for sizes in zip(*(t.shape[1:] for t in tensors), strict=True)]
        for part, tensor in zip(out, tensors, strict=True):
            if list(tensor.shape[1:]) != size:
                part[name] = tensor.new_zeros(tensor.shape[0], *size)
                part[name][tuple(slice(0, n) for n in tensor.shape)] = tensor
    return out


def real_tiles(pixels: Tensor) -> Tensor:
    """Which of ``[..., C, H, W]`` tiles are pictures: padding is all zero."""
    return (pixels != 0).flatten(-3).any(dim=-1) if pixels.numel() else torch.zeros(pixels.shape[:-3], dtype=torch.bool)
