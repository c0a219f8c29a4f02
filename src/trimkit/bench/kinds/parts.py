"""Parts of configs that several architectures share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor

from trimkit.bench.kinds import IMAGE_TOKEN
from trimkit.bench.shapes import Shape

__all__ = ["clip_tower", "language", "patch_rows", "patch_tower", "tiles", "vision_ids"]

_ROOM = 16_384  # positions: pictures by the eight, and what is generated


def language(shape: Shape, model_type: str, **more: Any) -> dict[str, Any]:
    """A Llama or one of its kin, for ``text_config``."""
    layers, width, heads = shape.language
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": shape.kv_heads or heads,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": max(_ROOM, 10 * shape.image_tokens),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
        **({"head_dim": shape.head} if shape.head else {}),
        **more,
    }


def clip_tower(shape: Shape, model_type: str = "clip_vision_model") -> dict[str, Any]:
    """A CLIP or SigLIP tower, for ``vision_config``."""
    layers, width, heads = shape.vision
    return {
        "model_type": model_type,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": shape.vision_inner or 4 * width,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        **({"projection_dim": shape.projection} if model_type == "clip_vision_model" else {"vision_use_head": False}),
    }


def patch_tower(shape: Shape, **more: Any) -> dict[str, Any]:
    """Qwen-VL's tower for pictures of any size, for ``vision_config``."""
    layers, width, heads = shape.vision
    return {
        "depth": layers,
        "hidden_size": width,
        "intermediate_size": shape.vision_inner or 4 * width,
        "num_heads": heads,
        "out_hidden_size": shape.language[1],
        "patch_size": shape.patch_size,
        "spatial_merge_size": shape.merge,
        "temporal_patch_size": 2,
        **more,
    }


def vision_ids() -> dict[str, Any]:
    """Qwen-VL's ids of images, videos and what stands around them."""
    return {
        "image_token_id": IMAGE_TOKEN,
        "video_token_id": IMAGE_TOKEN - 1,
        "vision_start_token_id": IMAGE_TOKEN + 1,
        "vision_end_token_id": IMAGE_TOKEN + 2,
    }


def tiles(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """Pictures cut to tiles: ``pixel_values`` ``[n, 1 + tiles, 3, side, side]`` and ``image_sizes`` ``[n, 2]``."""
    side = shape.image_size
    return {
        "pixel_values": torch.randn(pictures, shape.crops, 3, side, side, generator=generator),
        "image_sizes": torch.tensor([shape.pixels] * pictures),
    }


def patch_rows(shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
    """Flattened patches of two frames each: ``pixel_values`` ``[patches, numbers]`` and ``image_grid_thw`` ``[n, 3]``."""
    rows, columns = (each // shape.patch_size for each in shape.pixels)
    numbers = 3 * 2 * shape.patch_size**2
    return {
        "pixel_values": torch.randn(pictures * rows * columns, numbers, generator=generator),
        "image_grid_thw": torch.tensor([[1, rows, columns]] * pictures),
    }
