"""Models by their measures: what speed depends on. One entry of ``SHAPES`` is one shape; a new entry is all it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from trimkit.errors import ConfigError, UnknownNameError

__all__ = ["SHAPES", "Shape", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """A LLaVA-1.5: a CLIP tower, a two-layer projector and a Llama; with CLIP's text tower beside it.

    Attributes:
        vision, text: layers, width and heads; the feed-forward part is four times as wide, as in CLIP.
        language: layers, width and heads.
        inner: width of the language model's feed-forward part.
        vocabulary: of the language model.
        image_size, patch_size: pixels of a side.
        projection: width of CLIP's joint space.
        text_vocabulary: of CLIP's text tower.
        of_layers: layers of the whole model where ``language`` has fewer of them.
    """

    vision: tuple[int, int, int]
    text: tuple[int, int, int]
    language: tuple[int, int, int]
    inner: int
    vocabulary: int
    image_size: int = 336
    patch_size: int = 14
    projection: int = 768
    text_vocabulary: int = 49_408
    of_layers: int = 0

    @property
    def image_tokens(self) -> int:
        """Patches of one picture."""
        return int((self.image_size // self.patch_size) ** 2)

    @property
    def layers(self) -> int:
        """Layers that the language model is built with."""
        return self.language[0]

    @property
    def full_layers(self) -> int:
        """Layers of the whole model's language model."""
        return self.of_layers or self.layers

    def to_plain(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "of_layers": self.full_layers, "image_tokens": self.image_tokens}


_CLIP_L, _CLIP_L_TEXT = (24, 1024, 16), (12, 768, 12)

SHAPES = {
    # config.json of llava-hf/llava-1.5-7b-hf and -13b-hf: Vicuna with 64 places more in its vocabulary.
    "llava-1.5-7b": Shape(_CLIP_L, _CLIP_L_TEXT, language=(32, 4096, 32), inner=11_008, vocabulary=32_064),
    "llava-1.5-13b": Shape(_CLIP_L, _CLIP_L_TEXT, language=(40, 5120, 40), inner=13_824, vocabulary=32_064),
    # LLaVA-1.5's tower before a language model that two CPU cores can run.
    "clip-l-336": Shape(_CLIP_L, _CLIP_L_TEXT, language=(12, 1024, 16), inner=2816, vocabulary=32_000),
    "small": Shape(
        vision=(3, 64, 4),
        text=(2, 32, 4),
        language=(2, 64, 4),
        inner=128,
        vocabulary=256,
        image_size=140,
        projection=32,
        text_vocabulary=256,
    ),
}


def shape_of(name: str, layers: int | None = None) -> Shape:
    """The shape called ``name``, its language model cut to ``layers``.

    Raises:
        UnknownNameError: there is none; the nearest name is given.
        ConfigError: more layers than it has, or none.
    """
    if name not in SHAPES:
        raise UnknownNameError("shape", name, SHAPES)
    shape = SHAPES[name]
    if layers is None or layers == shape.layers:
        return shape
    if not 1 <= layers <= shape.layers:
        raise ConfigError(f"layers {layers} is outside 1 to {shape.layers}: give as many as {name} has, or fewer")
    return replace(shape, language=(layers, *shape.language[1:]), of_layers=shape.layers)
