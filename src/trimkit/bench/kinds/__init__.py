"""Architectures that ``trimkit bench`` can build with random weights: one file each, found by the name of its module."""

from __future__ import annotations

import importlib
from typing import Any, Protocol, cast

from torch import Generator, Tensor

from trimkit.bench.shapes import Shape

__all__ = ["IMAGE_TOKEN", "Kind", "kind_of"]

IMAGE_TOKEN = 3


class Kind(Protocol):
    """What a module here has."""

    def config(self, shape: Shape) -> Any:
        """The stock config; building it allocates nothing."""

    def inputs(self, shape: Shape, pictures: int, generator: Generator) -> dict[str, Tensor]:
        """What a processor would give for so many pictures of noise, beside the prompt: ``pixel_values`` and sizes."""


def kind_of(shape: Shape) -> Kind:
    """The module of the shape's architecture."""
    return cast(Kind, importlib.import_module(f"{__name__}.{shape.kind}"))
