"""Encoder arguments for a tiny model of any architecture, guessed from what its image encoder takes, and a prompt for them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from tests.architectures.recipes import ARGUMENTS

__all__ = ["encoder_candidates", "prompt"]

_GRID = (1, 8, 4)  # frames, rows and columns of patches
_SIDE = 32


def encoder_candidates(kind: str, model: Any, taken: list[str]) -> Iterator[dict[str, Any]]:
    """Arguments to try, the likeliest first: with most families one of them is what the encoder wants."""
    if kind in ARGUMENTS:
        yield ARGUMENTS[kind]()
    vision = getattr(model.config, "vision_config", None) or model.config
    if "image_grid_thw" in taken:
        yield from _patch_rows(vision)
    if "image_sizes" in taken:
        yield {"pixel_values": _noise(1, 3, 3, _SIDE, _SIDE), "image_sizes": torch.tensor([[_SIDE, 2 * _SIDE]])}
        yield {"pixel_values": _noise(2, 3, _SIDE, _SIDE), "image_sizes": torch.tensor([[_SIDE, _SIDE]] * 2)}
    if "spatial_shapes" in taken:
        yield {
            "pixel_values": _noise(2, 64, 48),
            "spatial_shapes": torch.tensor([[8, 8], [8, 8]]),
            "pixel_attention_mask": torch.ones(2, 64, dtype=torch.long),
        }
    first = taken[0] if taken else "pixel_values"
    for size in (_SIDE, 64, 16):
        yield {first: _noise(2, 3, size, size)}
        yield {first: _noise(1, 2, 3, size, size)}
        yield {first: _noise(1, 3, size, size), "num_local_patches": torch.tensor([0])}
        yield {first: _noise(2, 3, size, size), "high_res_pixel_values": _noise(2, 3, size, size)}


def _patch_rows(vision: Any) -> Iterator[dict[str, Any]]:
    frames, patch = (
        getattr(vision, "temporal_patch_size", getattr(vision, "patch_temporal", 1)) or 1,
        getattr(vision, "patch_size", 4),
    )
    grid = torch.tensor([_GRID, _GRID])
    count = int(grid.prod(dim=1).sum())
    for shape in ((3 * frames * patch * patch,), (3 * patch * patch,), (3, patch, patch), (3, frames, patch, patch)):
        yield {"pixel_values": _noise(count, *shape), "image_grid_thw": grid}
        yield {"pixel_values": _noise(4 * count, *shape), "image_grid_thw": grid}


def _noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def prompt(model: Any, token: int, lengths: list[int]) -> dict[str, Tensor]:
    """One row: the images' placeholders with words around them, and the token types that ``forward`` takes."""
    row = [1, 125, 128]
    for length in lengths:
        row += [token] * length + [126, 127]
    ids = torch.tensor([[*row, 129, 130, 131]])
    out = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    for name in ("token_type_ids", "mm_token_type_ids"):
        if name in inspect.signature(type(model).forward).parameters:
            out[name] = (ids == token).long()
    return out
