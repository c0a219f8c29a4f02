"""Lines, dots and words on an SVG or a PNG, so that a chart is laid out once for both."""

from __future__ import annotations

import io
from typing import Protocol
from xml.sax.saxutils import escape

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Canvas", "PngCanvas", "SvgCanvas"]

_PAPER = "#fafaf8"


class Canvas(Protocol):
    """Coordinates are pixels from the upper left corner; ``anchor`` is ``start``, ``middle`` or ``end``."""

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None: ...

    def dot(self, x: float, y: float, radius: float, colour: str) -> None: ...

    def text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "start") -> None: ...

    def encoded(self) -> bytes:
        """The file's content."""


class SvgCanvas:
    """Text, which scales; any browser shows it."""

    def __init__(self, width: int, height: int) -> None:
        self._parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
            'font-family="sans-serif">',
            f'<rect width="{width}" height="{height}" fill="{_PAPER}"/>',
        ]

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        self._parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"/>')

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        self._parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{colour}"/>')

    def text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "start") -> None:
        place = f'x="{x:.1f}" y="{y + size * 0.35:.1f}"'
        self._parts.append(
            f'<text {place} font-size="{size}" fill="{colour}" text-anchor="{anchor}">{escape(words)}</text>'
        )

    def encoded(self) -> bytes:
        return ("\n".join([*self._parts, "</svg>"]) + "\n").encode()


class PngCanvas:
    """Pixels, twice as many as asked for, so that it stays sharp on a dense screen."""

    _SCALE = 2

    def __init__(self, width: int, height: int) -> None:
        self._image = Image.new("RGB", (width * self._SCALE, height * self._SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self._image)

    def line(self, points: list[tuple[float, float]], colour: str, width: float = 1.0) -> None:
        scaled = [(x * self._SCALE, y * self._SCALE) for x, y in points]
        self._draw.line(scaled, fill=colour, width=max(round(width * self._SCALE), 1), joint="curve")

    def dot(self, x: float, y: float, radius: float, colour: str) -> None:
        x, y, radius = (value * self._SCALE for value in (x, y, radius))
        self._draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour)

    def text(self, x: float, y: float, words: str, size: int, colour: str, anchor: str = "start") -> None:
        font = ImageFont.load_default(size * self._SCALE)
        side = {"start": "lm", "middle": "mm", "end": "rm"}[anchor]
        self._draw.text((x * self._SCALE, y * self._SCALE), words, font=font, fill=colour, anchor=side)

    def encoded(self) -> bytes:
        held = io.BytesIO()
        self._image.save(held, format="PNG")
        return held.getvalue()
