"""Builds the sprite atlas from the Noto Color Emoji font (Debian's fonts-noto-color-emoji), so that rendering needs no font.

The digits of pages stand in a strip of their own, which needs no such font: ``python -m recipes.demo.build_assets --digits``.
"""

from __future__ import annotations

import argparse
import json
import string
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from trimkit.demo.world import OBJECTS

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
STRIKE = 109  # the font's only bitmap size
CELL = 64
COLUMNS = 12
LETTER = 46


def _emoji(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    canvas = Image.new("RGBA", (180, 180), (0, 0, 0, 0))
    ImageDraw.Draw(canvas).text((20, 20), character, font=font, embedded_color=True)
    box = canvas.getbbox()
    if box is None:
        raise SystemExit(f"{FONT} has no picture for {character!r}; install fonts-noto-color-emoji")
    sprite = canvas.crop(box)
    side = max(sprite.size)
    square = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    square.paste(sprite, ((side - sprite.width) // 2, (side - sprite.height) // 2))
    return square.resize((CELL, CELL), Image.Resampling.LANCZOS)


def _letter(font: ImageFont.ImageFont | ImageFont.FreeTypeFont, character: str) -> Image.Image:
    mask = Image.new("L", (CELL, CELL), 0)
    draw = ImageDraw.Draw(mask)
    draw.text((CELL // 2, CELL // 2), character, font=font, fill=255, anchor="mm", stroke_width=1, stroke_fill=255)
    sprite = Image.new("RGBA", (CELL, CELL), (255, 255, 255, 0))
    sprite.putalpha(mask)
    return sprite


def build(target: Path) -> None:
    """Write atlas.png and atlas.json into `target`."""
    emoji_font = ImageFont.truetype(str(FONT), STRIKE)
    letter_font = ImageFont.load_default(LETTER)
    sprites = {name: _emoji(emoji_font, character) for name, (character, _) in OBJECTS.items()}
    sprites |= {f"letter:{c}": _letter(letter_font, c) for c in string.ascii_uppercase}
    rows = -(-len(sprites) // COLUMNS)
    atlas = Image.new("RGBA", (COLUMNS * CELL, rows * CELL), (0, 0, 0, 0))
    index: dict[str, int] = {}
    for i, (name, sprite) in enumerate(sprites.items()):
        atlas.paste(sprite, ((i % COLUMNS) * CELL, (i // COLUMNS) * CELL))
        index[name] = i
    target.mkdir(parents=True, exist_ok=True)
    atlas.save(target / "atlas.png", optimize=True)
    meta = {"cell": CELL, "columns": COLUMNS, "source": "Noto Color Emoji (Apache-2.0)", "index": index}
    (target / "atlas.json").write_text(json.dumps(meta, indent=1) + "\n", encoding="utf-8")


def build_digits(target: Path) -> None:
    """Write digits.png, the ink of 0 to 9 side by side, into `target`."""
    font = ImageFont.load_default(LETTER)
    strip = Image.new("L", (10 * CELL, CELL), 0)
    for place, digit in enumerate(string.digits):
        strip.paste(_letter(font, digit).getchannel("A"), (place * CELL, 0))
    strip.save(target / "digits.png", optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--digits", action="store_true", help="only the digits")
    args = parser.parse_args()
    target = Path(__file__).parents[2] / "src/trimkit/demo/assets"
    if not args.digits:
        build(target)
    build_digits(target)


if __name__ == "__main__":
    main()
