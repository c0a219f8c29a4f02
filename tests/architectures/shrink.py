"""Any architecture's own default config, shrunk by the names of its fields to a model of some ten thousand weights."""

from __future__ import annotations

import re
from typing import Any

__all__ = ["VOCABULARY", "WIDTH", "shrunk"]

WIDTH, HEADS, LAYERS = 64, 4, 2
HEAD = WIDTH // HEADS
PATCH, SIDE = 4, 8  # pixels of a patch's side; patches of a picture's side
VOCABULARY = 640
FIRST_MARK = 300  # special tokens that lie beyond the vocabulary get ids from here on

_NUMBERS: list[tuple[str, int]] = [
    (r"(.*_)?hidden_size|(.*_)?embed_dim|embed_size|d_model|hidden_dim|out_dim|output_dim|moe_latent_size", WIDTH),
    (r"projector_(in|out)put_dim|vision_output_dim|projection_dim|projection_hidden_dim|adapter_out_dim", WIDTH),
    (
        r"adapter_in_dim|adapter_input_size|conv_output_size|word_embed_proj_dim|(.*_)?output_channels|hidden_channels",
        WIDTH,
    ),
    (r"(.*_)?intermediate_size(_mlp)?|(.*_)?ffn_dim|mlp_dim|share_expert_dim|d_ff|(.*_)?mlp_hidden_size", WIDTH),
    (r"num_hidden_layers|depth|layers|n_layers|num_layers|(en|de)coder_layers|conf_num_hidden_layers", LAYERS),
    (r"(.*_)?num_attention_heads|num_heads|(.*_)?attention_heads|n_heads|n_head|resampler_n_heads", HEADS),
    (r"(.*_)?num_key_value_heads|num_global_key_value_heads", HEADS // 2),
    (
        r"(global_|swa_|resampler_|d_|qk_nope_|qk_rope_|v_)?head_dim|index_head_dim|(q|kv)_lora_rank|d_kv|rotary_dim",
        HEAD,
    ),
    (r"qk_head_dim", 2 * HEAD),
    (r"query_pre_attn_scalar", HEAD),
    (r"num_experts|n_routed_experts|num_local_experts|moe_num_experts", 4),
    (r"num_experts_per_tok|moe_k|moe_topk", 2),
    (r"n_group|topk_group|(moe_)?num_shared_experts|n_shared_experts", 1),
    (r"first_k_dense_replace|num_nextn_predict_layers|num_mtp_layers", 0),
    (r"index_n_heads", 2),
    (r"index_topk", 4096),
    (r"vocab_size|text_vocab_size|unpadded_vocab_size", VOCABULARY),
    (r"vocab_size_per_layer_input", VOCABULARY),
    (r"hidden_size_per_layer_input", HEAD),
    (r"max_position_embeddings|original_max_position_embeddings", 4096),
    (r"image_size|min_image_size|max_image_size|resolution", PATCH * SIDE),
    (r"patch_size", PATCH),
    (r"num_position_embeddings|position_embedding_size|num_patches|max_vit_seq_len", SIDE * SIDE),
    (r"pos_emb_(height|width)|posemb_grid_size", SIDE),
    (r"image_seq_length|num_image_tokens|mm_tokens_per_image|vision_soft_tokens_per_image", SIDE * SIDE // 4),
    (r"window_size", 4 * PATCH),
    (r"linear_num_(key|value)_heads|linear_num_heads|mamba_num_heads", HEADS),
    (r"linear_(key_|value_)?head_dim|mamba_head_dim|ssm_state_size", HEAD),
    (r"num_kv_shared_layers", 0),
]
_LISTS: dict[str, list[Any]] = {
    "deepstack_visual_indexes": [0, 1],
    "fullatt_block_indexes": [1],
    "global_attn_indexes": [1],
    "image_grid_pinpoints": [[32, 64], [64, 32], [64, 64]],
    "image_size": [PATCH * SIDE] * 2,
    "patch_size": [PATCH] * 2,
    "mrope_section": [4, 2, 2],
    "spatial_target_layers": [0, 1],
}
_MARK = re.compile(r"(.*_)?(token_id|token_index|token_ids|_id|patch_id|token_offset)$")


def shrunk(config: dict[str, Any], special: dict[str, Any]) -> dict[str, Any]:
    """``config`` (of ``to_dict``) with tiny numbers; ``special`` replaces fields by dotted path after that."""
    out: dict[str, Any] = _small(config, {})
    for path, value in special.items():
        *outer, name = path.split(".")
        at = out
        for key in outer:
            if at.get(key) is None:
                at[key] = {}
            at = at[key]
        at[name] = value
    return out


def _small(config: dict[str, Any], marks: dict[int, int]) -> dict[str, Any]:
    before = next((config[name] for name in ("num_hidden_layers", "depth") if isinstance(config.get(name), int)), None)
    out = {name: _field(name, value, before, marks) for name, value in config.items() if name not in _NOT_NEEDED}
    if (
        isinstance(out.get("num_key_value_heads"), int)
        and config.get("num_attention_heads") == config["num_key_value_heads"]
    ):
        out["num_key_value_heads"] = out["num_attention_heads"]
    return out


_NOT_NEEDED = {"per_layer_config", "transformers_version", "architectures", "id2label", "label2id", "torch_dtype"}


def _field(name: Any, value: Any, layers: int | None, marks: dict[int, int]) -> Any:
    name = str(name)
    if isinstance(value, dict):
        return _small(value, marks)
    if name in _LISTS and isinstance(value, list | tuple):
        return _LISTS[name]
    if isinstance(value, list) and value and len(value) == layers:
        return [value[0], next((other for other in value if other != value[0]), value[-1])]
    if _MARK.match(name):
        return [_mark(each, marks) for each in value] if isinstance(value, list) else _mark(value, marks)
    if isinstance(value, int) and not isinstance(value, bool):
        return next((number for pattern, number in _NUMBERS if re.fullmatch(pattern, name)), value)
    return value


def _mark(value: Any, marks: dict[int, int]) -> Any:
    if not isinstance(value, int) or isinstance(value, bool) or value < FIRST_MARK:
        return value
    return marks.setdefault(value, FIRST_MARK + len(marks))
