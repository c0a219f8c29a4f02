"""What an architecture needs beside shrinking by name: fields that belong together, or that have no default."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["ARGUMENTS", "SPECIAL"]

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SMALL_VQ = {"vq_config.base_channels": 32, "vq_config.num_res_blocks": 1, "vq_config.latent_channels": 32}

_GEMMA4_VISION = {
    "model_type": "gemma4_vision",
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 16,
    "pooling_kernel_size": 2,
    "patch_size": 4,
    "position_embedding_size": 64,
}

SPECIAL: dict[str, dict[str, Any]] = {
    "apertus1p5": {
        "audio_config.codebook_dim": 64,
        "audio_config.num_filters": 4,
        "audio_config.decoder_num_layers": 1,
        "vision_config.base_channels": 32,
        "vision_config.num_res_blocks": 1,
        "vision_config.channel_multiplier": [1, 1, 1],
        "vision_config.spatial_scale_factor": 4,
        "vision_config.codebook_size": 64,
        "audio_config.codebook_size": 64,
        "image_token_offset": 436,
        "audio_token_offset": 500,
    },
    "chameleon": {
        **_SMALL_VQ,
        "vq_config.num_embeddings": 8,
        "vq_config.channel_multiplier": [1, 1, 1],
        "vocabulary_map": {"<image>": 300, **{f"IMGIMG{chr(65 + i)}Z": 301 + i for i in range(8)}},
        "image_token_id": 300,
    },
    "cohere_compass": {
        "text_config.layer_types": ["sliding_attention", "full_attention"],
        "text_config.rope_parameters": {"full_attention": _ROPE, "sliding_attention": _ROPE},
    },
    "deepseek_ocr2": {
        "text_config.mlp_layer_types": ["dense", "sparse"],
        "text_config.num_experts_per_tok": 2,
        "vision_config.sam_config.downsample_channels": [64, 64],
    },
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 64,
        "vision_config.num_key_value_heads": 4,
    },
    "emu3": {
        **_SMALL_VQ,
        "vq_config.codebook_size": 8,
        "vq_config.channel_multiplier": [1, 1, 1, 1],
        "vq_config.hidden_size": 32,
        "vocabulary_map": {"<image>": 300, "<|extra_200|>": 301}
        | {f"<|visual token {i:06d}|>": 302 + i for i in range(8)},
        "image_token_id": 300,
    },
    "glm5_next": {
        "text_config.num_key_value_heads": 4,
        "text_config.qk_rope_head_dim": 0,
        "text_config.head_dim": 0,
        "text_config.qk_head_dim": 16,
    },
    "granite4_vision": {"downsample_rate": "4/8", "deepstack_layer_map": [[-1, 0], [-2, 1]]},
    "hunyuan_vl": {"text_config.head_dim": 16},
    "inkling_mm_model": {"vision_config.n_layers": 8},
    "mistral_large4": {"text_config.kv_source_layers": [0, 1]},
    "molmo2": {"adapter_config.vision_feature_layer": [1, 0], "vision_config.image_size": [32, 32]},
    "aria": {"projector_patch_to_query_dict": {64: 16}},
    "gemma4": {"vision_config": _GEMMA4_VISION},
    "gemma4_unified": {
        "vision_config": {
            "model_type": "gemma4_unified_vision",
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "mm_embed_dim": 64,
            "mm_posemb_size": 64,
            "output_proj_dims": 64,
        }
    },
    "glm4v": {"text_config.rope_parameters.mrope_section": [4, 2, 2]},
    "llama4": {"vision_config.intermediate_size": 256},
    "qwen2_vl": {"text_config.rope_parameters.mrope_section": [4, 2, 2]},
    "qwen2_5_vl": {"text_config.rope_parameters.mrope_section": [4, 2, 2]},
    "muse_glimmer": {"out_hidden_size": 256},
    "muse_spark": {
        "out_hidden_size": 256,
        "audio_config.hidden_sizes": [32, 32],
        "audio_config.depths": [1, 1],
        "audio_config.patch_sizes": [4, 4],
    },
    "perception_lm": {"vision_config.model_args": {"embed_dim": 64}},
    "qwen4_exp": {
        "text_config.indexer_n_heads": 2,
        "text_config.indexer_kv_heads": 1,
        "text_config.indexer_head_dim": 16,
        "text_config.indexer_budget": 64,
        "text_config.indexer_compress_ratio": 4,
    },
    "step3p7": {"text_config.sliding_window": 512},
    "vipllava": {"vision_feature_layer": [-2, -1]},
    "unlimited_ocr": {"vision_config.sam_config.downsample_channels": [64, 64]},
}


def _noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def _gemma4(width: int) -> dict[str, Any]:
    places = torch.stack(torch.meshgrid(torch.arange(8), torch.arange(8), indexing="xy"), dim=-1).view(1, 64, 2)
    return {"pixel_values": _noise(2, 64, width), "image_position_ids": places.expand(2, -1, -1)}


def _molmo2() -> dict[str, Any]:
    """Two pictures of one crop, whose 8 x 8 patches are pooled two by two."""
    grid = torch.arange(64).view(4, 2, 4, 2).permute(0, 2, 1, 3).reshape(1, 16, 4)
    pooling = torch.cat([grid, grid + 64], dim=1)[0]
    return {
        "pixel_values": _noise(2, 64, 48),
        "image_token_pooling": pooling,
        "image_grids": torch.tensor([[4, 4, 0, 0]] * 2),
    }


def _video_llama_3() -> dict[str, Any]:
    grid = torch.tensor([[1, 8, 4]] * 2)
    return {"pixel_values": _noise(64, 48), "image_grid_thw": grid, "image_merge_sizes": torch.tensor([2, 2])}


def _inkling2() -> dict[str, Any]:
    return {"pixel_values": _noise(16, 8, 8, 3), "image_grid_thw": torch.tensor([[1, 4, 2]] * 2)}


def _granite_docling() -> dict[str, Any]:
    return {"pixel_values": _noise(1, 2, 3, 32, 32), "pixel_attention_mask": torch.ones(1, 2, dtype=torch.bool)}


ARGUMENTS: dict[str, Callable[[], dict[str, Any]]] = {
    "gemma4": lambda: _gemma4(48),
    "gemma4_unified": lambda: _gemma4(192),
    "granite_docling": _granite_docling,
    "inkling2": _inkling2,
    "inkling2_loop": _inkling2,
    "inkling_mm_model": lambda: {"pixel_values": _noise(8, 2, 4, 4, 3)},
    "molmo2": _molmo2,
    "video_llama_3": _video_llama_3,
}
