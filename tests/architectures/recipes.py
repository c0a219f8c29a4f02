"""What an architecture needs beside shrinking by name: fields that belong together, or that have no default."""

from __future__ import annotations

from typing import Any

__all__ = ["SPECIAL"]

_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_SMALL_VQ = {"vq_config.base_channels": 32, "vq_config.num_res_blocks": 1, "vq_config.latent_channels": 32}

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
        "image_token_offset": 400,
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
        "text_config.num_key_value_heads": 4,
        "vision_config.encoder_config.num_key_value_heads": 4,
    },
    "diffusion_gemma": {
        "text_config.num_experts": 4,
        "text_config.top_k_experts": 2,
        "text_config.moe_intermediate_size": 64,
        "vision_config.num_key_value_heads": 4,
    },
    "dots3_note": {"text_config.num_key_value_heads": 4},
    "emu3": {
        **_SMALL_VQ,
        "vq_config.codebook_size": 8,
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
    "qwen4_exp": {"text_config.layer_types": ["linear_attention", "full_attention"]},
}
