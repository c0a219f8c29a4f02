"""Llama 4: tiles of one size, each a square of tokens; ``forward`` itself runs the projector on what it is handed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.core.types import ImageTokens
from trimkit.errors import UnsupportedError
from trimkit.models._base import Family, ModelInputs
from trimkit.models._checks import check_features
from trimkit.models._forward_reads import source_of

__all__ = ["Llama4"]


class Llama4(Family):
    """A row of ``pixel_values`` is one tile. Features are the projector's input, which then runs on kept tokens alone."""

    model_types: ClassVar[tuple[str, ...]] = ("llama4",)
    title: ClassVar[str] = "Llama 4"
    reads: ClassVar[tuple[str, ...]] = ("last_hidden_state",)
    projects_inside: ClassVar[bool] = True

    def check(self, model: Any) -> None:
        super().check(model)
        if "outputs.image_outputs" in (source_of(type(model).forward) or ""):
            import transformers

            raise UnsupportedError(
                f"Llama 4 does not run in transformers {transformers.__version__}, with or without trimkit: its forward reads "
                "image_outputs, which its language model does not give; use another version"
            )

    def encode(self, model: Any, arguments: ModelInputs) -> list[ImageTokens]:
        tiles = self.encoder(model)(**arguments, return_dict=True).last_hidden_state
        check_features(model, tiles, ())
        side = math.isqrt(tiles.shape[1])
        return [ImageTokens(features=tile, grid=(side, side)) for tile in tiles]

    def project(self, model: Any, features: Sequence[Tensor]) -> list[Tensor]:
        """What stands at the placeholders; ``forward`` computes the same once more."""
        if not features:
            return []
        projected = self.base(model).multi_modal_projector(torch.cat(list(features)))
        return list(projected.split([len(tile) for tile in features]))

    def encoder_output(self, model: Any, features: list[Tensor], layers: Sequence[Sequence[Tensor]] = ()) -> Any:
        from trimkit.models._output import EncodedHiddenStates

        return EncodedHiddenStates(pooler_output=features)  # type: ignore[arg-type]
