"""A model of a given shape with random weights, and what scores its pictures: all that speed depends on."""

from __future__ import annotations

import zlib
from typing import Any

import torch

from trimkit.bench.kinds import IMAGE_TOKEN, kind_of
from trimkit.bench.kinds.parts import clip_tower
from trimkit.bench.shapes import Shape
from trimkit.io.building import one_at_a_time
from trimkit.scorers import ClipNativeScorer, ExternalScorer, Scorer

__all__ = ["IMAGE_TOKEN", "build_llava", "build_scorer", "clip_config", "llava_config"]


def llava_config(shape: Shape) -> Any:
    """The stock config of the shape's architecture; building it allocates nothing."""
    return kind_of(shape).config(shape)


def clip_config(shape: Shape) -> Any:
    """The stock config of the CLIP that scores: LLaVA-1.5's whose text tower fits its vision tower, else one of its own."""
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
    vision = clip_tower(shape.scorer)
    if _native(shape):
        vision["num_hidden_layers"] = 1  # its layers are not used
    return CLIPConfig(text_config=text, vision_config=vision, projection_dim=shape.projection)


def build_llava(shape: Shape, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Any:
    """A stock model of the shape's architecture in eval mode, made where and as it is to run: nothing is copied."""
    import transformers

    auto: Any = transformers.AutoModelForImageTextToText  # typed only in part
    torch.manual_seed(seed)
    with one_at_a_time(), torch.device(device):
        model: Any = auto.from_config(llava_config(shape), dtype=dtype)
    return model.eval()


def build_scorer(shape: Shape, *, device: torch.device, dtype: torch.dtype, seed: int = 0) -> Scorer:
    """What compares patches with the question: a text tower that fits LLaVA-1.5's features; for others a whole CLIP."""
    import transformers

    auto: Any = transformers.AutoModel  # typed only in part
    torch.manual_seed(seed)
    with one_at_a_time(), torch.device(device):
        clip: Any = auto.from_config(clip_config(shape), dtype=dtype)
    words = _WordHash(shape.text_vocabulary)
    if not _native(shape):
        return ExternalScorer(clip.eval(), words)
    clip.vision_model.encoder.layers = torch.nn.ModuleList()  # as after loading: the model has computed these features
    return ClipNativeScorer(clip.eval(), words)


def _native(shape: Shape) -> bool:
    """Whether a CLIP text tower reads the features of the model's own tower."""
    return shape.kind == "llava"


class _WordHash:
    """Stands in for CLIP's tokenizer: one id a word, between a start and an end token."""

    def __init__(self, size: int) -> None:
        self._size = size

    def __call__(self, text: str, **_: Any) -> dict[str, list[int]]:
        words = [3 + zlib.crc32(word.encode()) % (self._size - 4) for word in text.split()]
        return {"input_ids": [0, *words, self._size - 1]}
