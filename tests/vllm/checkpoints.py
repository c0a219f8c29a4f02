"""Tiny random models of every family, saved like real checkpoints: weights, processor, chat template, a CLIP beside them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers as tf

from trimkit.demo import demo_model_path

HEAD = 32  # the narrowest attention head that vLLM's CPU kernels take
_TEXT: dict[str, Any] = {
    "hidden_size": 4 * HEAD,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": HEAD,
    "max_position_embeddings": 4096,
}
_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
}
_SIDE, _PATCH = 56, 14
_SIGLIP = {
    "model_type": "siglip_vision_model",
    "vision_use_head": False,
    "image_size": _SIDE,
    "patch_size": _PATCH,
    **_VISION,
}
_CLIP = {"model_type": "clip_vision_model", "image_size": _SIDE, "patch_size": _PATCH, **_VISION}
_PINPOINTS = [[56, 112], [112, 56], [112, 112]]
_TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% if m['content'] is string %}{{ m['content'] + ' ' }}"
    "{% else %}{% for p in m['content'] %}{% if p['type'] == 'image' %}{{ 'PICTURE' }}{% else %}{{ p['text'] + ' ' }}"
    "{% endif %}{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)


def llava_siglip(folder: Path) -> None:
    """LLaVA with a SigLIP tower, whose features are ranked behind the projector."""
    tokenizer = _tokenizer()
    config = tf.LlavaConfig(
        vision_config=_SIGLIP,
        text_config={"model_type": "llama", **_words(tokenizer), **_TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    images = tf.SiglipImageProcessor(size={"height": _SIDE, "width": _SIDE})
    processor = tf.LlavaProcessor(
        images, tokenizer, patch_size=_PATCH, vision_feature_select_strategy="full", num_additional_image_tokens=0
    )
    _save(folder, tf.LlavaForConditionalGeneration, config, processor, "<image>")


def llava_next(folder: Path) -> None:
    tokenizer = _tokenizer()
    config = tf.LlavaNextConfig(
        vision_config=_CLIP,
        text_config={"model_type": "llama", **_words(tokenizer), **_TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=_PINPOINTS,
    )
    images = tf.LlavaNextImageProcessor(
        size={"shortest_edge": _SIDE}, crop_size={"height": _SIDE, "width": _SIDE}, image_grid_pinpoints=_PINPOINTS
    )
    processor = tf.LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=_PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
    )
    _save(folder, tf.LlavaNextForConditionalGeneration, config, processor, "<image>")


def llava_onevision(folder: Path) -> None:
    tokenizer = _tokenizer("<video>")
    config = tf.LlavaOnevisionConfig(
        vision_config=_SIGLIP,
        text_config={"model_type": "qwen2", **_words(tokenizer), **_TEXT},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )
    size = {"height": _SIDE, "width": _SIDE}
    processor = tf.LlavaOnevisionProcessor(
        tf.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=_PINPOINTS),
        tokenizer,
        tf.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=(_SIDE // _PATCH) ** 2,
        vision_feature_select_strategy="full",
    )
    _save(folder, tf.LlavaOnevisionForConditionalGeneration, config, processor, "<image>")


_QWEN = ("<|image_pad|>", "<|video_pad|>", "<|vision_start|>", "<|vision_end|>")
_QWEN_VISION: dict[str, Any] = {"patch_size": _PATCH, "spatial_merge_size": 2, "temporal_patch_size": 2, "num_heads": 2}


def qwen2_vl(folder: Path) -> None:
    vision = {"depth": 2, "embed_dim": 64, "hidden_size": 4 * HEAD, "mlp_ratio": 2, **_QWEN_VISION}
    _qwen(folder, "Qwen2VL", "Qwen2VLProcessor", vision, [4, 6, 6])


def qwen2_5_vl(folder: Path) -> None:
    size = {"depth": 2, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 4 * HEAD}
    vision = {**size, "window_size": 56, "fullatt_block_indexes": [1], **_QWEN_VISION}
    _qwen(folder, "Qwen2_5_VL", "Qwen2_5_VLProcessor", vision, [4, 6, 6])


def qwen3_vl(folder: Path) -> None:
    size = {"depth": 3, "hidden_size": 64, "intermediate_size": 128, "out_hidden_size": 4 * HEAD}
    vision = {**size, "num_position_embeddings": 64, "deepstack_visual_indexes": [0, 1], **_QWEN_VISION}
    _qwen(folder, "Qwen3VL", "Qwen3VLProcessor", vision, [8, 4, 4], mrope_interleaved=True)


def _qwen(folder: Path, kind: str, processor: str, vision: dict[str, Any], sections: list[int], **rope: Any) -> None:
    tokenizer = _tokenizer(*_QWEN)
    image, video, start, end = tokenizer.convert_tokens_to_ids(list(_QWEN))
    rope = {"rope_type": "default", "mrope_section": sections, "rope_theta": 1e4, **rope}
    config = getattr(tf, f"{kind}Config")(
        vision_config=vision,
        text_config={**_words(tokenizer), **_TEXT, "rope_parameters": rope},
        image_token_id=image,
        video_token_id=video,
        vision_start_token_id=start,
        vision_end_token_id=end,
    )
    sizes = {"size": {"shortest_edge": 28 * 28 * 4, "longest_edge": 28 * 28 * 64}}
    merge = {"patch_size": _PATCH, "merge_size": 2, "temporal_patch_size": 2}
    videos = tf.Qwen3VLVideoProcessor if kind == "Qwen3VL" else tf.Qwen2VLVideoProcessor
    made = getattr(tf, processor)(tf.Qwen2VLImageProcessor(**sizes, **merge), tokenizer, videos(**sizes, **merge))
    picture = "<|vision_start|><|image_pad|><|vision_end|>"
    _save(folder, getattr(tf, f"{kind}ForConditionalGeneration"), config, made, picture)


def internvl(folder: Path) -> None:
    names = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer = _tokenizer(**{f"{name}_token": token for name, token in names.items()})
    config = tf.InternVLConfig(
        vision_config={**_VISION, "image_size": [_SIDE, _SIDE], "patch_size": [_PATCH, _PATCH]},
        text_config={"model_type": "qwen2", **_words(tokenizer), **_TEXT},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    size = {"height": _SIDE, "width": _SIDE}
    images = tf.GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=4)
    processor = tf.InternVLProcessor(images, tokenizer, tf.InternVLVideoProcessor(size=size), image_seq_length=4)
    _save(folder, tf.InternVLForConditionalGeneration, config, processor, "<IMG_CONTEXT>")


def gemma3(folder: Path) -> None:
    names = {"boi": "<start_of_image>", "eoi": "<end_of_image>", "image": "<image_soft_token>"}
    breaks = ("\n", "\n\n", "\n\n\n", "\n\n\n\n")  # single tokens in Gemma's vocabulary
    tokenizer = _tokenizer(*breaks, **{f"{name}_token": token for name, token in names.items()})
    layers = {"sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"]}
    config = tf.Gemma3Config(
        vision_config=_SIGLIP,
        text_config={**_words(tokenizer), **_TEXT, **layers, "tie_word_embeddings": False},
        tie_word_embeddings=False,  # else a random model says its last token again
        mm_tokens_per_image=4,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
        image_token_index=tokenizer.image_token_id,
    )
    images = tf.Gemma3ImageProcessor(size={"height": _SIDE, "width": _SIDE})
    processor = tf.Gemma3Processor(images, tokenizer, image_seq_length=4)
    # As in Gemma's own template no line break follows: vLLM does not find a picture in front of one.
    _save(folder, tf.Gemma3ForConditionalGeneration, config, processor, "<start_of_image>", after="")


FAMILIES: dict[str, Callable[[Path], None]] = {
    "llava_siglip": llava_siglip,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "gemma3": gemma3,
}


def _tokenizer(*special: str, **named: str) -> Any:
    """The demo model's, with special tokens, and with such that processors ask for by name."""
    tokenizer = tf.AutoTokenizer.from_pretrained(demo_model_path())
    if special or named:
        tokenizer.add_special_tokens({"additional_special_tokens": [*special, *named.values()]})
    if named:
        tokenizer._set_model_specific_special_tokens(special_tokens=named)
    return tokenizer


def _words(tokenizer: Any) -> dict[str, Any]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id")
    return {"vocab_size": len(tokenizer), **{name: getattr(tokenizer, name) for name in names}}


def _save(folder: Path, kind: Any, config: Any, processor: Any, picture: str, after: str = "\n") -> None:
    """The model, in weights so wide that greedy replies differ from picture to picture; and the demo model's CLIP."""
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5 * 1.5)
    text = config.get_text_config()
    model.generation_config = tf.GenerationConfig(eos_token_id=text.eos_token_id, pad_token_id=text.pad_token_id)
    model.save_pretrained(folder)
    processor.chat_template = _TEMPLATE.replace("PICTURE", picture + after)
    processor.save_pretrained(folder)
    shutil.copytree(demo_model_path() / "clip", folder / "clip")
    (folder / "trimkit.json").write_text(json.dumps({"clip": "clip"}), encoding="utf-8")
