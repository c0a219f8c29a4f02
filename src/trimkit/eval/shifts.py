"""Pictures as another camera would give them: what the vision tower was not trained on. Pure functions of picture and seed.

    greyscale     brightness alone (ITU-R 601), in three equal channels
    thermal       brightness as a heat camera's false colours: dark violet to white, and no edge finer than two pixels
    overhead      the scene seen from farther off: at 62 % of its size, in the middle of a blurred copy of itself, so that
                  every object covers about two fifths of the patches that it did
    wide          the same in a picture of 336 x 208, made square by bands of CLIP's mean color above and below, as LLaVA-1.5's
                  processor does it: a third of the patches see nothing else
    low-contrast  a narrow band of grey values, as X-ray and ultrasound pictures have: a quarter of the contrast, little colour
    blur          a Gaussian of 2 pixels
    noise         normal noise with a deviation of 40 of 255, a value a pixel and channel

A shifted picture has the size of the given one, and is RGB. What a shift takes away is gone for every arm alike, the full model
included: a question about a colour cannot be answered in greyscale. Read such tables by question type.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter, ImageOps

from trimkit.errors import ConfigError

__all__ = ["SHIFTS", "apply_shift", "check_shift"]

_FAR = 0.62  # side of the overhead picture's scene
_NOISE = 40.0
_PADDED = (122, 116, 104)  # CLIP's mean pixel, which is 0 behind the processor
_HEAT = ((12, 8, 40), (110, 20, 120), (216, 60, 60), (252, 170, 40), (255, 255, 235))


def apply_shift(image: Image.Image, shift: str, seed: int = 0) -> Image.Image:
    """The picture under a shift.

    Args:
        image: any mode; RGB is what comes back.
        shift: a name of ``SHIFTS``.
        seed: of what is drawn at random (noise).

    Raises:
        ConfigError: an unknown shift.
    """
    check_shift(shift)
    return SHIFTS[shift](image.convert("RGB"), seed)


def check_shift(shift: str) -> None:
    """Refuse a name that is no shift.

    Raises:
        ConfigError: as it says.
    """
    if shift not in SHIFTS:
        raise ConfigError(f"shift {shift!r} is not known: choose one of {', '.join(SHIFTS)}")


def _none(image: Image.Image, seed: int) -> Image.Image:
    return image


def _greyscale(image: Image.Image, seed: int) -> Image.Image:
    return ImageOps.grayscale(image).convert("RGB")


def _thermal(image: Image.Image, seed: int) -> Image.Image:
    grey = np.asarray(ImageOps.grayscale(image).filter(ImageFilter.GaussianBlur(1.0)), dtype=np.float64)
    stops = np.linspace(0.0, 255.0, len(_HEAT))
    channels = [np.interp(grey, stops, [colour[i] for colour in _HEAT]) for i in range(3)]
    return Image.fromarray(np.stack(channels, axis=-1).round().astype(np.uint8))


def _overhead(image: Image.Image, seed: int) -> Image.Image:
    width, height = image.size
    small = image.resize((max(round(width * _FAR), 1), max(round(height * _FAR), 1)), Image.Resampling.LANCZOS)
    # What lies around has the scene's colours and shows no object.
    around = image.filter(ImageFilter.GaussianBlur(max(width, height) / 12))
    around.paste(small, ((width - small.width) // 2, (height - small.height) // 2))
    return around


def _wide(image: Image.Image, seed: int) -> Image.Image:
    width, height = image.size
    band = (height - round(height * _FAR)) // 2
    strip = _overhead(image, seed).crop((0, band, width, height - band))
    square = Image.new("RGB", image.size, _PADDED)
    square.paste(strip, (0, band))
    return square


def _low_contrast(image: Image.Image, seed: int) -> Image.Image:
    grey = ImageOps.grayscale(image).convert("RGB")
    pale = np.asarray(Image.blend(grey, image, 0.35), dtype=np.float64)
    return Image.fromarray((110.0 + 0.25 * (pale - 128.0)).round().clip(0, 255).astype(np.uint8))


def _blur(image: Image.Image, seed: int) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(2.0))


def _noise(image: Image.Image, seed: int) -> Image.Image:
    pixels = np.asarray(image, dtype=np.float64)
    drawn = np.random.default_rng([0x5417F7, seed]).normal(0.0, _NOISE, pixels.shape)
    return Image.fromarray((pixels + drawn).round().clip(0, 255).astype(np.uint8))


SHIFTS: dict[str, Callable[[Image.Image, int], Image.Image]] = {
    "none": _none,
    "greyscale": _greyscale,
    "thermal": _thermal,
    "overhead": _overhead,
    "wide": _wide,
    "low-contrast": _low_contrast,
    "blur": _blur,
    "noise": _noise,
}
"""Every shift by name: a picture and a seed to a picture."""
