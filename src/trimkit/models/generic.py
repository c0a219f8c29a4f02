"""Every family that no other file names: features after the projector, positions 1-D and contiguous."""

from __future__ import annotations

from typing import ClassVar

from trimkit.models._base import Family

__all__ = ["Generic"]


class Generic(Family):
    """Works with text-free methods or a scorer passed by the user."""

    model_types: ClassVar[tuple[str, ...]] = ("*",)
    title: ClassVar[str] = "any model whose forward takes mm_encoder_outputs and gives features per image"
    batch: ClassVar[bool] = False
    training: ClassVar[bool] = False
    tested: ClassVar[str] = "LLaVA-NeXT through the base class"
