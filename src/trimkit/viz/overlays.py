"""One image's report drawn on the picture that was given, where only the processor is at hand."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from trimkit.core.geometry import even_boxes
from trimkit.core.types import ImageReport
from trimkit.viz.scenes import Scene
from trimkit.viz.sheet import Line, panels_of, sheet_of

__all__ = ["overlay", "seen_by_model"]

_PANEL = 560


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
    lines: Sequence[Line] = (),
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
    seen = seen_by_model(image, processor, report.grid or (12, 12))
    rows, columns = report.grid or (0, 0)
    boxes = even_boxes(rows, columns, seen.height, seen.width).numpy() if report.grid else np.zeros((0, 4))
    scene = Scene(seen, np.arange(rows * columns), boxes.astype(float))
    return sheet_of([panels_of(report, scene, _PANEL)], question=question, title=title, lines=lines)
