"""Every family that no other file names: features after the projector, positions 1-D and contiguous."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError
from trimkit.models._base import Family, ModelInputs

__all__ = ["Generic"]


class Generic(Family):
    """Works with text-free methods or a scorer passed by the user."""

    model_types: ClassVar[tuple[str, ...]] = ("*",)
    title: ClassVar[str] = "any model whose forward takes mm_encoder_outputs and gives features per image"
    batch: ClassVar[bool] = False
    training: ClassVar[bool] = False
    tested: ClassVar[str] = "LLaVA-NeXT through the base class"

    def separable(self, model: Any, arguments: ModelInputs) -> bool:
        counts = self._patches(arguments)
        units = len(arguments[self.pixels(model)]) if counts is None else len(counts)
        others = {name: value for name, value in arguments.items() if name != self.pixels(model)}
        fits = counts is None or (sum(counts) > 0 and len(arguments[self.pixels(model)]) % sum(counts) == 0)
        return fits and all(name in _PER_IMAGE and len(value) == units for name, value in others.items())

    def split(self, model: Any, arguments: ModelInputs) -> list[ModelInputs]:
        counts = self._patches(arguments)
        if counts is None:
            return super().split(model, arguments)
        name = self.pixels(model)
        times = len(arguments[name]) // sum(counts)  # the grid may count merged patches
        patches = arguments[name].split([times * count for count in counts])
        return [
            {key: patches[i] if key == name else value[i : i + 1] for key, value in arguments.items()}
            for i in range(len(counts))
        ]

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        images = super().encode(model, arguments)
        if len(images) > 1 and all(len(image) == 1 for image in images):
            raise UnsupportedError(
                f"{type(model).__name__}'s encoder gives tokens one by one, not image by image: it is not covered"
            )
        return images

    def _patches(self, arguments: ModelInputs) -> Sequence[int] | None:
        """Patches of every image, where all images' patches come as one list of rows."""
        grids = arguments.get(f"{self.medium}_grid_thw")
        return [int(n) for n in grids.prod(dim=-1)] if isinstance(grids, Tensor) else None


_PER_IMAGE = frozenset(
    {
        "high_res_pixel_values",
        "image_grid_thw",
        "image_merge_sizes",
        "image_position_ids",
        "image_sizes",
        "pixel_attention_mask",
        "spatial_shapes",
    }
)
