"""Measures of a model that the formulas need: from a named shape, or from a checkpoint's config."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from trimkit.bench.shapes import Shape

__all__ = ["CLIP_PATCH", "LanguageSizes", "Sizes", "TowerSizes", "of_layers", "sizes_of", "sizes_of_shape"]

CLIP_PATCH = 3 * 14**2
"""Numbers of a patch of the CLIPs that score beside other towers."""


@dataclass(frozen=True)
class TowerSizes:
    """A transformer that reads pictures or text.

    Attributes:
        gated: whether the feed-forward part has three matrices (Qwen2.5-VL) instead of two.
        window: patches that see each other, where not all do; 0 is all.
        full: layers in which all do all the same.
    """

    layers: int
    width: int
    inner: int
    gated: bool = False
    window: int = 0
    full: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LanguageSizes:
    """A Llama; ``heads`` and ``kv_heads`` of ``head`` numbers each."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_heads: int
    head: int
    vocabulary: int


@dataclass(frozen=True)
class Sizes:
    """All that the formulas need of a model.

    Attributes:
        patches: of one crop, that the vision tower is given at a time.
        patch: numbers of a patch's pixels.
        text: None where nothing reads the question.
        crops: of one picture.
        class_token: whether a token beside the patches goes through the tower.
        merge: patches that go into one token of the projector.
        mergers: how many projectors see all of them (Qwen3-VL has one for each deep-stack layer, too).
        hidden: width inside the projector; 0 is the language model's.
        clip: the tower of the scorer's own CLIP; None where the model's own tower is read.
        clip_patches: of every view of a picture that goes through it.
    """

    vision: TowerSizes
    language: LanguageSizes
    patches: int
    patch: int
    text: TowerSizes | None = None
    text_vocabulary: int = 0
    text_positions: int = 0
    projection: int = 0
    crops: int = 1
    class_token: bool = True
    merge: int = 1
    mergers: int = 1
    hidden: int = 0
    clip: TowerSizes | None = None
    clip_patches: tuple[int, ...] = ()

    @property
    def crop(self) -> int:
        """Length of a crop in the tower."""
        return self.patches + int(self.class_token)


def sizes_of(config: Any, text_config: Any = None) -> Sizes | None:
    """Read from a LLaVA's config, and the config of CLIP's text tower; None for another architecture."""
    if getattr(config, "model_type", None) != "llava" or config.vision_config.model_type != "clip_vision_model":
        return None
    seen, said = config.vision_config, config.text_config
    if said.model_type != "llama":
        return None
    heads = said.num_attention_heads
    language = LanguageSizes(
        layers=said.num_hidden_layers,
        width=said.hidden_size,
        inner=said.intermediate_size,
        heads=heads,
        kv_heads=getattr(said, "num_key_value_heads", None) or heads,
        head=getattr(said, "head_dim", None) or said.hidden_size // heads,
        vocabulary=said.vocab_size,
    )
    text = None
    if text_config is not None:
        text = TowerSizes(text_config.num_hidden_layers, text_config.hidden_size, text_config.intermediate_size)
    return Sizes(
        vision=TowerSizes(seen.num_hidden_layers, seen.hidden_size, seen.intermediate_size),
        language=language,
        patches=(seen.image_size // seen.patch_size) ** 2,
        patch=seen.num_channels * seen.patch_size**2,
        text=text,
        text_vocabulary=getattr(text_config, "vocab_size", 0),
        text_positions=getattr(text_config, "max_position_embeddings", 0),
        projection=getattr(text_config, "projection_dim", 0) or 0,
    )


def sizes_of_shape(shape: Shape) -> Sizes:
    """Of a named shape, whichever its architecture, and of the CLIP that scores beside it."""
    layers, width, _ = shape.vision
    merged = shape.merge > 1
    window = (shape.window // shape.patch_size) ** 2
    tower = TowerSizes(
        layers,
        width,
        shape.vision_inner or 4 * width,
        shape.kind == "qwen2_5_vl",
        window,
        frozenset(shape.full_attention),
    )
    depth, wide, heads = shape.language
    head = shape.head or wide // heads
    language = LanguageSizes(depth, wide, shape.inner, heads, shape.kv_heads or heads, head, shape.vocabulary)
    return Sizes(
        vision=tower,
        language=language,
        patches=shape.patches,
        patch=3 * shape.patch_size**2 * (2 if merged else 1),
        text=TowerSizes(shape.text[0], shape.text[1], 4 * shape.text[1]),
        text_vocabulary=shape.text_vocabulary,
        text_positions=77,
        projection=shape.projection,
        crops=shape.crops,
        class_token=shape.kind in ("llava", "llava_next"),
        merge=shape.merge**2,
        mergers=1 + len(shape.deepstack),
        hidden=shape.merge**2 * width if merged else 0,
        **_external(shape),
    )


def _external(shape: Shape) -> dict[str, Any]:
    """What a CLIP of the scorer's own looks at: the picture, and where there are tiles, those put together as one view."""
    if shape.kind == "llava":
        return {}
    own = shape.scorer
    layers, width, _ = own.vision
    side, (height, wide) = own.image_size // own.patch_size, shape.pixels
    grid = max(1, round(side * math.sqrt(height / wide))) * max(1, round(side / math.sqrt(height / wide)))
    views = (side * side, grid) if shape.tiled else (grid,)
    return {"clip": TowerSizes(layers, width, 4 * width), "clip_patches": views}


def of_layers(sizes: Sizes, layers: int) -> Sizes:
    """The same model with so many layers in its language model."""
    return replace(sizes, language=replace(sizes.language, layers=layers))
