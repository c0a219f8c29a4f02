"""Pictures through the vision tower, with the cache of features in front of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from trimkit.core.signals import OF_TOWER, parse_signal
from trimkit.core.types import ImageTokens
from trimkit.methods import Method
from trimkit.models import AT_ONCE, Family, ModelInputs, family_of, record_signals
from trimkit.pipeline.feature_cache import FeatureCache, content_key, encoder_stamp
from trimkit.pipeline.host_inputs import on_host
from trimkit.pipeline.media import given_media
from trimkit.pipeline.vision_engine import VisionEngine

__all__ = ["encode", "shared_encoder", "with_projected"]


def encode(
    family: Family,
    model: Any,
    arguments: ModelInputs,
    cache: FeatureCache | None,
    signals: frozenset[str] = frozenset(),
    host: ModelInputs | None = None,
    engine: VisionEngine | None = None,
) -> tuple[list[ImageTokens], list[bool]]:
    """Tokens of every image or video, with what ``signals`` asks for, and which came from ``cache``.

    ``host`` may hold ``arguments`` that are on the host already, so that it need not wait for them to hash the pictures. An
    ``engine`` runs the tower in torch's place; what it has given is held apart from what torch has given.

    Without a cache all are encoded in one pass as the stock model does: another batch size may differ in the last bit.
    """
    source = family.signal_source(model, arguments) if signals else None
    if cache is None or not family.separable(model, arguments):
        with record_signals(source, signals) as recorder:
            images = recorder.onto(_run(family, model, arguments, engine))
        return with_projected(family, model, images, signals), [False] * len(images)
    host = on_host({}, model, [(family, arguments)]) if host is None else host
    known = {name: host.get(name, value) for name, value in arguments.items()}
    digests = [name for name, value in known.items() if _dtype(value) != _dtype(arguments[name])]
    keys = [content_key(part, digests) for part in family.split(model, known)]
    # With gradients on, features must carry theirs: nothing is taken from the cache.
    usable = not (model.training or torch.is_grad_enabled())
    stamp = encoder_stamp(family.encoder_modules(model)) if usable and cache.limit else 0
    stamp = stamp if engine is None else hash((stamp, engine.name))
    found = {key: _with_signals(cache.get(key, stamp), signals) for key in keys} if usable else {}
    missing = {key: number for number, key in enumerate(keys) if found.get(key) is None}
    cached = [key not in missing for key in keys]
    if missing:
        whole = len(missing) == len(keys) and (len(keys) <= AT_ONCE or not usable)
        parts = [] if whole else family.split(model, arguments)
        wanted = [] if whole else [parts[number] for number in missing.values()]
        groups = [wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)] if usable else [wanted]
        with record_signals(source, signals) as recorder:
            if whole:
                images = _run(family, model, arguments, engine)
            else:
                images = [image for group in groups for image in _run_parts(family, model, group, engine)]
            encoded = recorder.onto(images)
        if len(encoded) != len(missing):  # several images a row: they are not told apart
            if not whole:
                return encode(family, model, arguments, None, signals, engine=engine)
            return with_projected(family, model, encoded, signals), [False] * len(encoded)
        found.update((key, replace(tokens, key=key)) for key, tokens in zip(missing, encoded, strict=True))
    held = {key: image for key, image in found.items() if image is not None}
    fresh = {key for key in held if key in missing or ("projected" in signals - set(held[key].signals))}
    done = dict(zip(held, with_projected(family, model, list(held.values()), signals), strict=True))
    for key in fresh if usable else ():
        cache.put(key, stamp, done[key])
    return [done[key] for key in keys], cached


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
    signals = frozenset[str]().union(*(method.asked_signals for method in methods))
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


def _dtype(value: Any) -> torch.dtype | None:
    return getattr(value, "dtype", None)


def _with_signals(cached: ImageTokens | None, signals: frozenset[str]) -> ImageTokens | None:
    """What a cache holds, or None where it was encoded for a method that did not ask for ``signals``."""
    held = cached is not None and all(cached.signal(name) is not None for name in _encoded(signals))
    return cached if held else None


def _encoded(signals: frozenset[str]) -> frozenset[str]:
    """Those that the tower gives while it runs; what is projected can be had of what is held."""
    return frozenset(name for name in signals if parse_signal(name).kind in OF_TOWER)


def with_projected(family: Family, model: Any, images: list[ImageTokens], signals: frozenset[str]) -> list[ImageTokens]:
    """The images with all of their tokens behind the projector, where that is asked for and not there yet."""
    missing = [i for i, image in enumerate(images) if "projected" in signals - set(image.signals)]
    if not missing:
        return images
    with torch.no_grad():
        tokens = dict(zip(missing, family.project(model, [images[i].features for i in missing]), strict=True))
    return [
        replace(image, signals={**image.signals, "projected": tokens[i]}) if i in tokens else image
        for i, image in enumerate(images)
    ]
