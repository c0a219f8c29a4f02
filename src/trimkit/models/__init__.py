"""Model families: how each gives up its image tokens and takes back fewer. One file a family that has something to say.

``family_of(model)`` picks by ``config.model_type``; what no file names is served by ``generic``.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from trimkit.errors import UnsupportedError
from trimkit.models._base import AT_ONCE, Family, ModelInputs
from trimkit.models._parts import VisionParts
from trimkit.models._signals import layer_signals, record_signals
from trimkit.registry import Registry

__all__ = [
    "AT_ONCE",
    "Family",
    "ModelInputs",
    "VisionParts",
    "families",
    "family_of",
    "layer_signals",
    "record_signals",
]


def _collect(module: ModuleType) -> Iterator[tuple[str, Family]]:
    for value in vars(module).values():
        if isinstance(value, type) and issubclass(value, Family) and value.__module__ == module.__name__:
            family = value()
            for model_type in value.model_types:
                yield model_type, family


_registry: Registry[Family] = Registry("model family", "trimkit.models", _collect, group="trimkit.models")


def families() -> list[tuple[str, Family]]:
    """Model type and family pairs, sorted by model type."""
    return _registry.items()


def family_of(model: Any) -> Family:
    """The family of a transformers model.

    Raises:
        UnsupportedError: the model takes no pre-encoded images, with the reason.
    """
    model_type = getattr(getattr(model, "config", None), "model_type", None)
    if model_type is None:
        raise UnsupportedError(
            f"{type(model).__name__} is not a transformers model: pass one loaded by from_pretrained"
        )
    family = _registry.find(model_type) or _registry.get("*")
    family.check(model)
    return family
