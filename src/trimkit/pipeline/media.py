"""Images and videos of one call: both are encoded alike, ranked in the order of the prompt, and handed to the model apart."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from trimkit.core.prompt_columns import counts_by_row, rows_of_counts
from trimkit.core.signals import is_per_token
from trimkit.core.types import ImageTokens
from trimkit.errors import ConfigError, InputError, UnsupportedError
from trimkit.models import Family, ModelInputs

__all__ = [
    "EarlierMedia",
    "EncodedMedia",
    "ImageQueries",
    "MediaItem",
    "encoder_inputs",
    "given_media",
    "in_prompt_order",
    "placeholders_of",
    "question_ids",
    "refuse_video",
    "split_frames",
    "unplaced",
    "with_earlier",
    "with_views",
]

ImageQueries = tuple[str | None, ...]
"""All questions about one image so far, the last one last; ``(None,)`` where the method reads no text."""


@dataclass(frozen=True)
class EncodedMedia:
    """The images, or the videos, of one call.

    Attributes:
        family: what serves this medium.
        arguments: of its encoder.
        images: their tokens, in order.
        cached: which of them came from the cache.
        placeholders: ``[B, L]`` bool on the host, where they stand.
    """

    family: Family
    arguments: ModelInputs
    images: list[ImageTokens]
    cached: list[bool]
    placeholders: Tensor

    def without_arguments(self) -> EncodedMedia:
        """The same, which keeps no pixels alive."""
        return EncodedMedia(self.family, {}, self.images, self.cached, self.placeholders)


@dataclass(frozen=True)
class MediaItem:
    """One image, video or frame where it stands: its batch row, and its first and last column."""

    family: Family
    image: ImageTokens
    cached: bool
    row: int
    first: int
    last: int


@dataclass(frozen=True)
class EarlierMedia:
    """The images and videos of a batch of prompts, for a later turn of the conversation.

    Attributes:
        images: medium, batch row and tokens of each, in the order of the prompts.
        queries: batch row and questions so far of each that is ranked.
    """

    images: tuple[tuple[str, int, ImageTokens], ...] = ()
    queries: tuple[tuple[int, ImageQueries], ...] = ()

    @classmethod
    def of(
        cls, media: Sequence[EncodedMedia], items: Sequence[MediaItem], queries: Sequence[ImageQueries]
    ) -> EarlierMedia:
        """From what was encoded in a call, and what was ranked of it."""
        placed = [(item.family.medium, item.row, replace(item.image, views=())) for item in in_prompt_order(media)]
        return cls(tuple(placed), tuple((item.row, each) for item, each in zip(items, queries, strict=True)))

    def of_medium(self, medium: str) -> list[tuple[int, ImageTokens]]:
        """Rows and tokens of all images, or all videos."""
        return [(row, image) for kind, row, image in self.images if kind == medium]

    def queries_of(self, row: int) -> list[ImageQueries]:
        """What was asked of each that is ranked in batch row ``row``."""
        return [queries for at, queries in self.queries if at == row]


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


def split_frames(media: EncodedMedia) -> EncodedMedia:
    """Every frame of the videos as an image of its own."""
    images, cached = [], []
    for image, hit in zip(media.images, media.cached, strict=True):
        parts = _frames(image) if image.frames else [image]
        images += parts
        cached += [hit] * len(parts)
    return replace(media, images=images, cached=cached)


def in_prompt_order(media: Sequence[EncodedMedia]) -> list[MediaItem]:
    """All images and videos in the order of the prompts.

    Raises:
        InputError: placeholders and tokens do not add up, or an image stands among the frames of a video.
    """
    items = [item for each in media for item in _placed(each)]
    items.sort(key=lambda item: (item.row, item.first))
    for one, other in itertools.pairwise(items):
        if one.row == other.row and other.first <= one.last:
            raise InputError("an image stands among the frames of a video: put it before or behind them")
    return items


def unplaced(media: EncodedMedia, rows: Sequence[int]) -> list[MediaItem]:
    """Images without a prompt, each with the number of its picture in place of a batch row."""
    images = zip(media.images, media.cached, rows, strict=True)
    return [MediaItem(media.family, image, cached, row, -1, -1) for image, cached, row in images]


def placeholders_of(media: Sequence[EncodedMedia]) -> Tensor:
    """``[B, L]`` bool, true where a placeholder stands that is ranked, of an image or a video."""
    placeholders = media[0].placeholders
    for each in media[1:]:
        placeholders = placeholders | each.placeholders
    return placeholders


def question_ids(ids: Tensor, media: Sequence[EncodedMedia], image_token_id: int) -> Tensor:
    """``[B, L]`` ids in which videos, and all between their frames, have the placeholder of images."""
    videos = [item for each in media if each.family.medium == "video" for item in _placed(each)]
    ids = ids.clone() if videos else ids
    for video in videos:
        ids[video.row, video.first : video.last + 1] = image_token_id
    return ids


def with_views(model: Any, processor: Any, media: EncodedMedia) -> EncodedMedia:
    """The images with what the encoder saw of them, as RGB in 0 to 1.

    Raises:
        ConfigError: the processor is missing or does not say how pixels were normalised.
    """
    statistics = getattr(processor, "image_processor", processor)
    if media.family.medium == "video":
        statistics = getattr(processor, "video_processor", statistics)
    mean, std = (getattr(statistics, name, None) for name in ("image_mean", "image_std"))
    if mean is None or std is None:
        raise ConfigError("an external scorer must know how pixels were normalised: pass the model's processor")
    parts = media.family.split(model, media.arguments)
    images = [
        replace(image, views=tuple(view.as_rgb(mean, std) for view in media.family.views(model, part, image)))
        for part, image in zip(parts, media.images, strict=True)
    ]
    return replace(media, images=images)


def with_earlier(earlier: EarlierMedia, media: EncodedMedia) -> tuple[EncodedMedia, bool]:
    """All images (or videos) of a conversation, whether the caller passed every one again or the new ones alone.

    Args:
        earlier: those of the turns before.
        media: those given now, and where their placeholders stand in the whole conversation.

    Returns:
        All of them, in the order of their placeholders, and whether any was taken from earlier turns.
    """
    counts = media.placeholders.sum(dim=1).tolist()
    if sum(map(len, media.images)) == sum(counts):
        return media, False
    merged, new = [], list(zip(media.images, media.cached, strict=True))
    for row, count in enumerate(counts):
        mine = [(image, True) for at, image in earlier.of_medium(media.family.medium) if at == row]
        left = count - sum(len(image) for image, _ in mine)
        while left > 0 and new:
            mine.append(new.pop(0))
            left -= len(mine[-1][0])
        merged += mine
    merged += new
    images, cached = [image for image, _ in merged], [hit for _, hit in merged]
    return replace(media, images=images, cached=cached), True


def encoder_inputs(model: Any, media: Sequence[EncodedMedia], *, pixels_only: bool) -> set[str]:
    """Names of the inputs that the language model does not need: the encoders' arguments, or their pixels alone."""
    if pixels_only:
        return {each.family.pixels(model) for each in media}
    return {name for each in media for name in each.arguments}


def _placed(media: EncodedMedia) -> list[MediaItem]:
    lengths = [len(image) for image in media.images]
    places = media.placeholders.cpu().numpy()
    rows = rows_of_counts(counts_by_row(places), lengths, media.family.medium)
    left = {row: np.flatnonzero(places[row]) for row in set(rows)}
    items = []
    for image, cached, row in zip(media.images, media.cached, rows, strict=True):
        columns, left[row] = left[row][: len(image)], left[row][len(image) :]
        first, last = (int(columns[0]), int(columns[-1])) if len(columns) else (-1, -2)
        items.append(MediaItem(media.family, image, cached, row, first, last))
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
                signals={name: each[part] if is_per_token(name) else each for name, each in video.signals.items()},
            )
        )
        start += length
    return frames
