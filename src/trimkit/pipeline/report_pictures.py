"""The pixels behind a report, for drawing it: what the encoder was given of every image, and which token saw which part.

Everything here happens when a report is drawn. A call only leaves references to its pixels.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trimkit.core.geometry import View
from trimkit.core.types import ImageReport, ImageTokens, Report
from trimkit.errors import TrimkitError
from trimkit.models import Family, ModelInputs, family_of
from trimkit.pipeline.media import EncodedMedia, in_prompt_order, split_frames

__all__ = ["ReportPictures", "rgb_views"]

Views = tuple[View, ...]


class ReportPictures:
    """Draws the report of one call; see ``trimkit.core.report.ReportRenderer``.

    Args:
        model: held weakly.
        processor: says how pixels were normalised; without one the drawing is scaled to what they span.
        media: what was encoded. Pixels are held by reference, features are not.
        by_frame: whether each frame of a video is reported apart.
    """

    def __init__(self, model: Any, processor: Any, media: Sequence[EncodedMedia], *, by_frame: bool) -> None:
        self._model = weakref.ref(model)
        self._processor = processor
        self._media = [replace(each, images=[_without_features(image) for image in each.images]) for each in media]
        self._by_frame = by_frame

    def views(self) -> list[Views]:
        """RGB views of every image of the report, in its order; empty for one that is not known where its tokens look."""
        model = self._model()
        media = [self._with_views(model, each) for each in self._media]
        if self._by_frame:
            media = [split_frames(each) for each in media]
        return [item.image.views for item in in_prompt_order(media)]

    def draw(self, report: Report, **options: Any) -> Any:
        """See ``trimkit.viz.draw_report``."""
        from trimkit import viz

        return viz.draw_report(report, self.views(), **options)

    def save(self, picture: Any, path: str | Path) -> Path:
        """See ``trimkit.viz.save_picture``."""
        from trimkit import viz

        return viz.save_picture(picture, path)

    def html(self, report: Report) -> str:
        """See ``trimkit.viz.report_html``."""
        from trimkit import viz

        return viz.report_html(report, self.views())

    def _with_views(self, model: Any, media: EncodedMedia) -> EncodedMedia:
        found = _encoder_views(model, media.family, media.arguments, media.images)
        statistics = getattr(self._processor, "image_processor", self._processor)
        if media.family.medium == "video":
            statistics = getattr(self._processor, "video_processor", statistics)
        images = [
            replace(image, views=tuple(_as_rgb(view, statistics) for view in views))
            for image, views in zip(media.images, found, strict=True)
        ]
        return replace(media, images=images)


def rgb_views(model: Any, processor: Any, inputs: ModelInputs, images: Sequence[ImageReport]) -> list[Views]:
    """RGB views of the pictures in ``inputs``, whose tokens are as many and lie as those of ``images``.

    An empty tuple for a video, and where it is not known which token looks where.
    """
    nothing: list[Views] = [()] * len(images)
    if any(image.medium != "image" for image in images):
        return nothing
    family = family_of(model)
    tokens = [
        ImageTokens(features=torch.empty(image.tokens_before, 0), grid=image.grid, frames=image.frames)
        for image in images
    ]
    found = _encoder_views(model, family, family.encoder_arguments(model, inputs), tokens)
    statistics = getattr(processor, "image_processor", processor)
    return [tuple(_as_rgb(view, statistics) for view in views) for views in found]


def _encoder_views(model: Any, family: Family, arguments: ModelInputs, images: Sequence[ImageTokens]) -> list[Views]:
    """What the encoder was given of every image, as its pixels are; empty where that is not known or the model is gone."""
    if model is not None and images:
        with contextlib.suppress(
            TrimkitError, RuntimeError, ValueError, IndexError, KeyError, AttributeError, TypeError
        ):
            parts = family.split(model, arguments)
            if len(parts) == len(images):
                return [family.views(model, part, image) for part, image in zip(parts, images, strict=True)]
    return [()] * len(images)  # pictures of an earlier turn, or a geometry that nobody wrote down


def _without_features(image: ImageTokens) -> ImageTokens:
    empty = image.features.new_empty(len(image), 0)
    return ImageTokens(features=empty, grid=image.grid, key=image.key, frames=image.frames)


def _as_rgb(view: View, statistics: Any) -> View:
    """RGB in 0 to 1 on the CPU."""
    view = replace(view, pixels=view.pixels.detach().float().cpu())
    mean, std = (getattr(statistics, name, None) for name in ("image_mean", "image_std"))
    if mean is not None and std is not None and len(mean) == len(view.pixels):
        view = view.as_rgb(mean, std)
        return replace(view, pixels=view.pixels.clamp(0, 1))
    return replace(view, pixels=_spread(view.pixels))


def _spread(pixels: Tensor) -> Tensor:
    low, high = pixels.min(), pixels.max()
    return (pixels - low) / (high - low).clamp(min=1e-9)
