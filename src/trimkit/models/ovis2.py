"""Ovis 2: an image token is a mixture of visual words; embeddings of the marks around a picture come with the features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from trimkit.models.square import SquareGrid

__all__ = ["Ovis2"]


class Ovis2(SquareGrid):
    """A row of ``pixel_values`` is a picture or one of its crops, a square of tokens each."""

    model_types: ClassVar[tuple[str, ...]] = ("ovis2",)
    title: ClassVar[str] = "Ovis 2"
    reads: ClassVar[tuple[str, ...]] = ("pooler_output", "visual_indicator_features")

    def encoder_output(self, model: Any, features: list[Tensor], layers: Sequence[Sequence[Tensor]] = ()) -> Any:
        """With the marks' embeddings: the last rows of the visual vocabulary, which ``forward`` puts at their ids."""
        output = super().encoder_output(model, features, layers)
        base = self.base(model)
        count = base.config.vision_config.num_visual_indicator_tokens
        last = base.config.vision_config.vocab_size
        device = base.visual_embeddings_table.weight.device
        output.visual_indicator_features = base.visual_embeddings_table(torch.arange(last - count, last, device=device))
        return output
