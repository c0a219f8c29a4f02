"""Pictures that users bring: any file, read safely and scaled down to what a page needs; and the packaged samples."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from trimkit.demo import Sample, sample_images
from trimkit.errors import InputError
from trimkit.images import load_image

__all__ = ["MOST_PIXELS", "Picture", "read_picture", "sample_picture", "samples"]

MOST_PIXELS = 4_000_000
"""Larger pictures are scaled down: no model of this page's kind reads more of one."""


@dataclass(frozen=True)
class Picture:
    """A picture in use.

    Attributes:
        image: RGB, at most ``MOST_PIXELS``.
        name: how texts call it.
        note: what its user has to know, or nothing.
        sample: name of the packaged sample that it is, or None.
        key: tells it from all others.
    """

    image: Image.Image
    name: str
    note: str = ""
    sample: str | None = None
    key: str = field(default_factory=lambda: uuid.uuid4().hex)


def read_picture(path: str | None) -> Picture:
    """An uploaded file.

    Raises:
        InputError: there is none, or it is no picture; the message names the file as the user knows it.
    """
    if not path:
        raise InputError("there is no picture: drop one, or choose a sample")
    name = Path(path).name
    try:
        image = load_image(path)
        width, height = _size(path)
    except InputError as error:
        raise InputError(str(error).replace(str(path), name)) from None
    return Picture(*_fitted(image, name, width * height, f"{width:,} × {height:,}"))


def samples() -> dict[str, Sample]:
    """The packaged pictures by name."""
    return sample_images()


def sample_picture(name: str) -> Picture:
    """A packaged picture.

    Raises:
        InputError: there is no such sample.
    """
    found = samples()
    if name not in found:
        raise InputError(f"there is no sample {name!r}: the packaged ones are {', '.join(found)}")
    return Picture(load_image(found[name].path), f"sample {name}", sample=name, key=f"sample:{name}")


def _size(path: str) -> tuple[int, int]:
    """As the file's header has it."""
    with Image.open(path) as opened:
        return opened.size


def _fitted(image: Image.Image, name: str, pixels: int, size: str) -> tuple[Image.Image, str, str]:
    if image.width * image.height > MOST_PIXELS:
        scale = (MOST_PIXELS / (image.width * image.height)) ** 0.5
        image = image.resize(
            (max(int(image.width * scale), 1), max(int(image.height * scale), 1)),
            Image.Resampling.BICUBIC,
            reducing_gap=2.0,
        )
    if pixels <= MOST_PIXELS:
        return image, name, ""
    note = f"{name} has {size} pixels ({pixels / 1e6:.0f} million). It was scaled down to {image.width:,} × {image.height:,}."
    return image, name, note
