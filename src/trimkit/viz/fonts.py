"""Fonts of this machine: one for every letter, whatever its script; found once, nothing is installed or fetched."""

from __future__ import annotations

import os
import sys
from functools import cache
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, features

__all__ = ["Face", "face_of", "plain_face", "shapes_text"]

# What is tried first, by the beginning of the file's name; then whatever else is there.
_PREFERRED = (
    *("DejaVuSans.", "NotoSans-Regular", "LiberationSans-Regular", "Arial.", "arial.", "Helvetica.", "segoeui."),
    *("NotoSansCJK", "SourceHanSans", "wqy-", "DroidSansFallback", "PingFang", "Hiragino", "msyh", "YuGoth", "malgun"),
    *("NotoSansArabic", "NotoNaskhArabic", "GeezaPro", "NotoSansHebrew", "NotoSansDevanagari", "NotoSansThai"),
    *("NotoColorEmoji", "Apple Color Emoji", "seguiemj", "NotoEmoji", "Symbola", "Arial Unicode"),
)
_LAST = ("Bold", "Italic", "Oblique", "Mono", "Serif", "Condensed", "Thin", "Black")
_STRIKES = (109, 136, 160, 128, 96, 64)  # colour fonts hold pictures of one size: pixels an em
_MOST_FILES = 4000
_NOBODYS = "\U0010ffff"  # a code point that no font draws: what it gives stands for all that is missing


class Face:
    """One font file; the face without a file is Pillow's own, which has Latin letters."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._sizes: dict[int, tuple[Any, float]] = {}

    def at(self, size: int) -> tuple[Any, float]:
        """Pillow's font, and what its drawings are to be scaled by: 1 but for colour fonts."""
        if size not in self._sizes:
            self._sizes[size] = self._open(size)
        return self._sizes[size]

    def draws(self, letter: str) -> bool:
        """Whether the font has a picture of ``letter``."""
        try:
            return _drawn(self, letter) != _drawn(self, _NOBODYS)
        except OSError:  # a damaged file, or one that is no font
            return False

    def _open(self, size: int) -> tuple[Any, float]:
        if self._path is None:
            return ImageFont.load_default(size), 1.0
        try:
            return ImageFont.truetype(str(self._path), size), 1.0
        except OSError:
            for strike in _STRIKES:
                try:
                    return ImageFont.truetype(str(self._path), strike), size / strike
                except OSError:
                    continue
            raise


@cache
def face_of(letter: str) -> Face | None:
    """The first face that draws ``letter``, None where no font here does."""
    return next((face for face in _faces() if face.draws(letter)), None)


def plain_face() -> Face:
    """Pillow's own: Latin letters, on every machine."""
    return _faces()[0]


@cache
def shapes_text() -> bool:
    """Whether Pillow joins and turns letters itself (libraqm)."""
    return bool(features.check("raqm"))


@cache
def _faces() -> tuple[Face, ...]:
    return (Face(None), *(Face(path) for path in _files()))


def _files() -> list[Path]:
    found: list[Path] = []
    for folder in _folders():
        for directory, _, names in os.walk(folder):
            found += [Path(directory, name) for name in names if name.lower().endswith((".ttf", ".otf", ".ttc"))]
            if len(found) > _MOST_FILES:
                break
    return sorted(dict.fromkeys(found[:_MOST_FILES]), key=_rank)


def _rank(path: Path) -> tuple[int, int, str]:
    first = next((place for place, name in enumerate(_PREFERRED) if path.name.startswith(name)), len(_PREFERRED))
    return first, sum(word in path.name for word in _LAST), path.name


def _folders() -> list[Path]:
    home = Path.home()
    if sys.platform == "darwin":
        return [home / "Library/Fonts", Path("/Library/Fonts"), Path("/System/Library/Fonts")]
    if sys.platform == "win32":
        local = Path(os.environ.get("LOCALAPPDATA", home)) / "Microsoft/Windows/Fonts"
        return [local, Path(os.environ.get("WINDIR", "C:/Windows")) / "Fonts"]
    own = Path(os.environ.get("XDG_DATA_HOME") or home / ".local/share") / "fonts"
    shared = (os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share").split(os.pathsep)
    return [own, home / ".fonts", *(Path(folder) / "fonts" for folder in shared)]


@cache
def _drawn(face: Face, letter: str) -> bytes:
    font, _ = face.at(32)
    sheet = Image.new("RGBA", (180, 180))
    ImageDraw.Draw(sheet).text((24, 24), letter, font=font, fill="black", embedded_color=True)
    return sheet.tobytes()
