"""One picture that shows what a reduction kept: kept patches clear, dropped ones dimmed, relevance beside, counts below.

Everything is drawn on the picture as the model saw it, after the processor's resize and crop.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from trimkit.core.types import ImageReport
from trimkit.errors import InputError
from trimkit.io.files import check_writable, write_atomically
from trimkit.io.text import one_line

if TYPE_CHECKING:
    from trimkit.ask import Answer
    from trimkit.methods import Method

__all__ = ["answer_overlay", "check_output", "overlay", "save_picture", "seen_by_model"]

Pixels = npt.NDArray[np.float32]

_PANEL = 560  # longer side of a panel, pixels
_MARGIN = 20
_PAPER, _INK, _SOFT, _ACCENT = (250, 250, 248), (24, 26, 32), (104, 108, 118), (196, 78, 24)
_QUESTION_LINES = 4
# Dark violet to pale yellow, evenly rising in lightness, so that it also reads in grey.
_HEAT = ((16, 10, 48), (78, 18, 108), (150, 40, 104), (216, 74, 62), (248, 142, 30), (252, 222, 130))


def seen_by_model(image: Image.Image, processor: Any, grid: tuple[int, int]) -> Image.Image:
    """The RGB picture after the processor's resize and crop; for processors that cut it up otherwise, the whole of it.

    Args:
        image: what was given to the processor.
        processor: the model's.
        grid: rows and columns of the token grid, which a whole picture is brought to.
    """
    reader = getattr(processor, "image_processor", processor)
    with contextlib.suppress(TypeError, ValueError, KeyError, AttributeError):
        out = reader(images=image, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]
        if out.ndim == 4 and out.shape[:2] == (1, 3):
            return Image.fromarray(out[0].transpose(1, 2, 0).clip(0, 255).astype(np.uint8))
    return image.convert("RGB").resize((grid[1] * 28, grid[0] * 28), Image.Resampling.BICUBIC)


def overlay(
    image: Image.Image,
    report: ImageReport,
    processor: Any,
    *,
    question: str,
    lines: Sequence[tuple[str, str, str]] = (),
    title: str = "",
) -> Image.Image:
    """Draw what was kept of one picture.

    Args:
        image: the picture given to the processor.
        report: its entry in ``Report.images``.
        processor: the model's, for the geometry.
        question: printed below, wrapped.
        lines: rows of the caption: what, how many tokens, what came out.
        title: method and budget.

    Returns:
        An RGB picture, two panels wide.
    """
    grid = report.grid
    seen = _fit(seen_by_model(image, processor, grid or (12, 12)))
    kept = seen if grid is None else _dim_dropped(seen, _kept_cells(report, grid))
    if grid is None:
        left_title, right = "this model's tokens are not one grid", _note(seen, "no grid to draw on")
    elif report.relevance is None:
        left_title, right = "kept patches", _note(seen, report.note or "this method does not read the question")
    else:
        left_title, right = "kept patches", _heat_map(seen, report.relevance.float().cpu().numpy().reshape(grid))
    caption = _caption(2 * seen.width + _MARGIN, question, lines, title)
    header = 30
    sheet = Image.new(
        "RGB", (2 * seen.width + 3 * _MARGIN, seen.height + header + caption.height + 2 * _MARGIN), _PAPER
    )
    draw = ImageDraw.Draw(sheet)
    second = seen.width + 2 * _MARGIN
    draw.text((_MARGIN, 12), left_title, font=_font(16), fill=_SOFT)
    draw.text((second, 12), "relevance to the question", font=_font(16), fill=_SOFT)
    sheet.paste(kept, (_MARGIN, header + 6))
    sheet.paste(right, (second, header + 6))
    sheet.paste(caption, (_MARGIN, header + seen.height + _MARGIN))
    return sheet


def answer_overlay(
    image: Image.Image, processor: Any, question: str, reduced: Answer, full: Answer | None, *, method: Method
) -> Image.Image:
    """``overlay`` of an answer of ``trimkit.ask``, with the full model's beside it where there is one.

    Raises:
        InputError: the answer carries no report of an image.
    """
    if reduced.report is None or not reduced.report.images:
        raise InputError("there is nothing to draw: the answer has no report of an image")
    lines = [] if full is None else [("full", _cost(full), full.answer)]
    lines.append((method.name, _cost(reduced), reduced.answer))
    title = f"method {method.name}, budget {method.budget}"
    return overlay(image, reduced.report.images[0], processor, question=question, lines=lines, title=title)


def check_output(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> tuple[Path, str]:
    """Where and in which format a picture is to be written; looks before anything slow is done.

    Raises:
        InputError: the extension names no picture format, the place cannot be written, or it is one of ``inputs``.
    """
    kind = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}.get(Path(path).suffix.lower())
    if kind is None:
        raise InputError(f"cannot write {os.fspath(path)!r}: the name must end in .png, .jpg or .webp")
    return check_writable(path, inputs), kind


def save_picture(picture: Image.Image, path: str | os.PathLike[str]) -> Path:
    """Write a picture so that a reader sees the old file or the whole new one.

    Raises:
        InputError: as ``check_output``, or the disk refuses.
    """
    target, kind = check_output(path)
    write_atomically(target, lambda file: picture.save(file, format=kind, quality=92))
    return target


def _fit(picture: Image.Image) -> Image.Image:
    scale = _PANEL / max(picture.size)
    size = (max(round(picture.width * scale), 160), max(round(picture.height * scale), 40))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _kept_cells(report: ImageReport, grid: tuple[int, int]) -> npt.NDArray[np.bool_]:
    cells = np.zeros(grid[0] * grid[1], dtype=bool)
    cells[report.indices.cpu().numpy()] = True
    return cells.reshape(grid)


def _edges(length: int, cells: int) -> list[int]:
    return [round(i * length / cells) for i in range(cells + 1)]


def _dim_dropped(seen: Image.Image, cells: npt.NDArray[np.bool_]) -> Image.Image:
    """Dropped cells go grey and dark; a thin line runs where kept and dropped meet."""
    mask = Image.fromarray(cells.astype(np.uint8) * 255).resize(seen.size, Image.Resampling.NEAREST)
    grey = np.asarray(seen.convert("L").convert("RGB"), dtype=np.float32)
    dimmed = Image.fromarray((grey * 0.34 + 12).astype(np.uint8))
    out = Image.composite(seen, dimmed, mask)
    draw = ImageDraw.Draw(out)
    xs, ys = _edges(seen.width, cells.shape[1]), _edges(seen.height, cells.shape[0])
    for row, column in zip(*np.nonzero(cells[:, 1:] != cells[:, :-1]), strict=True):
        draw.line((xs[column + 1], ys[row], xs[column + 1], ys[row + 1]), fill="white")
    for row, column in zip(*np.nonzero(cells[1:] != cells[:-1]), strict=True):
        draw.line((xs[column], ys[row + 1], xs[column + 1], ys[row + 1]), fill="white")
    return out


def _heat_map(seen: Image.Image, relevance: npt.NDArray[np.float32]) -> Image.Image:
    """Relevance between its 2nd and 99.5th percentile as colour, over the picture in faint grey."""
    known = relevance[np.isfinite(relevance)]
    low, high = np.percentile(known, (2, 99.5)) if known.size else (0.0, 0.0)
    level = np.clip((np.where(np.isfinite(relevance), relevance, low) - low) / max(float(high - low), 1e-12), 0, 1)
    smooth = Image.fromarray((level * 255).astype(np.uint8)).resize(seen.size, Image.Resampling.BICUBIC)
    at = np.asarray(smooth, dtype=np.float32) / 255
    stops = np.linspace(0, 1, len(_HEAT))
    colour = np.stack([np.interp(at, stops, [c[i] for c in _HEAT]) for i in range(3)], axis=-1)
    grey = np.asarray(seen.convert("L"), dtype=np.float32)[..., None]
    return Image.fromarray((colour * 0.72 + grey * 0.28).clip(0, 255).astype(np.uint8))


def _note(seen: Image.Image, text: str) -> Image.Image:
    panel = Image.new("RGB", seen.size, (236, 236, 232))
    draw = ImageDraw.Draw(panel)
    for number, line in enumerate(_wrap(text, _font(18), seen.width - 2 * _MARGIN, 4)):
        draw.text((seen.width / 2, seen.height / 2 + 26 * number), line, font=_font(18), fill=_SOFT, anchor="mm")
    return panel


def _caption(width: int, question: str, lines: Sequence[tuple[str, str, str]], title: str) -> Image.Image:
    strip = Image.new("RGB", (width, 2000), _PAPER)
    draw = ImageDraw.Draw(strip)
    y = 8
    for line in _wrap(one_line(question), _font(24), width, _QUESTION_LINES):
        draw.text((0, y), line, font=_font(24), fill=_INK)
        y += 32
    if title:
        y += 4
        draw.text((0, y), title, font=_font(16), fill=_SOFT)
        y += 30
    for number, (what, count, result) in enumerate(lines):
        colour = _ACCENT if number == len(lines) - 1 else _INK
        draw.text((0, y), what, font=_font(18), fill=_SOFT)
        draw.text((120, y), count, font=_font(18), fill=colour)
        for line in _wrap(one_line(result), _font(18), width - 460, 2):
            draw.text((460, y), line, font=_font(18), fill=_INK)
            y += 28
    return strip.crop((0, 0, width, y))


def _wrap(text: str, font: Any, width: int, most: int) -> list[str]:
    """Lines that fit ``width`` pixels, at most ``most`` of them; what is cut off ends in an ellipsis."""
    lines: list[str] = []
    rest = text
    while rest and len(lines) < most:
        cut = len(rest) if font.getlength(rest[:400]) <= width and len(rest) <= 400 else _cut(rest, font, width)
        lines.append(rest[:cut].rstrip())
        rest = rest[cut:].lstrip()
    if rest:
        line = lines[-1]
        while line and font.getlength(line + " …") > width:
            line = line[:-1]
        lines[-1] = line.rstrip() + " …"
    return lines or [""]


def _cut(text: str, font: Any, width: int) -> int:
    """Characters of ``text`` that fit: up to a space where there is one."""
    fits = 1
    while fits < len(text) and font.getlength(text[: fits + 1]) <= width:
        fits += 1
    space = text.rfind(" ", 1, fits + 1)
    return space if space > 0 else fits


def _cost(answer: Answer) -> str:
    share = answer.image_tokens_kept / max(answer.image_tokens_full, 1)
    return f"{answer.image_tokens_kept} image tokens ({share:.0%}), {answer.seconds:.2f} s"


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
