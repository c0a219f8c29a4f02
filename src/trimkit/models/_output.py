"""Pre-encoded images as transformers takes them, in a container that families of either kind can read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.modeling_outputs import BaseModelOutputWithPooling

__all__ = ["EncodedHiddenStates", "EncodedImages"]


class FeatureList(list[Tensor]):
    """A list of images' features that answers as their concatenation too: some models join a list, others read one tensor."""

    def to(self, *args: Any, **kwargs: Any) -> Any:
        """Moved: as a list for accelerate's hooks, which say whether to wait; as one tensor for models."""
        if "non_blocking" in kwargs:
            return FeatureList(image.to(*args, **kwargs) for image in self)
        return torch.cat(self).unsqueeze(0).to(*args, **kwargs)

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """As an argument of a tensor's operation: the list where tensors are joined, else the one tensor."""
        joins = func in (torch.cat, torch.concat, torch.stack)

        def plain(value: Any) -> Any:
            if not isinstance(value, FeatureList):
                return value
            return list(value) if joins else torch.cat(list(value)).unsqueeze(0)

        return func(*map(plain, args), **{name: plain(value) for name, value in (kwargs or {}).items()})

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cat(self).unsqueeze(0), name)


@dataclass
class EncodedImages(BaseModelOutputWithPooling):
    """``mm_encoder_outputs["image"]`` or ``["video"]``: in ``pooler_output`` one ``[n_i, D]`` an image, so that ``generate``
    repeats and slices ragged images rightly; in ``deepstack_features`` such a list for every layer that is fed as well.

    A list stays readable as one tensor (``FeatureList``), also where ``generate`` puts another one in its place.
    ``visual_indicator_features`` are embeddings that belong to no image (Ovis 2).
    """

    deepstack_features: Sequence[Sequence[Tensor]] | None = None
    visual_indicator_features: Tensor | None = None

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "pooler_output" and isinstance(value, list) and not isinstance(value, FeatureList):
            value = FeatureList(value)
        super().__setattr__(name, value)  # type: ignore[no-untyped-call]


@dataclass
class EncodedHiddenStates(EncodedImages):
    """For a ``forward`` that reads ``last_hidden_state``: it is ``pooler_output``, which ``generate`` repeats and slices."""

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "pooler_output":
            super().__setattr__("last_hidden_state", self.pooler_output)
