"""The shelf: every ``EncoderScorer`` in a module of this package, and those of other packages."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

from trimkit.errors import ModelError
from trimkit.registry import Registry
from trimkit.scorers.base import EncoderScorer

__all__ = ["class_for", "named_class", "registry", "scorer_classes"]


def _collect(module: ModuleType) -> Iterator[tuple[str, type[EncoderScorer]]]:
    for value in vars(module).values():
        ours = isinstance(value, type) and issubclass(value, EncoderScorer) and value.__module__ == module.__name__
        if ours and hasattr(value, "name"):
            yield value.name, value


registry: Registry[type[EncoderScorer]] = Registry("scorer", "trimkit.scorers", _collect, group="trimkit.scorers")


def scorer_classes() -> list[tuple[str, type[EncoderScorer]]]:
    """All registered scorers, sorted by name."""
    return registry.items()


def named_class(name: str) -> type[EncoderScorer] | None:
    """The scorer that is built by this name, without a checkpoint."""
    found = registry.find(name)
    return found if found is not None and not found.model_types else None


def class_for(source: str, config: Any, tower: Any) -> type[EncoderScorer]:
    """What reads an encoder with this config.

    Of several that fit, one that reads the tower's features comes before one that looks at pixels, and one for fewer kinds of
    encoder before one for more.

    Raises:
        ModelError: nothing on the shelf reads this kind of encoder.
    """
    kind = getattr(config, "model_type", "")
    able = [found for _, found in scorer_classes() if kind in found.model_types]
    able.sort(key=lambda found: (found.needs_views, len(found.model_types)))
    fitting = next((found for found in able if found.fits(config, tower)), None)
    if fitting is None:
        raise ModelError(
            f"{source!r} is a {kind or 'nameless'} checkpoint without a CLIP text tower: pass scorer= a full CLIP "
            "checkpoint such as 'openai/clip-vit-large-patch14-336', or use a method that does not read the text"
        )
    return fitting
