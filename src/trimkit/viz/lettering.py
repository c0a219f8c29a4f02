"""Text of any script on a picture: letter by letter from a font that has it; what no font has is written as its code point."""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from trimkit.viz.bidi import base_level, levels, visual_order
from trimkit.viz.fonts import Face, face_of, plain_face, shapes_text

__all__ = ["Font", "notes_on", "wrap"]

_JOINERS = ("\u200d", "\ufe0e", "\ufe0f", "\u20e3")
_MIRRORED = str.maketrans("()[]{}<>«»", ")(][}{><»«")


@dataclass(frozen=True)
class _Part:
    """Letters that one face draws in one direction."""

    text: str
    face: Face
    level: int


class Font:
    """Letters of one size, in pixels; with the methods of Pillow's fonts that measure."""

    def __init__(self, size: int) -> None:
        self.size = size

    def getlength(self, text: str) -> float:
        """Width of one line, pixels."""
        return sum(self._length(part) for part in _parts(text))

    def draw(
        self, sheet: Image.Image, at: tuple[float, float], text: str, fill: Any, width: float | None = None
    ) -> None:
        """Write one line; ``at`` is its upper left corner, and text from right to left ends at ``width``."""
        parts = _parts(text)
        x, y = at
        if width is not None and base_level(text):
            x += max(width - self.getlength(text), 0.0)
        for place in visual_order([part.level for part in parts]):
            self._draw(sheet, (x, y), parts[place], fill)
            x += self._length(parts[place])

    def _length(self, part: _Part) -> float:
        font, scale = part.face.at(self.size)
        return float(font.getlength(part.text, **_direction(part, font))) * scale

    def _draw(self, sheet: Image.Image, at: tuple[float, float], part: _Part, fill: Any) -> None:
        font, scale = part.face.at(self.size)
        options: dict[str, Any] = {"font": font, **_direction(part, font)}
        turned = part.level % 2 == 1 and "direction" not in options
        text = part.text[::-1].translate(_MIRRORED) if turned else part.text
        if scale == 1.0:
            # Baselines of all faces at one height.
            ImageDraw.Draw(sheet).text((at[0], at[1] + 0.93 * self.size), text, fill=fill, anchor="ls", **options)
            return
        box = [max(int(n) + 2, 1) for n in (font.getlength(text, **_direction(part, font)), font.size * 1.25)]
        drawn = Image.new("RGBA", (box[0], box[1]))
        ImageDraw.Draw(drawn).text((0, 0.98 * font.size), text, fill=fill, anchor="ls", embedded_color=True, **options)
        small = drawn.resize((max(round(box[0] * scale), 1), max(round(box[1] * scale), 1)), Image.Resampling.LANCZOS)
        sheet.paste(small, (round(at[0]), round(at[1])), small)


def wrap(text: str, font: Font, width: float, most: int) -> list[str]:
    """Lines that fit ``width`` pixels, at most ``most`` of them; what is cut off ends in an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
        cut = len(rest) if len(rest) <= 400 and font.getlength(rest) <= width else _cut(rest, font, width)
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        line = lines[-1]
        while line and font.getlength(line + " …") > width:
            line = line[:-1]
        lines[-1] = line.rstrip() + " …"
    return lines or [""]


def notes_on(text: str) -> list[str]:
    """What a reader of ``text`` as drawn must know: letters that no font has, letters that are not joined."""
    notes = []
    missing = dict.fromkeys(letter for letter in text if _invisible(letter) is None and face_of(letter) is None)
    if missing:
        notes.append(
            f"\\u... stands for {len(missing)} character{'' if len(missing) == 1 else 's'} that no font on this machine has: "
            "install one (fonts-noto-cjk, fonts-noto-core, fonts-noto-color-emoji)"
        )
    if not shapes_text() and any(unicodedata.bidirectional(letter) == "AL" for letter in text):
        notes.append("Arabic letters are not joined: this Pillow has no libraqm")
    return notes


def _cut(text: str, font: Font, width: float) -> int:
    """Characters of ``text`` that fit: up to a space where there is one."""
    fits = 1
    while fits < len(text) and font.getlength(text[: fits + 1]) <= width:
        fits += 1
    space = text.rfind(" ", 1, fits + 1)
    return space if space > 0 else fits


@lru_cache(maxsize=1024)
def _parts(text: str) -> list[_Part]:
    """Runs of one face and one level, in the order of reading."""
    base = base_level(text)
    found: list[_Part] = []
    pieces = zip(_clusters(text), _cluster_levels(text, base), strict=True)
    for (face, shown, known), level in pieces:
        level = level if known else level + level % 2  # a code point is written in Latin letters
        last = found[-1] if found else None
        if last is not None and last.face is face and last.level == level:
            found[-1] = _Part(last.text + shown, face, level)
        else:
            found.append(_Part(shown, face, level))
    return found


def _clusters(text: str) -> Iterator[tuple[Face, str, bool]]:
    """Every letter with the marks on it: the face that draws it, how it is written, and whether the face has it."""
    last = latin = plain_face()
    for cluster in _clustered(text):
        shown = "".join(letter for letter in cluster if _invisible(letter) != "")
        if shown.isspace():  # as wide as in the text around it; the pictures of a colour font are no text
            face: Face | None = last if last.at(32)[1] == 1.0 else latin
        else:
            face = face_of(cluster[0])
        known = face is not None
        if face is None:
            face, shown = latin, _escaped(cluster)
        last = face
        yield face, shown, known


def _cluster_levels(text: str, base: int) -> Iterator[int]:
    places = itertools.accumulate((len(cluster) for cluster in _clustered(text)), initial=0)
    found = levels(text, base)
    return (found[place] for place in places if place < len(found))


def _clustered(text: str) -> list[str]:
    found: list[str] = []
    for letter in text:
        joined = found and (_on_last(letter) or found[-1].endswith("\u200d") or _second_flag(found[-1], letter))
        if joined:
            found[-1] += letter
        else:
            found.append(letter)
    return found


def _on_last(letter: str) -> bool:
    return unicodedata.category(letter) in ("Mn", "Me", "Mc") or letter in _JOINERS or 0x1F3FB <= ord(letter) <= 0x1F3FF


def _second_flag(cluster: str, letter: str) -> bool:
    return len(cluster) == 1 and all(0x1F1E6 <= ord(each) <= 0x1F1FF for each in (cluster, letter))


def _invisible(letter: str) -> str | None:
    """The letter where it is drawn by the one before it, nothing where it is never drawn, None for a letter of its own."""
    if letter in ("\ufe0e", "\ufe0f") or (unicodedata.category(letter) == "Cf" and letter != "\u200d"):
        return ""
    return letter if _on_last(letter) or letter.isspace() else None


def _escaped(cluster: str) -> str:
    return "".join(f"\\u{ord(letter):04x}" for letter in cluster)


def _direction(part: _Part, font: Any) -> dict[str, str]:
    raqm = getattr(font, "layout_engine", None) == ImageFont.Layout.RAQM
    return {"direction": "rtl" if part.level % 2 else "ltr"} if raqm else {}
