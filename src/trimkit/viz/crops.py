"""What a model saw of a picture: its processor is given a picture of coordinates, and they say what is left of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from trimkit.core.geometry import View
from trimkit.viz.lettering import Font, wrap

__all__ = ["MAX_PIXELS", "Box", "coordinates", "draw_given", "seen_box"]

Box = tuple[float, float, float, float]
"""Left, top, right and bottom as shares of the picture's width and height, 0 to 1."""

MAX_PIXELS = 30_000_000
"""Larger pictures are not looked into: the picture of coordinates would be as large."""

_INSIDE = 230  # blue of the picture of coordinates is 255; what a processor pads with is darker
_SMALL = 4
_STRIP = 170
_ACCENT, _SOFT, _PAPER = (196, 78, 24), (104, 108, 118), (250, 250, 248)


def coordinates(width: int, height: int) -> Image.Image:
    """A picture whose red is the place from left to right and whose green is that from top to bottom, 0 to 255."""
    pixels = np.full((height, width, 3), 255, dtype=np.uint8)
    pixels[..., 0] = ((np.arange(width) + 0.5) * (255 / width)).round().astype(np.uint8)
    pixels[..., 1] = ((np.arange(height) + 0.5) * (255 / height)).round().astype(np.uint8)[:, None]
    return Image.fromarray(pixels)


def seen_box(views: Sequence[View], size: tuple[int, int]) -> Box | None:
    """The part of a picture that its views show, all of them together.

    Args:
        views: of ``coordinates(*size)``, RGB in 0 to 1.
        size: width and height of the picture; below 4 pixels all of it counts as seen.

    Returns:
        The box around all that is shown; None without a view.
    """
    boxes = [_box_of(np.asarray(view.pixels.permute(1, 2, 0).numpy() * 255.0)) for view in views]
    found = [box for box in boxes if box is not None]
    if not found:
        return None
    lows = [min(box[i] for box in found) for i in (0, 1)]
    highs = [max(box[i] for box in found) for i in (2, 3)]
    for axis in (0, 1):
        if size[axis] < _SMALL:
            lows[axis], highs[axis] = 0.0, 1.0
    return lows[0], lows[1], highs[0], highs[1]


def draw_given(picture: Image.Image, box: Box, width: int) -> Image.Image:
    """The whole picture at a small size, what the model did not see in the dark, with a line of explanation below."""
    scale = min(width / picture.width, _STRIP / picture.height)
    small = picture.convert("RGB").resize(
        (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.LANCZOS
    )
    x0, x1 = (round(box[i] * small.width) for i in (0, 2))
    y0, y1 = (round(box[i] * small.height) for i in (1, 3))
    dark = Image.fromarray((np.asarray(small.convert("L").convert("RGB")) * 0.45).astype(np.uint8))
    dark.paste(small.crop((x0, y0, x1, y1)), (x0, y0))
    ImageDraw.Draw(dark).rectangle((x0, y0, max(x1 - 1, x0), max(y1 - 1, y0)), outline=_ACCENT, width=2)
    share = (box[2] - box[0]) * (box[3] - box[1])
    size = f"{picture.width} x {picture.height}"
    told = f"the picture as given, {size}: the model saw the outlined {share:.0%}; the rest is cropped away"
    lines = wrap(told, Font(14), width, 2)
    strip = Image.new("RGB", (width, small.height + 6 + 22 * len(lines)), _PAPER)
    strip.paste(dark, (0, 0))
    for number, line in enumerate(lines):
        Font(14).draw(strip, (0, small.height + 6 + 22 * number), line, _SOFT)
    return strip


def _box_of(pixels: np.ndarray) -> Box | None:
    """From one view ``[H, W, 3]`` in 0 to 255: straight lines through the coordinates, read at the edges of what is inside."""
    inside = pixels[..., 2] > _INSIDE
    if not inside.any():
        return None
    columns, rows = np.flatnonzero(inside.any(axis=0)), np.flatnonzero(inside.any(axis=1))
    weights = inside.astype(float)
    x = (pixels[..., 0] * weights).sum(axis=0)[columns] / weights.sum(axis=0)[columns] / 255
    y = (pixels[..., 1] * weights).sum(axis=1)[rows] / weights.sum(axis=1)[rows] / 255
    (left, right), (top, bottom) = _ends(columns, x), _ends(rows, y)
    return left, top, right, bottom


def _ends(places: np.ndarray, values: np.ndarray) -> tuple[float, float]:
    """The line through ``values`` at the outer edges of the first and the last place, within 0 to 1."""
    if len(places) < 3:
        return float(values.min()), float(values.max())
    middle = slice(1, -1)  # at the ends, resizing repeats the last pixel
    slope, start = np.polyfit(places[middle], values[middle], 1) if len(places) > 4 else np.polyfit(places, values, 1)
    ends = [start + slope * (place + shift) for place, shift in ((places[0], -0.5), (places[-1], 0.5))]
    return float(np.clip(ends[0], 0, 1)), float(np.clip(ends[1], 0, 1))
