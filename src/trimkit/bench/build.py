"""A LLaVA of a given shape with random weights, and a CLIP text tower to match: all that speed depends on."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from trimkit.bench.shapes import Shape
from trimkit.scorers import ClipNativeScorer

__all__ = ["IMAGE_TOKEN", "build_llava", "build_scorer", "clip_config", "llava_config"]

IMAGE_TOKEN = 3


def llava_config(shape: Shape) -> Any:
    """The stock config; building it allocates nothing."""
    from transformers import LlavaConfig

    layers, width, heads = shape.language
    text = {
        "model_type": "llama",
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": shape.inner,
        "vocab_size": shape.vocabulary,
        "max_position_embeddings": 4096,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    return LlavaConfig(
        vision_config={"model_type": "clip_vision_model", **_tower(shape.vision, shape)},
        text_config=text,
        image_token_index=IMAGE_TOKEN,
        image_seq_length=shape.image_tokens,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )


def clip_config(shape: Shape) -> Any:
    """The stock config of the CLIP whose text tower fits the vision tower."""
    from transformers import CLIPConfig

    layers, width, heads = shape.text
    text = {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "vocab_size": shape.text_vocabulary,
        "projection_dim": shape.projection,
        "bos_token_id": 0,
        "eos_token_id": 2,  # transformers' mark for pooling at the highest id, as in OpenAI's checkpoints
    }
    vision = {**_tower(shape.vision, shape), "num_hidden_layers": 1}  # its layers are not used
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)


def build_llava(shape: Shape, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A stock ``LlavaForConditionalGeneration`` in eval mode, made where and as it is to run."""
    import transformers

    auto: Any = transformers.AutoModelForImageTextToText  # typed only in part
    torch.manual_seed(seed)
    with torch.device(device):
        model: Any = auto.from_config(llava_config(shape), dtype=dtype)
    return model.eval()


def build_scorer(shape: Shape, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> ClipNativeScorer:
    """A text tower with random weights, fitting the vision features of ``build_llava``."""
    import transformers

    auto: Any = transformers.AutoModel  # typed only in part
    torch.manual_seed(seed)
    with torch.device(device):
        clip: Any = auto.from_config(clip_config(shape), dtype=dtype)
    clip.vision_model.encoder.layers = torch.nn.ModuleList()  # as after loading: the model has computed these features
    return ClipNativeScorer(clip.eval(), _WordHash(shape.text_vocabulary))


def _tower(sizes: tuple[int, int, int], shape: Shape) -> dict[str, Any]:
    layers, width, heads = sizes
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "image_size": shape.image_size,
        "patch_size": shape.patch_size,
        "projection_dim": shape.projection,
    }


class _WordHash:
    """Stands in for CLIP's tokenizer: one id a word, between a start and an end token."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        words = [3 + zlib.crc32(word.encode()) % (self._size - 4) for word in text.split()]
        return {"input_ids": [0, *words, self._size - 1]}
