"""Where a drawing goes: a file, whole or not at all, or a piece of HTML."""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path

from PIL import Image

from trimkit.core.geometry import View
from trimkit.core.types import Report
from trimkit.errors import InputError
from trimkit.io.files import check_writable, write_atomically
from trimkit.io.text import one_line
from trimkit.viz.sheet import draw_report, summary

__all__ = ["check_output", "report_html", "save_picture"]

_ROWS = 20


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


def report_html(report: Report, views: Sequence[Sequence[View]]) -> str:
    """A table of the images (at most 20) and the drawing, as a notebook shows a report."""
    rows = "".join(
        f"<tr><td>{image.medium} {number}</td><td>{html.escape(one_line(image.query or ''))[:300]}</td>"
        f"<td>{image.tokens_before} → {image.tokens_after}</td></tr>"
        for number, image in enumerate(report.images[:_ROWS], start=1)
    )
    more = f"<p>and {len(report.images) - _ROWS} more</p>" if len(report.images) > _ROWS else ""
    stages = ", ".join(f"{name} {value:.3f} s" for name, value in asdict(report.seconds).items())
    buffer = io.BytesIO()
    draw_report(report, views).save(buffer, format="JPEG", quality=85)
    picture = base64.b64encode(buffer.getvalue()).decode()
    return (
        f"<p><b>{html.escape(summary(report))}</b></p>"
        f"<table><tr><th></th><th>question</th><th>tokens</th></tr>{rows}</table>{more}<p>{stages}</p>"
        f'<img alt="what was kept" style="max-width:100%" src="data:image/jpeg;base64,{picture}">'
    )
