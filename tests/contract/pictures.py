"""Encoder arguments of a real picture for each tiny family, made by the family's own image processor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil
from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import Siglip2ImageProcessorPil

_SQUARE = {"height": 24, "width": 24}
_PINPOINTS = [[24, 48], [48, 24], [48, 48]]


def _clip() -> Any:
    return CLIPImageProcessorPil(size={"shortest_edge": 24}, crop_size=_SQUARE)


def _tiled() -> Any:
    return GotOcr2ImageProcessorPil(size=_SQUARE, crop_to_patches=True, min_patches=1, max_patches=4)


def _next() -> Any:
    return LlavaNextImageProcessorPil(size={"shortest_edge": 24}, crop_size=_SQUARE, image_grid_pinpoints=_PINPOINTS)


def _onevision() -> Any:
    return LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_PINPOINTS)


def _qwen() -> Any:
    sizes = {"shortest_edge": 16 * 16, "longest_edge": 48 * 48}
    return Qwen2VLImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=sizes)


def _glm() -> Any:
    sizes = {"shortest_edge": 16 * 16, "longest_edge": 2 * 48 * 48}
    return Glm4vImageProcessorPil(patch_size=4, merge_size=2, temporal_patch_size=2, size=sizes)


def _idefics() -> Any:
    return Idefics3ImageProcessorPil(size={"longest_edge": 48}, max_image_size={"longest_edge": 24})


PROCESSORS: dict[str, Callable[[], Any]] = {
    "llava": _clip,
    "vipllava": _clip,
    "video_llava": _clip,
    "llava_next": _next,
    "llava_next_video": _next,
    "llava_onevision": _onevision,
    "paligemma": lambda: SiglipImageProcessorPil(size=_SQUARE),
    "gemma3": lambda: Gemma3ImageProcessorPil(size=_SQUARE),
    "internvl": _tiled,
    "aya_vision": _tiled,
    "cohere2_vision": _tiled,
    "llama4": lambda: SiglipImageProcessorPil(size=_SQUARE),
    "ovis2": lambda: SiglipImageProcessorPil(size=_SQUARE),
    "mistral3": lambda: PixtralImageProcessorPil(size={"longest_edge": 24}, patch_size={"height": 8, "width": 8}),
    "lfm2_vl": lambda: Siglip2ImageProcessorPil(patch_size=4, max_num_patches=36, do_resize=False),
    "idefics3": _idefics,
    "smolvlm": _idefics,
    "qwen2_vl": _qwen,
    "qwen2_5_vl": _qwen,
    "qwen3_vl": _qwen,
    "glm4v": _glm,
}


def encoder_arguments(name: str, picture: Image.Image) -> dict[str, Any]:
    """What the family's image encoder takes of one picture."""
    if name == "lfm2_vl":  # its own processor needs torchvision; like it, give sides that blocks of patches divide
        picture = picture.resize([max(8, round(side * 24 / max(picture.size) / 8) * 8) for side in picture.size])
    made = PROCESSORS[name]()([[picture]] if name in {"idefics3", "smolvlm"} else picture, return_tensors="pt")
    wanted = ("pixel_values", "image_sizes", "image_grid_thw", "spatial_shapes", "pixel_attention_mask")
    return {key: made[key] for key in wanted if key in made}
