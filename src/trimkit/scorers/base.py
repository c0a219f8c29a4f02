"""The scorer protocol: image tokens and questions in, one similarity per token out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from torch import Tensor

from trimkit.core.types import EncoderProfile, ImageTokens

__all__ = ["Scorer"]


@runtime_checkable
class Scorer(Protocol):
    """Anything with a profile and ``similarity``; pass an instance as ``scorer=``."""

    @property
    def profile(self) -> EncoderProfile:
        """How the similarity is to be read."""
        ...

    def similarity(
        self, images: Sequence[ImageTokens], queries: Sequence[str], *, normalize: bool = False, truncate: bool = False
    ) -> list[Tensor]:
        """Raw similarity of every token of every image to its question.

        Args:
            images: B images.
            queries: B questions.
            normalize: cosine instead of dot product.
            truncate: cut long questions instead of chunking them.

        Returns:
            B tensors ``[N_i]``, float32.
        """
        ...
