"""Models by their measures: what speed depends on. One entry of ``SHAPES`` is one shape; a new entry is all it takes."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from trimkit.errors import ConfigError, UnknownNameError

__all__ = ["SHAPES", "Shape", "shape_of"]


@dataclass(frozen=True)
class Shape:
    """A vision tower, a projector and a language model; with a CLIP text tower beside them.

    Attributes:
        vision, text: layers, width and heads.
        language: layers, width and heads.
        inner: width of the language model's feed-forward part.
        vocabulary: of the language model.
        image_size, patch_size: pixels of a side of what the tower is given at a time, and of a patch.
        projection: width of CLIP's joint space.
        text_vocabulary: of CLIP's text tower.
        of_layers: layers of the whole model where ``language`` has fewer of them.
        kind: the architecture, a module of ``trimkit.bench.kinds``.
        kv_heads, head: of the language model; 0 is as many as heads, and width by heads.
        vision_inner: width of the tower's feed-forward part; 0 is four times its width, as in CLIP.
        picture: pixels of the pictures, height and width; (0, 0) is one ``image_size`` square.
        merge: patches a side that become one token.
        full_attention: layers of the tower in which all patches see each other; empty is every layer.
        window: pixels a side that see each other in the other layers.
        deepstack: layers of the tower whose states go to later layers of the language model, too.
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
    kind: str = "llava"
    kv_heads: int = 0
    head: int = 0
    vision_inner: int = 0
    picture: tuple[int, int] = (0, 0)
    merge: int = 1
    full_attention: tuple[int, ...] = ()
    window: int = 0
    deepstack: tuple[int, ...] = ()

    @property
    def pixels(self) -> tuple[int, int]:
        """Height and width of a picture."""
        return self.picture if self.picture != (0, 0) else (self.image_size, self.image_size)

    @property
    def tiled(self) -> bool:
        """Whether a picture is cut to tiles, beside a small one of it as a whole (LLaVA-NeXT, OneVision)."""
        return self.kind in ("llava_next", "llava_onevision")

    @property
    def tiles(self) -> tuple[int, int]:
        """Rows and columns of tiles; (0, 0) where there are none."""
        height, width = self.pixels
        return (height // self.image_size, width // self.image_size) if self.tiled else (0, 0)

    @property
    def crops(self) -> int:
        """What the tower is given for one picture: the picture, or its tiles and the small one."""
        rows, columns = self.tiles
        return rows * columns + 1

    @property
    def patches(self) -> int:
        """Patches of one crop."""
        height, width = (self.image_size, self.image_size) if self.tiled else self.pixels
        return int((height // self.patch_size) * (width // self.patch_size))

    @property
    def image_tokens(self) -> int:
        """Tokens that one picture has in the prompt. Rows of tiles end with a newline token each."""
        rows, columns = self.tiles
        side = self.image_size // self.patch_size
        return self.patches // self.merge**2 + rows * side * (columns * side + 1)

    @property
    def scorer(self) -> Shape:
        """The shape whose CLIP scores its pictures: its own, or LLaVA-1.5's beside another tower (small for a small one)."""
        if self.kind == "llava":
            return self
        return SHAPES["small" if self.language[1] < _SMALL_BELOW else "llava-1.5-7b"]

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


_SMALL_BELOW = 512  # width

_CLIP_L, _CLIP_L_TEXT = (24, 1024, 16), (12, 768, 12)
_VICUNA_7B: dict[str, Any] = {"language": (32, 4096, 32), "inner": 11_008, "vocabulary": 32_064}
_VICUNA_13B: dict[str, Any] = {"language": (40, 5120, 40), "inner": 13_824, "vocabulary": 32_064}
_QWEN_25_VL_7B = Shape(
    vision=(32, 1280, 16),
    text=_CLIP_L_TEXT,
    language=(28, 3584, 28),
    inner=18_944,
    vocabulary=152_064,
    kind="qwen2_5_vl",
    kv_heads=4,
    vision_inner=3420,
    picture=(896, 1120),
    merge=2,
    full_attention=(7, 15, 23, 31),
    window=112,
)
_SMALL = Shape(
    vision=(3, 64, 4),
    text=(2, 32, 4),
    language=(2, 64, 4),
    inner=128,
    vocabulary=256,
    image_size=140,
    projection=32,
    text_vocabulary=256,
)

SHAPES = {
    # config.json of llava-hf/llava-1.5-7b-hf and -13b-hf: Vicuna with 64 places more in its vocabulary.
    "llava-1.5-7b": Shape(_CLIP_L, _CLIP_L_TEXT, **_VICUNA_7B),
    "llava-1.5-13b": Shape(_CLIP_L, _CLIP_L_TEXT, **_VICUNA_13B),
    # llava-hf/llava-v1.6-vicuna-7b-hf and -13b-hf on a square picture: 5 x 576 patches and 48 newlines.
    "llava-next-7b": Shape(_CLIP_L, _CLIP_L_TEXT, **_VICUNA_7B, kind="llava_next", picture=(672, 672)),
    "llava-next-13b": Shape(_CLIP_L, _CLIP_L_TEXT, **_VICUNA_13B, kind="llava_next", picture=(672, 672)),
    # llava-hf/llava-onevision-qwen2-7b-ov-hf: SigLIP so400m at 384 pixels, Qwen2.
    "llava-onevision-7b": Shape(
        vision=(26, 1152, 16),
        text=_CLIP_L_TEXT,
        language=(28, 3584, 28),
        inner=18_944,
        vocabulary=152_000,
        image_size=384,
        kind="llava_onevision",
        kv_heads=4,
        vision_inner=4304,
        picture=(768, 768),
    ),
    # Qwen/Qwen2.5-VL-7B-Instruct, on a picture of a megapixel and on one of three.
    "qwen2.5-vl-7b": _QWEN_25_VL_7B,
    "qwen2.5-vl-7b-4096": replace(_QWEN_25_VL_7B, picture=(1792, 1792)),
    # Qwen/Qwen3-VL-8B-Instruct.
    "qwen3-vl-8b": Shape(
        vision=(27, 1152, 16),
        text=_CLIP_L_TEXT,
        language=(36, 4096, 32),
        inner=12_288,
        vocabulary=151_936,
        patch_size=16,
        kind="qwen3_vl",
        kv_heads=8,
        head=128,
        vision_inner=4304,
        picture=(1024, 1280),
        merge=2,
        deepstack=(8, 16, 24),
    ),
    # LLaVA-1.5's tower before a language model that two CPU cores can run.
    "clip-l-336": Shape(_CLIP_L, _CLIP_L_TEXT, language=(12, 1024, 16), inner=2816, vocabulary=32_000),
    "small": _SMALL,
    "small-next": replace(_SMALL, image_size=56, kind="llava_next", picture=(112, 112)),
    "small-onevision": replace(_SMALL, image_size=56, kind="llava_onevision", picture=(112, 112), kv_heads=2),
    "small-qwen2.5-vl": replace(
        _SMALL, kind="qwen2_5_vl", picture=(112, 140), merge=2, kv_heads=2, full_attention=(1,), window=56
    ),
    "small-qwen3-vl": replace(
        _SMALL, kind="qwen3_vl", patch_size=16, picture=(128, 160), merge=2, kv_heads=2, deepstack=(0, 1)
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
