"""A part of a picture as the encoder was given it, with the box that each token sees; and what is painted on it."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from trimkit.core.geometry import View
from trimkit.core.types import ImageReport

__all__ = ["HEAT", "Scene", "heat_span", "paint_kept", "paint_values", "scenes_of"]

# Dark violet to pale yellow, evenly rising in lightness, so that it also reads in gray.
HEAT = ((16, 10, 48), (78, 18, 108), (150, 40, 104), (216, 74, 62), (248, 142, 30), (252, 222, 130))

Values = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Scene:
    """What is drawn in one panel.

    Attributes:
        picture: RGB.
        tokens: ``[k]`` which of the image's tokens look at it.
        boxes: ``[k, 4]`` left, top, right and bottom that each sees, in pixels of ``picture``.
    """

    picture: Image.Image
    tokens: Labels
    boxes: Values

    def fitted(self, side: int) -> Scene:
        """With its longer side ``side`` pixels long."""
        scale = side / max(self.picture.size)
        size = (max(round(self.picture.width * scale), 160), max(round(self.picture.height * scale), 40))
        factors = np.array([size[0] / self.picture.width, size[1] / self.picture.height] * 2)
        return Scene(self.picture.resize(size, Image.Resampling.LANCZOS), self.tokens, self.boxes * factors)

    def labels(self) -> Labels:
        """``[height, width]``: the token that looks at each pixel, -1 where none does."""
        found = np.full((self.picture.height, self.picture.width), -1, dtype=np.int64)
        for token, (left, top, right, bottom) in zip(self.tokens, self.boxes.round().astype(int), strict=True):
            found[max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = token
        return found


def scenes_of(views: Sequence[View]) -> list[Scene]:
    """The views of one image (RGB in 0 to 1), as pictures."""
    found = []
    for view in views:
        pixels = (view.pixels.permute(1, 2, 0).numpy() * 255).round().clip(0, 255).astype(np.uint8)
        found.append(
            Scene(
                Image.fromarray(pixels),
                view.tokens.cpu().numpy().astype(np.int64),
                view.boxes.cpu().numpy().astype(float),
            )
        )
    return found


def paint_kept(scene: Scene, report: ImageReport) -> Image.Image:
    """Kept patches are clear; dropped ones gray and dark; of a method that merges, each token's patches have one tint."""
    labels = scene.labels()
    groups = _groups(report)
    owner = np.where(labels >= 0, groups[labels], -1)
    shown = np.asarray(scene.picture, dtype=np.float32)
    gray = np.asarray(scene.picture.convert("L").convert("RGB"), dtype=np.float32)
    out = np.where((owner >= 0)[..., None], shown, np.floor(gray * 0.34 + 12))
    for group in np.flatnonzero(np.bincount(groups[groups >= 0]) > 1) if report.groups is not None else ():
        place = owner == group
        out[place] = out[place] * 0.5 + np.array(_tint(int(group)), dtype=np.float32) * 0.5
    out[_borders(owner if report.groups is not None else owner >= 0)] = 255
    picture = Image.fromarray(out.astype(np.uint8))
    if report.groups is not None:
        _mark_places(picture, scene, report)
    return picture


def heat_span(values: Values) -> tuple[float, float]:
    """What the darkest and the palest color stand for: the 2nd and the 99.5th percentile of the finite values."""
    known = values[np.isfinite(values)]
    if not known.size:
        return 0.0, 0.0
    low, high = np.percentile(known, (2, 99.5))
    return float(low), float(high)


def paint_values(scene: Scene, values: Values) -> Image.Image:
    """``values`` ``[N]`` of the image's tokens as color, over the picture in faint gray."""
    low, high = heat_span(values)
    level = np.clip((np.where(np.isfinite(values), values, low) - low) / max(high - low, 1e-12), 0, 1)
    labels = scene.labels()
    flat = np.where(labels >= 0, level[labels], 0.0)
    smooth = Image.fromarray((flat * 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(_softness(scene)))
    at = np.asarray(smooth, dtype=np.float32) / 255
    stops = np.linspace(0, 1, len(HEAT))
    color = np.stack([np.interp(at, stops, [c[i] for c in HEAT]) for i in range(3)], axis=-1)
    gray = np.asarray(scene.picture.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((color * 0.72 + gray * 0.28).clip(0, 255).astype(np.uint8))


def _groups(report: ImageReport) -> Labels:
    """``[N]``: a number for what each token went into, -1 for none."""
    if report.groups is not None:
        return report.groups.cpu().numpy().astype(np.int64)
    kept = np.full(report.tokens_before, -1, dtype=np.int64)
    kept[report.indices.cpu().numpy()] = 0
    return kept


def _borders(owner: npt.NDArray[np.generic]) -> npt.NDArray[np.bool_]:
    """Pixels where another area begins, to the left or above."""
    found = np.zeros(owner.shape, dtype=bool)
    found[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    found[1:] |= owner[1:] != owner[:-1]
    return found


def _mark_places(picture: Image.Image, scene: Scene, report: ImageReport) -> None:
    """A dot where each token of a method that merges stands in the prompt."""
    draw = ImageDraw.Draw(picture)
    kept = set(report.indices.tolist())
    for token, (left, top, right, bottom) in zip(scene.tokens.tolist(), scene.boxes, strict=True):
        if token in kept:
            x, y = (left + right) / 2, (top + bottom) / 2
            radius = max(min(right - left, bottom - top) / 6, 2)
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill="white", outline="black")


def _tint(group: int) -> tuple[float, float, float]:
    """A hue far from those of the numbers before it."""
    red, green, blue = colorsys.hsv_to_rgb(group * 0.618034 % 1, 0.85, 1.0)
    return red * 255, green * 255, blue * 255


def _softness(scene: Scene) -> float:
    if not len(scene.boxes):
        return 0.0
    return float(np.median(scene.boxes[:, 2] - scene.boxes[:, 0])) / 3
