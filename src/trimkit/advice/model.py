"""The model that is asked about: a named shape, or what a checkpoint's ``config.json`` says; and the size of its pictures."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

from trimkit.bench.shapes import SHAPES, Shape
from trimkit.errors import InputError, ModelError, TrimkitError, UnknownNameError, UnsupportedError
from trimkit.io.files import user_path
from trimkit.io.reading import check_checkpoint

__all__ = ["model_of", "with_picture"]

_TILES = {"llava_next": 4, "llava_onevision": 9}  # the most that the published checkpoints cut a picture to
_LARGEST = 10_000_000  # of the numbers in a config
_CLIP = SHAPES["llava-1.5-7b"]


def model_of(name: str) -> Shape:
    """A named shape, ``demo``, or a directory with a ``config.json``; no weights are read.

    Raises:
        UnknownNameError: neither a shape nor a directory.
        InputError: no path can be so, or its directory holds a file that never ends.
        ModelError: the config cannot be read.
        UnsupportedError: an architecture whose arithmetic is not known here.
    """
    if name in SHAPES:
        return SHAPES[name]
    folder = _demo() if name == "demo" else user_path(name)
    if not folder.is_dir():
        raise UnknownNameError("model", name, [*SHAPES, "demo"])
    try:
        return _shape_of(folder)
    except TrimkitError:
        raise
    except Exception as error:  # the readers of configs fail in ways of their own
        raise ModelError(
            f"{name} has no config.json that can be read: give a checkpoint's directory or a shape"
        ) from error


def _shape_of(folder: Path) -> Shape:
    """What the config in a directory says.

    Raises:
        InputError: the directory holds a file that never ends.
        UnsupportedError: see ``model_of``.
    """
    from transformers import AutoConfig

    check_checkpoint(folder)
    config: Any = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    kind = str(config.model_type)
    if kind not in {shape.kind for shape in SHAPES.values()}:
        known = ", ".join(sorted({shape.kind for shape in SHAPES.values()}))
        raise UnsupportedError(f"no arithmetic for model type {kind!r}, only for {known}: name a shape of like size")
    shape = _merging(config, kind) if kind.startswith("qwen") else _crops(config, kind)
    numbers = (*shape.vision, *shape.language, shape.image_tokens, shape.vocabulary)
    if not all(1 <= number <= _LARGEST for number in numbers):
        raise ModelError(f"the sizes in {str(folder / 'config.json')!r} are those of no model: check it")
    return replace(shape, **_text_tower(folder))


def with_picture(shape: Shape, width: int, height: int) -> Shape:
    """The shape on pictures of so many pixels, as near as the architecture takes them.

    LLaVA-1.5 scales every picture to its square. Tiles are whole ones, no more than the published checkpoints cut. Qwen's are
    rounded to whole tokens.

    Raises:
        InputError: no pixels, or more than a model takes.
    """
    if not (16 <= width <= 16_384 and 16 <= height <= 16_384):
        raise InputError(
            f"a picture of {width}x{height} pixels is outside 16 to 16384: give WIDTHxHEIGHT, for example 1280x960"
        )
    if shape.kind == "llava":
        return shape
    if shape.tiled:
        rows, columns = (max(1, math.ceil(each / shape.image_size)) for each in (height, width))
        while rows * columns > _TILES[shape.kind]:
            rows, columns = (rows - 1, columns) if rows >= columns else (rows, columns - 1)
        return replace(shape, picture=(rows * shape.image_size, columns * shape.image_size))
    unit = shape.patch_size * shape.merge
    sides = (max(1, round(height / unit)) * unit, max(1, round(width / unit)) * unit)
    return replace(shape, picture=sides)


def _demo() -> Path:
    from trimkit.demo import demo_model_path

    return Path(demo_model_path())


def _text_tower(folder: Path) -> dict[str, Any]:
    """Of the CLIP that an exported checkpoint brings with it; nothing where there is none."""
    from transformers import AutoConfig

    try:
        text: Any = AutoConfig.from_pretrained(str(folder / "clip"), local_files_only=True).text_config
        sizes = (text.num_hidden_layers, text.hidden_size, text.num_attention_heads)
        return {"text": sizes, "projection": text.projection_dim, "text_vocabulary": text.vocab_size}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}


def _language(text: Any) -> dict[str, Any]:
    heads = text.num_attention_heads
    return {
        "language": (text.num_hidden_layers, text.hidden_size, heads),
        "inner": text.intermediate_size,
        "vocabulary": text.vocab_size,
        "kv_heads": getattr(text, "num_key_value_heads", None) or heads,
        "head": getattr(text, "head_dim", None) or 0,
        "text": _CLIP.text,
    }


def _crops(config: Any, kind: str) -> Shape:
    seen = config.vision_config
    shape = Shape(
        vision=(seen.num_hidden_layers, seen.hidden_size, seen.num_attention_heads),
        vision_inner=seen.intermediate_size,
        image_size=seen.image_size,
        patch_size=seen.patch_size,
        kind=kind,
        **_language(config.get_text_config()),
    )
    return with_picture(shape, 2 * shape.image_size, 2 * shape.image_size) if shape.tiled else shape


def _merging(config: Any, kind: str) -> Shape:
    seen = config.vision_config
    return Shape(
        vision=(seen.depth, seen.hidden_size, seen.num_heads),
        vision_inner=seen.intermediate_size,
        patch_size=seen.patch_size,
        kind=kind,
        merge=seen.spatial_merge_size,
        picture=(896, 1120),
        full_attention=tuple(getattr(seen, "fullatt_block_indexes", ())),
        window=getattr(seen, "window_size", 0),
        deepstack=tuple(getattr(seen, "deepstack_visual_indexes", ())),
        **_language(config.get_text_config()),
    )
