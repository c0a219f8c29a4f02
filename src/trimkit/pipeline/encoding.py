"""Pictures through the vision tower, with the cache of features in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from trimkit.core.types import ImageTokens
from trimkit.methods import Method
from trimkit.models import AT_ONCE, Family, ModelInputs, family_of, record_signals
from trimkit.pipeline.feature_cache import FeatureCache, content_key, encoder_stamp
from trimkit.pipeline.media import given_media
from trimkit.pipeline.vision_engine import VisionEngine

__all__ = ["encode", "shared_encoder"]


def encode(
    family: Family,
    model: Any,
    arguments: ModelInputs,
    cache: FeatureCache | None,
    signals: frozenset[str] = frozenset(),
    engine: VisionEngine | None = None,
) -> tuple[list[ImageTokens], list[bool]]:
    """Tokens of every image or video, with what ``signals`` asks for, and which came from ``cache``.

    An ``engine`` runs the tower in torch's place; what it has given is held apart from what torch has given.

    Without a cache all are encoded in one pass as the stock model does: another batch size may differ in the last bit.
    """
    layer = family.signal_layer(model, arguments) if signals else None
    if cache is None or not family.separable(model, arguments):
        with record_signals(layer, signals) as recorder:
            images = recorder.onto(_run(family, model, arguments, engine))
        return images, [False] * len(images)
    parts = family.split(model, arguments)
    keys = [content_key(part) for part in parts]
    # With gradients on, features must carry theirs: nothing is taken from the cache.
    usable = not (model.training or torch.is_grad_enabled())
    stamp = encoder_stamp(family.encoder_modules(model)) if usable else 0
    stamp = stamp if engine is None else hash((stamp, engine.name))
    found = {key: _with_signals(cache.get(key, stamp), signals) for key in keys} if usable else {}
    missing = {key: part for key, part in zip(keys, parts, strict=True) if found.get(key) is None}
    cached = [key not in missing for key in keys]
    if missing:
        wanted = list(missing.values())
        whole = len(missing) == len(parts) and (len(parts) <= AT_ONCE or not usable)
        groups = [wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)] if usable else [wanted]
        with record_signals(layer, signals) as recorder:
            if whole:
                images = _run(family, model, arguments, engine)
            else:
                images = [image for group in groups for image in _run_parts(family, model, group, engine)]
            encoded = recorder.onto(images)
        if len(encoded) != len(wanted):  # several images a row: they are not told apart
            return (
                (encoded, [False] * len(encoded)) if whole else encode(family, model, arguments, None, signals, engine)
            )
        for key, tokens in zip(missing, encoded, strict=True):
            found[key] = replace(tokens, key=key)
            if usable:
                cache.put(key, stamp, replace(tokens, key=key))
    return [image for key in keys if (image := found[key]) is not None], cached


def shared_encoder(model: Any, methods: Sequence[Method], cache: FeatureCache) -> Callable[[ModelInputs], None]:
    """What fills the cache of several attachments of one model in one pass over the pictures.

    Args:
        model: the model.
        methods: what the attachments choose by; they were made with ``cache_images=cache``.
        cache: theirs.

    Returns:
        A function that encodes the images of a call into the cache, with the signals of all methods, and forgets those of
        the call before. Call it without gradients: the cache holds none.
    """
    signals = frozenset[str]().union(*(method.signals for method in methods if not method.keeps_all))
    family = family_of(model)

    def fill(inputs: ModelInputs) -> None:
        cache.clear()
        for medium in given_media(family, model, inputs):
            encode(medium, model, medium.encoder_arguments(model, inputs), cache, signals)

    return fill


def _run(family: Family, model: Any, arguments: ModelInputs, engine: VisionEngine | None) -> list[ImageTokens]:
    return family.encode(model, arguments) if engine is None else engine.encode(family, model, arguments)


def _run_parts(
    family: Family, model: Any, group: Sequence[ModelInputs], engine: VisionEngine | None
) -> list[ImageTokens]:
    if engine is None:
        return family.encode_parts(model, group)
    return engine.encode(family, model, family.join(group))


def _with_signals(cached: ImageTokens | None, signals: frozenset[str]) -> ImageTokens | None:
    """What a cache holds, or None where it was encoded for a method that did not ask for ``signals``."""
    return None if cached is None or any(getattr(cached, name) is None for name in signals) else cached
