"""Turns a Page into a PIL picture, from the sprite atlas and the digits beside it: no font, no network."""

from __future__ import annotations

from functools import lru_cache

from PIL import Image, ImageDraw

from trimkit.demo.pages import Bar, Lettering, Page
from trimkit.demo.render import ASSETS, draw_object, sprites
from trimkit.demo.world import SIGN_STYLES

__all__ = ["digit_masks", "render_page"]

_LETTER = 1.45  # a sprite's side over the room of a letter, as on signs


@lru_cache(maxsize=1)
def digit_masks() -> dict[str, Image.Image]:
    """Where ink is in each digit, ``0`` to ``9``, as mode ``L``."""
    with Image.open(ASSETS / "digits.png") as opened:
        strip = opened.convert("L")
    side = strip.height
    return {str(digit): strip.crop((digit * side, 0, (digit + 1) * side, side)) for digit in range(10)}


def render_page(page: Page) -> Image.Image:
    """The page as an RGB picture of page.size x page.size pixels."""
    paper, ink = SIGN_STYLES[page.style]
    image = Image.new("RGB", (page.size, page.size), paper)
    draw = ImageDraw.Draw(image)
    for bar in page.bars:
        _draw_bar(draw, bar, ink)
    for thing in page.things:
        draw_object(image, thing)
    for text in page.texts:
        _draw_text(image, text, ink)
    return image


def _draw_bar(draw: ImageDraw.ImageDraw, bar: Bar, ink: tuple[int, int, int]) -> None:
    box = tuple(round(value) for value in bar.box)
    if bar.round:
        draw.ellipse(box, fill=bar.fill, outline=ink)
    else:
        draw.rectangle(box, fill=bar.fill, outline=ink)


def _draw_text(image: Image.Image, text: Lettering, ink: tuple[int, int, int]) -> None:
    side = round(text.pitch * _LETTER)
    for place, character in enumerate(text.text.upper()):
        mask = digit_masks()[character] if character.isdigit() else sprites()[f"letter:{character}"].getchannel("A")
        mask = mask.resize((side, side), Image.Resampling.BILINEAR)
        x = round(text.box[0] + text.pitch * (place + 0.5) - side / 2)
        y = round(text.y - side / 2)
        image.paste(ink, (x, y, x + side, y + side), mask)
