"""Turns a Scene into a PIL picture, from the sprite atlas alone: no font, no network, the same scene gives the same pixels."""

from __future__ import annotations

import json
import math
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageEnhance

from trimkit.demo.world import COLOURS, SIGN_STYLES, Scene, SceneObject, Sign

ASSETS = Path(__file__).parent / "assets"
Pixels = npt.NDArray[np.float32]


@lru_cache(maxsize=1)
def sprites() -> dict[str, Image.Image]:
    """Every sprite of the atlas by name; letters are `letter:A` … `letter:Z`."""
    meta: dict[str, Any] = json.loads((ASSETS / "atlas.json").read_text(encoding="utf-8"))
    cell, columns = int(meta["cell"]), int(meta["columns"])
    with Image.open(ASSETS / "atlas.png") as opened:
        atlas = opened.convert("RGBA")
    found = {}
    for name, i in meta["index"].items():
        left, top = (i % columns) * cell, (i // columns) * cell
        found[name] = atlas.crop((left, top, left + cell, top + cell))
    return found


def render(scene: Scene) -> Image.Image:
    """The scene as an RGB picture of scene.size x scene.size pixels."""
    rng = np.random.default_rng(scene.background_seed)
    image = Image.fromarray(_background(scene.background, scene.size, rng))
    for item in scene.objects:
        draw_object(image, item)
    if scene.sign is not None:
        _draw_sign(image, scene.sign)
    return image


def draw_object(image: Image.Image, item: SceneObject) -> None:
    """Draw one thing, with its disc, onto a picture."""
    if item.disc is not None:
        # drawn four times as large and shrunk, for a smooth rim
        side = round(item.extent)
        mask = Image.new("L", (side * 4, side * 4), 0)
        ImageDraw.Draw(mask).ellipse((0, 0, side * 4 - 1, side * 4 - 1), fill=255)
        mask = mask.resize((side, side), Image.Resampling.BOX)
        corner = (round(item.x - item.extent / 2), round(item.y - item.extent / 2))
        image.paste(COLOURS[item.disc], (corner[0], corner[1], corner[0] + side, corner[1] + side), mask)
    side = round(item.extent * (0.72 if item.disc is not None else 1.0))
    sprite = sprites()[item.name]
    if item.flip:
        sprite = sprite.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    sprite = sprite.rotate(item.angle, resample=Image.Resampling.BILINEAR)
    sprite = sprite.resize((side, side), Image.Resampling.BOX if side < 40 else Image.Resampling.BILINEAR)
    alpha = sprite.getchannel("A")
    bright = ImageEnhance.Brightness(sprite.convert("RGB")).enhance(item.brightness)
    image.paste(bright, (round(item.x - side / 2), round(item.y - side / 2)), alpha)


def _draw_sign(image: Image.Image, sign: Sign) -> None:
    plate, ink = SIGN_STYLES[sign.style]
    left, top, right, bottom = (round(v) for v in sign.box)
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle((left, top, right, bottom), radius=4, fill=plate, outline=ink, width=2)
    cell = (sign.width - 10) / len(sign.word)
    side = round(cell * 1.45)
    for i, character in enumerate(sign.word.upper()):
        mask = sprites()[f"letter:{character}"].getchannel("A").resize((side, side), Image.Resampling.BILINEAR)
        x = round(left + 5 + cell * (i + 0.5) - side / 2)
        y = round(sign.y - side / 2)
        image.paste(ink, (x, y, x + side, y + side), mask)


def _two_colours(rng: np.random.Generator) -> tuple[Pixels, Pixels]:
    """Two colours of similar brightness, so that backgrounds vary without hiding what stands on them."""
    base = rng.uniform(40, 225, size=3)
    other = np.clip(base + rng.uniform(-70, 70, size=3), 10, 245)
    return base.astype(np.float32), other.astype(np.float32)


def _background(kind: str, size: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    first, second = _two_colours(rng)
    mix = _mix(kind, size, rng)[..., None]
    pixels = first + (second - first) * mix
    if kind == "grain" or rng.random() < 0.3:
        noise = rng.standard_normal((size // 2, size // 2), dtype=np.float32) * float(rng.uniform(4, 14))
        pixels = pixels + noise.repeat(2, axis=0).repeat(2, axis=1)[..., None]
    out: npt.NDArray[np.uint8] = np.clip(pixels, 0, 255).astype(np.uint8)
    return out


def _mix(kind: str, size: int, rng: np.random.Generator) -> Pixels:
    """How much of the second colour each pixel has, 0 to 1."""
    ramp = np.arange(size, dtype=np.float32)
    angle = float(rng.uniform(0, 2 * math.pi))
    along = ramp[None, :] * math.cos(angle) + ramp[:, None] * math.sin(angle)
    period = float(rng.uniform(16, 70))
    if kind == "stripes":
        return _soft(np.sin(along * (2 * math.pi / period)))
    if kind == "checks":
        across = -ramp[None, :] * math.sin(angle) + ramp[:, None] * math.cos(angle)
        return _soft(np.sin(along * (2 * math.pi / period)) * np.sin(across * (2 * math.pi / period)))
    if kind in ("rings", "dots"):
        cx, cy = rng.uniform(0, size, size=2).astype(np.float32)
        dx, dy = ramp[None, :] - cx, ramp[:, None] - cy
        if kind == "rings":
            return _soft(np.sin(np.sqrt(dx * dx + dy * dy) * (2 * math.pi / period)))
        return _soft(np.cos(dx * (2 * math.pi / period)) + np.cos(dy * (2 * math.pi / period)) - 1.0)
    if kind == "clouds":
        cells = int(rng.integers(4, 14))
        coarse = Image.fromarray((rng.random((cells, cells)) * 255).astype(np.uint8))
        return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), dtype=np.float32) / 255.0
    span = float(np.ptp(along)) or 1.0
    out: Pixels = (along - along.min()) / span
    return out


def _soft(wave: Pixels) -> Pixels:
    """A wave of -1 to 1 as 0 to 1 with steep but not jagged flanks."""
    out: Pixels = np.clip(wave * 2.0 + 0.5, 0.0, 1.0).astype(np.float32)
    return out
