"""Any picture a user may have, as an upright RGB image, or one line that says why not. Pillow's global state stays as it is."""

from __future__ import annotations

import io
import math
import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from trimkit.errors import InputError
from trimkit.io.files import user_path
from trimkit.io.reading import check_regular

__all__ = ["MAX_ASPECT", "MAX_PIXELS", "decode_image", "load_image"]

MAX_PIXELS = 100_000_000
"""Default limit on width x height, read from the header before anything is decoded."""

_ENOUGH_PIXELS = 13_000_000
"""What no model reads more of: a picture of four times as many is read at half its size, one of nine times at a third, ..."""

_MAX_BYTES = 2**30
_BAND = 256  # rows that are converted at once

MAX_ASPECT = 200
"""Limit on the longer side over the shorter one: processors scale the shorter side up, and the longer one with it."""

# Pixel formats only: Pillow would start Ghostscript for an EPS, and stub formats need outside handlers.
# No ICO: Pillow decodes the picture within before its size is known.
_FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "MPO", "AVIF", "JPEG2000", "TGA", "DIB", "PCX")

_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def load_image(source: str | os.PathLike[str] | Image.Image, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read a picture, turn it upright and make it RGB.

    EXIF orientation is applied; transparency is laid on white; palettes, CMYK and the like are converted; 16-bit greyscale
    is scaled to 8 bits, not clipped, and other deep greyscale by its own range; of an animation the first frame is taken. A
    picture of 52 million pixels or more is read at half its width and height (of 117 million, at a third), in bands, so that
    one at the limit takes hundreds of megabytes, not thousands.

    Args:
        source: a path, or a PIL image (left as it is).
        max_pixels: refuse more than that many, before decoding.

    Returns:
        A new RGB image of ``[height, width]`` pixels.

    Raises:
        InputError: no such file, not an image, damaged, too large, longer than ``MAX_ASPECT`` times its width, or of values
            that are no numbers.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what Pillow warns of (size, EXIF, palettes) is checked or converted here
        if isinstance(source, Image.Image):
            return _decode(source, "the picture", max_pixels)
        path = _existing(source)
        return _read(path, str(path), max_pixels)


def decode_image(data: bytes, name: str = "the picture", max_pixels: int = MAX_PIXELS) -> Image.Image:
    """``load_image`` of a file's content.

    Args:
        data: the whole file.
        name: what errors call it.
        max_pixels: as ``load_image`` takes it.

    Raises:
        InputError: as ``load_image`` does.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return _read(io.BytesIO(data), name, max_pixels)


def _read(source: Path | io.BytesIO, name: str, max_pixels: int) -> Image.Image:
    try:
        opened = Image.open(source, formats=_formats())
    except Image.DecompressionBombError:
        raise InputError(_too_large(name, "too large", max_pixels)) from None
    except PermissionError:
        raise InputError(f"{name} cannot be read: check the file's permissions") from None
    except Exception:  # a damaged header fails in as many ways as there are formats
        raise InputError(f"{name} is not an image, or damaged: give a PNG, JPEG, WebP, GIF or TIFF") from None
    with opened:
        return _decode(opened, name, max_pixels, opened=True)


def _existing(source: str | os.PathLike[str]) -> Path:
    text = os.fspath(source)
    if not text or "\0" in text:
        raise InputError(f"the image path {text!r} is not a path: give the path of a picture")
    path = user_path(text)
    try:
        if path.is_dir():
            raise InputError(f"{path} is a directory: give the path of one picture")
        if not path.exists():
            raise InputError(f"{path} does not exist: check the path")
        if not path.is_file():
            raise InputError(f"{path} is not a regular file: give the path of a picture")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty: copy or download the picture again")
        check_regular(path, _MAX_BYTES)
    except OSError as error:  # a name that is too long, a directory that may not be entered
        raise InputError(f"{text[:80]} cannot be read ({error.strerror}): check the path") from None
    return path


def _formats() -> list[str]:
    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _too_large(name: str, shown: str, max_pixels: int) -> str:
    return f"{name} is {shown}, over the limit of {max_pixels / 1e6:g} million pixels: downscale it first"


def _decode(image: Image.Image, name: str, max_pixels: int, *, opened: bool = False) -> Image.Image:
    """``opened``: nobody else has the picture, which may be changed."""
    width, height = image.size
    if width * height > max_pixels:
        raise InputError(_too_large(name, f"{width}x{height}", max_pixels))
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise InputError(f"{name} is {width}x{height}, longer than {MAX_ASPECT}:1: crop it first")
    factor = math.isqrt(width * height // _ENOUGH_PIXELS) or 1
    try:
        if factor > 1 and opened and isinstance(image, ImageFile.ImageFile):
            image.draft(image.mode, (width // factor, height // factor))  # JPEG: decoded at that size
            factor = max(factor * min(image.size) // min(width, height), 1)
        image.load()
        return _upright(_to_rgb(image, factor), image)
    except InputError as error:
        raise InputError(f"{name} {error}") from None
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, zlib.error, IndexError, ...
        cause = "" if not str(error) else f" ({' '.join(str(error).split())[:80]})"
        raise InputError(f"{name} is damaged or cut short{cause}: copy, download or save it again") from None


def _to_rgb(image: Image.Image, factor: int) -> Image.Image:
    """A new RGB image, of a ``factor``-th of the width and height."""
    convert = _from_deep_grey(image) if image.mode.startswith("I") or image.mode == "F" else _from_any
    if factor == 1 and image.width * image.height <= _ENOUGH_PIXELS:
        return convert(image)
    out = Image.new("RGB", (-(-image.width // factor), -(-image.height // factor)))
    for top, band in _bands(image, _BAND * factor):
        out.paste(convert(band).reduce(factor) if factor > 1 else convert(band), (0, top // factor))
    return out


def _bands(image: Image.Image, rows: int) -> Iterator[tuple[int, Image.Image]]:
    """The picture from top to bottom, so many rows at a time, each with the row that it starts at."""
    for top in range(0, image.height, rows):
        yield top, image.crop((0, top, image.width, min(top + rows, image.height)))


def _from_any(image: Image.Image) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return image.convert("RGB")


def _from_deep_grey(image: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """16-bit values over their full range; 32-bit ones and floats over what they span.

    Raises:
        InputError: a value is infinite or no number, and what it was to look like is anybody's guess.
    """
    low, high = math.inf, -math.inf
    for _, band in _bands(image, _BAND):
        values = np.asarray(band)
        if not np.isfinite(values).all():
            raise InputError("holds values that are infinite or not numbers: save it with finite values")
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    if image.mode != "F" and low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    elif image.mode == "F" and low >= 0 and high <= 1:
        low, high = 0.0, 1.0

    def convert(band: Image.Image) -> Image.Image:
        scaled = (np.asarray(band, dtype=np.float64) - low) / max(high - low, 1e-12) * 255
        return Image.fromarray(scaled.round().astype(np.uint8)).convert("RGB")

    return convert


def _upright(rgb: Image.Image, source: Image.Image) -> Image.Image:
    """``rgb`` turned as the EXIF data of ``source`` say; broken EXIF data say nothing."""
    try:
        turn = _TURNS.get(source.getexif().get(_ORIENTATION, 1))
    except Exception:  # the tags are optional and nothing else is read from them
        turn = None
    upright = (rgb.copy() if rgb is source else rgb) if turn is None else rgb.transpose(turn)
    upright.info = {}
    return upright
