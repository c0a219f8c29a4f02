"""Images and videos of one call: both are encoded alike, ranked in the order of the prompt, and handed back apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from trimkit.cache import FeatureCache, content_key, encoder_stamp
from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.models import Family, ModelInputs
from trimkit.models._base import AT_ONCE
from trimkit.models._signals import listening
from trimkit.shrink import image_rows
from trimkit.types import ImageReport, ImageTokens, Selection

__all__ = [
    "Item",
    "Seen",
    "all_places",
    "encode",
    "encoder_inputs",
    "frames_of",
    "given_media",
    "handed_over",
    "in_order",
    "question_ids",
    "refuse_video",
    "report_of",
    "with_views",
]


@dataclass(frozen=True)
class Seen:
    """The images, or the videos, of one call.

    Attributes:
        family: what serves this medium.
        arguments: of its encoder.
        images: their tokens, in order.
        cached: which of them came from the cache.
        places: ``[B, L]`` bool, their placeholders.
    """

    family: Family
    arguments: ModelInputs
    images: list[ImageTokens]
    cached: list[bool]
    places: Tensor


@dataclass(frozen=True)
class Item:
    """One image, video or frame where it stands: its batch row, and its first and last column."""

    family: Family
    image: ImageTokens
    cached: bool
    row: int
    first: int
    last: int


def encode(
    family: Family,
    model: Any,
    arguments: ModelInputs,
    cache: FeatureCache | None,
    signals: frozenset[str] = frozenset(),
) -> tuple[list[ImageTokens], list[bool]]:
    """Tokens of every image or video, with what ``signals`` asks for, and which came from ``cache``.

    Without a cache all are encoded in one pass as the stock model does: another batch size may differ in the last bit.
    """
    layer = family.signal_layer(model, arguments) if signals else None
    if cache is None:
        with listening(layer, signals) as heard:
            images = heard.onto(family.encode(model, arguments))
        return images, [False] * len(images)
    parts = family.split(model, arguments)
    keys = [content_key(part) for part in parts]
    # With gradients on, features must carry theirs: nothing is taken from the cache.
    usable = not (model.training or torch.is_grad_enabled())
    stamp = encoder_stamp(family.encoder_modules(model)) if usable else 0
    found = {key: _with_signals(cache.get(key, stamp), signals) for key in keys} if usable else {}
    missing = {key: part for key, part in zip(keys, parts, strict=True) if found.get(key) is None}
    cached = [key not in missing for key in keys]
    if missing:
        wanted = list(missing.values())
        whole = len(missing) == len(parts) and (len(parts) <= AT_ONCE or not usable)
        groups = [wanted[i : i + AT_ONCE] for i in range(0, len(wanted), AT_ONCE)] if usable else [wanted]
        with listening(layer, signals) as heard:
            if whole:
                images = family.encode(model, arguments)
            else:
                images = [image for group in groups for image in family.encode_parts(model, group)]
            encoded = heard.onto(images)
        for key, tokens in zip(missing, encoded, strict=True):
            found[key] = replace(tokens, key=key)
            if usable:
                cache.put(key, stamp, replace(tokens, key=key))
    return [held for key in keys if (held := found[key]) is not None], cached


def given_media(family: Family, model: Any, inputs: ModelInputs) -> list[Family]:
    """The family for images, and its videos', as far as there are pixels to encode."""
    media = [family] if family.videos is None else [family, family.videos]
    pixels = [(medium, inputs.get(medium.pixels(model))) for medium in media]
    return [medium for medium, values in pixels if values is not None and len(values) > 0]


def refuse_video(family: Family, model: Any, inputs: ModelInputs) -> None:
    """A video that would run at full length while images are reduced.

    Raises:
        UnsupportedError: the family's videos are not covered and the call brings one.
    """
    if family.videos is None and inputs.get("pixel_values_videos") is not None:
        raise UnsupportedError(
            f"videos of {type(model).__name__} are not reduced: pass frames as images, or detach for this call"
        )


def frames_of(seen: Seen) -> Seen:
    """Every frame of the videos as an image of its own."""
    images, cached = [], []
    for image, hit in zip(seen.images, seen.cached, strict=True):
        parts = _frames(image) if image.frames else [image]
        images += parts
        cached += [hit] * len(parts)
    return replace(seen, images=images, cached=cached)


def in_order(seen: Sequence[Seen]) -> list[Item]:
    """All images and videos in the order of the prompts.

    Raises:
        InputError: placeholders and tokens do not add up, or an image stands among the frames of a video.
    """
    items = [item for each in seen for item in _placed(each)]
    items.sort(key=lambda item: (item.row, item.first))
    for one, other in itertools.pairwise(items):
        if one.row == other.row and other.first <= one.last:
            raise InputError("an image stands among the frames of a video: put it before or behind them")
    return items


def all_places(seen: Sequence[Seen]) -> Tensor:
    """``[B, L]`` int64, 1 where a placeholder stands that is ranked, of an image or a video."""
    places = seen[0].places
    for each in seen[1:]:
        places = places | each.places
    return places.long()


def question_ids(ids: Tensor, seen: Sequence[Seen], image_token_id: int) -> Tensor:
    """``[B, L]`` ids in which videos, and all between their frames, have the placeholder of images."""
    videos = [item for each in seen if each.family.medium == "video" for item in _placed(each)]
    ids = ids.clone() if videos else ids
    for video in videos:
        ids[video.row, video.first : video.last + 1] = image_token_id
    return ids


def handed_over(model: Any, items: Sequence[Item], kept: Sequence[ImageTokens]) -> dict[str, Any]:
    """``mm_encoder_outputs`` of what is kept of every item."""
    groups: dict[str, dict[Family, list[int]]] = {}
    for i, item in enumerate(items):
        groups.setdefault(item.family.handed_as(), {}).setdefault(item.family, []).append(i)
    out = {}
    for name, families in groups.items():
        projected: dict[int, Tensor] = {}
        for family, places in families.items():
            features = family.project(model, [kept[i].features for i in places])
            projected.update(zip(places, features, strict=True))
        order = sorted(projected)
        layers = list(zip(*(kept[i].layers for i in order), strict=True))
        out[name] = next(iter(families)).encoder_output([projected[i] for i in order], layers)
    return out


def with_views(model: Any, processor: Any, seen: Seen) -> Seen:
    """The images with what the encoder saw of them, as RGB in 0 to 1.

    Raises:
        ConfigError: the processor is missing or does not say how pixels were normalised.
    """
    statistics = getattr(processor, "image_processor", processor)
    if seen.family.medium == "video":
        statistics = getattr(processor, "video_processor", statistics)
    mean, std = (getattr(statistics, name, None) for name in ("image_mean", "image_std"))
    if mean is None or std is None:
        raise ConfigError("an external scorer must know how pixels were normalised: pass the model's processor")
    parts = seen.family.split(model, seen.arguments)
    images = [
        replace(image, views=tuple(view.as_rgb(mean, std) for view in seen.family.views(model, part, image)))
        for part, image in zip(parts, seen.images, strict=True)
    ]
    return replace(seen, images=images)


def encoder_inputs(model: Any, seen: Sequence[Seen], *, pixels_only: bool) -> set[str]:
    """Names of the inputs that the language model does not need: the encoders' arguments, or their pixels alone."""
    if pixels_only:
        return {each.family.pixels(model) for each in seen}
    return {name for each in seen for name in each.arguments}


def report_of(item: Item, asked: Sequence[str | None], chosen: Selection) -> ImageReport:
    """Before and after of one item."""
    return ImageReport(
        row=item.row,
        query=asked[-1],
        tokens_before=chosen.total,
        tokens_after=len(chosen),
        indices=chosen.indices,
        aggregated=chosen.aggregated,
        grid=item.image.grid,
        scores=chosen.scores,
        relevance=chosen.relevance,
        cached=item.cached,
        medium=item.family.medium,
        frames=item.image.frames,
    )


def _with_signals(held: ImageTokens | None, signals: frozenset[str]) -> ImageTokens | None:
    """What a cache holds, or None where it was encoded for a method that did not ask for ``signals``."""
    return None if held is None or any(getattr(held, name) is None for name in signals) else held


def _placed(seen: Seen) -> list[Item]:
    lengths = [len(image) for image in seen.images]
    rows = image_rows(seen.places.long(), 1, lengths, seen.family.medium)
    left = {row: seen.places[row].nonzero().squeeze(1).tolist() for row in set(rows)}
    items = []
    for image, cached, row in zip(seen.images, seen.cached, rows, strict=True):
        columns, left[row] = left[row][: len(image)], left[row][len(image) :]
        first, last = (columns[0], columns[-1]) if columns else (-1, -2)
        items.append(Item(seen.family, image, cached, row, first, last))
    return items


def _frames(video: ImageTokens) -> list[ImageTokens]:
    frames, start = [], 0
    for number, length in enumerate(video.frames):
        part = slice(start, start + length)
        views = tuple(
            replace(view, tokens=view.tokens - start)
            for view in video.views
            if len(view.tokens) and start <= int(view.tokens[0]) < start + length
        )
        layers = tuple(layer[part] for layer in video.layers)
        frames.append(
            ImageTokens(
                video.features[part],
                key=f"{video.key}#{number}" if video.key else "",
                layers=layers,
                views=views,
                frames=(length,),
                cls_attention=None if video.cls_attention is None else video.cls_attention[part],
                keys=None if video.keys is None else video.keys[part],
            )
        )
        start += length
    return frames
