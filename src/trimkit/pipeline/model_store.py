"""What is held for a model as long as it lives, from one block or call to the next: its scorers, its image features."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

from trimkit.core.recent import Recent
from trimkit.models import family_of
from trimkit.pipeline.feature_cache import FeatureCache
from trimkit.scorers import Scorer
from trimkit.scorers.resolve import resolve_scorer, source_of

__all__ = ["feature_cache_of", "release", "scorer_of", "scorer_source"]

_SCORERS = 2  # the model's own, and one to compare it with


class _Held:
    """Of one model. Nothing in here may lead back to the model, which would then never go."""

    def __init__(self) -> None:
        self.scorers: Recent[tuple[str, str], Scorer] = Recent(_SCORERS)
        self.caches: dict[int, FeatureCache] = {}


_held: WeakKeyDictionary[Any, _Held] = WeakKeyDictionary()
_lock = threading.Lock()


def scorer_of(
    model: Any, scorer: Scorer | nn.Module | str | Path | None = None, *, directory: Path | None = None
) -> Scorer | None:
    """The scorer for a model, or None where nothing is known and nothing was passed.

    One that is loaded from a checkpoint stays with the model, so that it is loaded once: again only where the checkpoint's
    files or its ``trimkit.json`` have changed, or the model has moved to another device or dtype.

    Args:
        model: the vision-language model.
        scorer: as ``trimkit.reduce`` takes it.
        directory: where the model's ``trimkit.json`` is, if not where it was loaded from.

    Raises:
        ModelError: the checkpoint cannot be loaded or has no text tower.
        ConfigError: ``scorer`` is none of these, or ``trimkit.json`` cannot be read.
    """
    family = family_of(model)
    found = resolve_scorer(scorer, model, family.default_clip(model), family.tower(model), directory)
    if found is not None and (scorer is None or isinstance(scorer, (str, Path))):
        _held_for(model).scorers.put((str(scorer or ""), str(directory or "")), found)
    return found


def scorer_source(model: Any, scorer: object = None) -> str | None:
    """The directory or hub id that ``scorer_of`` loads; None where it loads none, or is given a loaded one."""
    return source_of(scorer, model, family_of(model).default_clip(model))


def feature_cache_of(model: Any, images: int | FeatureCache) -> FeatureCache:
    """The cache that a ``cache_images=`` asks for.

    Args:
        model: the vision-language model.
        images: how many images it holds: all that ask for as many share one, as long as the model lives; 0 for none. A cache is
            taken as it is.
    """
    if isinstance(images, FeatureCache):
        return images
    if images == 0:
        return FeatureCache(0)
    held = _held_for(model)
    with _lock:
        return held.caches.setdefault(images, FeatureCache(images))


def release(model: Any) -> None:
    """Forget what is held for a model from one block or call to the next: its scorers and its image features.

    What an attachment holds goes when that does. Harmless where nothing is held.

    Args:
        model: the vision-language model, or a PEFT model around one.
    """
    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    with _lock:
        held = _held.pop(owner, None)
    for cache in held.caches.values() if held is not None else ():
        cache.clear()


def _held_for(model: Any) -> _Held:
    with _lock:
        return _held.setdefault(model, _Held())
