"""Any-resolution pictures: each with its own tiles, without the padding that a batch has brought."""

from __future__ import annotations

from typing import Any

from trimkit.models import ModelInputs
from trimkit.serving.vllm.base_model import ReducingModel

__all__ = ["TiledModel"]


class TiledModel(ReducingModel):
    """A picture is ranked as one image over all of its tiles, and is the same picture in any batch."""

    def split_pictures(self, arguments: ModelInputs) -> list[ModelInputs]:
        state = self._reducing
        found: list[Any] = []
        for picture in super().split_pictures(arguments):
            found += state.family.split(state.twin, picture)
        return found
