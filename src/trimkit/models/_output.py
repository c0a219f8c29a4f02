"""Pre-encoded images as transformers takes them, in a container that families of either kind can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["EncodedImages", "hand_over"]


@dataclass
class EncodedImages(BaseModelOutputWithPooling):
    """``mm_encoder_outputs["image"]`` or ``["video"]``: in ``pooler_output`` one ``[n_i, D]`` an image, so that ``generate``
    repeats and slices ragged images rightly; in ``deepstack_features`` such a list for every layer that is fed as well.
    """

    deepstack_features: Sequence[Sequence[Tensor]] | None = None


class FeatureList(list[Tensor]):
    """A list of images' features that answers as their concatenation too: some models join a list, others read one tensor."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moved: as a list for accelerate's hooks, which say whether to wait; as one tensor for models."""
        if "non_blocking" in kwargs:
            return FeatureList(image.to(*args, **kwargs) for image in self)
        return torch.cat(self).unsqueeze(0).to(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cat(self).unsqueeze(0), name)


def hand_over(inputs: dict[str, Any]) -> dict[str, Any]:
    """``inputs`` of a model's own ``forward``, with images and videos that came as a list readable as one tensor."""
    given = inputs.get("mm_encoder_outputs") or {}
    readable = {
        name: EncodedImages(
            pooler_output=FeatureList(encoded.pooler_output),  # type: ignore[arg-type]
            deepstack_features=encoded.deepstack_features,
        )
        for name, encoded in given.items()
        if isinstance(encoded, EncodedImages) and isinstance(encoded.pooler_output, list)
    }
    return {**inputs, "mm_encoder_outputs": {**given, **readable}} if readable else inputs
