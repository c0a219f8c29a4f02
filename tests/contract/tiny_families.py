"""Tiny random models of the families that LLaVA's shape does not cover, each from its own config."""

from __future__ import annotations

from typing import Any

import torch
import transformers as tf

from tests import tiny

_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 24,
    "patch_size": 4,
}
_SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **_VISION}
_QWEN_TOKENS = {"video_token_id": 98, "vision_start_token_id": 97, "vision_end_token_id": 96}
_QWEN_VISION = {"patch_size": 4, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 4}


def _mrope(*sections: int, **more: Any) -> dict[str, Any]:
    return {"rope_type": "default", "mrope_section": list(sections), "rope_theta": 1e4, **more}


def _make(kind: str, config: Any, **settings: Any) -> Any:
    torch.manual_seed(0)
    model = getattr(tf, f"{kind}ForConditionalGeneration")
    return tiny.ready(model(config(**{"image_token_id": tiny.IMAGE_TOKEN, **settings})))


def vipllava() -> Any:
    vision, text = tf.CLIPVisionConfig(**_VISION), tf.LlamaConfig(**tiny.TEXT)
    settings = {"vision_config": vision, "text_config": text, "vision_feature_layers": [-2, -1]}
    return _make("VipLlava", tf.VipLlavaConfig, **settings)


def video_llava() -> Any:
    vision, text = tf.CLIPVisionConfig(**_VISION), tf.LlamaConfig(**tiny.TEXT)
    settings = {"vision_config": vision, "text_config": text, "video_token_id": 98, "image_seq_length": 36}
    return _make("VideoLlava", tf.VideoLlavaConfig, **settings)


def paligemma() -> Any:
    text = {"model_type": "gemma", "head_dim": 8, **tiny.TEXT}
    return _make(
        "PaliGemma", tf.PaliGemmaConfig, vision_config=_SIGLIP, text_config=text, projection_dim=32, vocab_size=100
    )


def gemma3() -> Any:
    layers = ["sliding_attention", "full_attention"]
    text = {"model_type": "gemma3_text", "head_dim": 8, "sliding_window": 512, "layer_types": layers, **tiny.TEXT}
    marks = {"boi_token_index": 97, "eoi_token_index": 96, "mm_tokens_per_image": 9}
    return _make("Gemma3", tf.Gemma3Config, vision_config=_SIGLIP, text_config=text, **marks)


def internvl() -> Any:
    vision = {**_VISION, "image_size": [24, 24], "patch_size": [4, 4]}
    text = {"model_type": "qwen2", **tiny.TEXT}
    return _make("InternVL", tf.InternVLConfig, vision_config=vision, text_config=text, image_seq_length=9)


def aya_vision() -> Any:
    text = {"model_type": "cohere2", **tiny.TEXT}
    layer = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full", "downsample_factor": 2}
    return _make("AyaVision", tf.AyaVisionConfig, vision_config=_SIGLIP, text_config=text, **layer)


def cohere2_vision() -> Any:
    text = {"model_type": "cohere2", **tiny.TEXT}
    shape = {"downsample_factor": 2, "alignment_intermediate_size": 64}
    return _make("Cohere2Vision", tf.Cohere2VisionConfig, vision_config=_SIGLIP, text_config=text, **shape)


def idefics3() -> Any:
    text = {"model_type": "llama", **tiny.TEXT}
    return _make(
        "Idefics3", tf.Idefics3Config, vision_config=dict(_VISION), text_config=text, scale_factor=2, pad_token_id=0
    )


def smolvlm() -> Any:
    text = {"model_type": "llama", **tiny.TEXT}
    return _make(
        "SmolVLM", tf.SmolVLMConfig, vision_config=dict(_VISION), text_config=text, scale_factor=2, pad_token_id=0
    )


def mistral3() -> Any:
    vision = {"model_type": "pixtral", "head_dim": 8, **_VISION}
    text = {"model_type": "mistral", "head_dim": 8, **tiny.TEXT}
    shape = {"spatial_merge_size": 2, "vision_feature_layer": -1}
    return _make("Mistral3", tf.Mistral3Config, vision_config=vision, text_config=text, **shape)


def lfm2_vl() -> Any:
    vision = {"model_type": "siglip2_vision_model", "num_patches": 36, "vision_use_head": False, **_VISION}
    del vision["image_size"]
    text = {"model_type": "lfm2", "layer_types": ["full_attention", "conv"], **tiny.TEXT}
    shape = {"downsample_factor": 2, "projector_hidden_size": 32}
    return _make("Lfm2Vl", tf.Lfm2VlConfig, vision_config=vision, text_config=text, **shape)


def qwen2_vl() -> Any:
    text = {"rope_parameters": _mrope(1, 1, 2), **tiny.TEXT}
    vision = {"depth": 2, "embed_dim": 32, "hidden_size": 32, "mlp_ratio": 2, **_QWEN_VISION}
    return _make("Qwen2VL", tf.Qwen2VLConfig, vision_config=vision, text_config=text, **_QWEN_TOKENS)


def qwen3_vl() -> Any:
    text = {"head_dim": 8, "rope_parameters": _mrope(2, 1, 1, mrope_interleaved=True), **tiny.TEXT}
    size = {"depth": 3, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32}
    vision = {**size, **_QWEN_VISION, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}
    return _make("Qwen3VL", tf.Qwen3VLConfig, vision_config=vision, text_config=text, **_QWEN_TOKENS)


def glm4v() -> Any:
    text = {"rope_parameters": _mrope(1, 1, 2, partial_rotary_factor=1.0), **tiny.TEXT}
    size = {"depth": 2, "hidden_size": 32, "intermediate_size": 64, "out_hidden_size": 32, "image_size": 24}
    marks = {"image_start_token_id": 97, "image_end_token_id": 96, "video_start_token_id": 95, "video_end_token_id": 94}
    tokens = {"video_token_id": 98, **marks}
    return _make("Glm4v", tf.Glm4vConfig, vision_config={**size, **_QWEN_VISION}, text_config=text, **tokens)


_PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def llava_onevision() -> Any:
    text = {"model_type": "qwen2", **tiny.TEXT}
    features = {"vision_feature_layer": -1, "vision_feature_select_strategy": "full"}
    tiles = {"image_grid_pinpoints": _PINPOINTS, "vision_aspect_ratio": "anyres_max_2", "video_token_id": 98}
    return _make(
        "LlavaOnevision", tf.LlavaOnevisionConfig, vision_config=_SIGLIP, text_config=text, **features, **tiles
    )


def llava_next_video() -> Any:
    vision, text = tf.CLIPVisionConfig(**_VISION), tf.LlamaConfig(**tiny.TEXT)
    tiles = {"image_grid_pinpoints": _PINPOINTS, "video_token_id": 98}
    return _make("LlavaNextVideo", tf.LlavaNextVideoConfig, vision_config=vision, text_config=text, **tiles)


def llama4() -> Any:
    size = {"hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    widths = {"vision_output_dim": 32, "projector_input_dim": 32, "projector_output_dim": 32}
    rope = {"rope_type": "default", "rope_theta": 1e4}
    vision = {**size, **widths, "image_size": 24, "patch_size": 4, "pixel_shuffle_ratio": 0.5, "rope_parameters": rope}
    experts = {"num_local_experts": 2, "num_experts_per_tok": 1, "intermediate_size_mlp": 64, "moe_layers": [1]}
    layers = {"no_rope_layers": [1, 0], "attention_chunk_size": 512, "head_dim": 8, "rope_parameters": rope}
    text = {**tiny.TEXT, **experts, **layers}
    return _make("Llama4", tf.Llama4Config, vision_config=vision, text_config=text)


def ovis2() -> Any:
    words = {"vocab_size": 48, "num_visual_indicator_tokens": 5, "hidden_stride": 2, "tokenize_function": "softmax"}
    vision = {**_VISION, **words}
    text = {"model_type": "qwen2", **tiny.TEXT}
    marks = {"visual_indicator_token_ids": [93, 94, 95, 96, 97], "hidden_size": 32, "vocab_size": 100}
    return _make("Ovis2", tf.Ovis2Config, vision_config=vision, text_config=text, **marks)
