"""The sheet that shows a call: for every picture the kept patches and what they were ranked by, then question and answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from trimkit.core.geometry import View
from trimkit.core.types import ImageReport, Report
from trimkit.io.text import one_line
from trimkit.viz.lettering import Font, notes_on, wrap
from trimkit.viz.scenes import HEAT, Scene, heat_span, paint_kept, paint_values, scenes_of

__all__ = ["ACCENT", "INK", "MARGIN", "PAPER", "SOFT", "Line", "Panels", "draw_report", "panels_of", "sheet_of"]

MARGIN = 20
PAPER, INK, SOFT, ACCENT = (250, 250, 248), (24, 26, 32), (104, 108, 118), (196, 78, 24)
_SIDES = (
    560,
    560,
    400,
    400,
    300,
)  # longer side of a panel where there are so many rows; fewer pixels where there are more
_HEADER = 36
_BAR = 34
_MOST_ROWS = 12
_QUESTION_LINES = 4

Line = tuple[str, str, str]
"""A row of the caption: what, how many tokens, what came out."""


@dataclass(frozen=True)
class Panels:
    """A row of the sheet: two pictures of one size, their titles, and the numbers of the color bar where there is one."""

    left: Image.Image
    right: Image.Image
    left_title: str
    right_title: str
    span: tuple[float, float] | None = None

    @property
    def height(self) -> int:
        return _HEADER + self.left.height + (_BAR if self.span is not None else 0)


def draw_report(
    report: Report,
    views: Sequence[Sequence[View]],
    *,
    title: str | None = None,
    question: str | None = None,
    lines: Sequence[Line] = (),
    strips: Sequence[Image.Image] = (),
) -> Image.Image:
    """Draw what a call kept of its pictures.

    Args:
        report: of the call.
        views: RGB views of each of its images (``[3, H, W]`` in 0 to 1); empty where none are known.
        title: below the question; by default the method and the tokens.
        question: by default the first that the images were scored against.
        lines: rows of the caption.
        strips: further pictures between panels and caption.

    Returns:
        An RGB picture, two panels wide. At most 12 rows of panels are drawn; the sheet says how many are left out.
    """
    drawn = [(image, scene) for image, each in zip(report.images, views, strict=True) for scene in _parts(each)]
    shown = _spread(drawn, _MOST_ROWS)
    side = _SIDES[min(len(shown), len(_SIDES) - 1)]
    names = _names(report, shown)
    rows = [panels_of(image, scene, side, name) for (image, scene), name in zip(shown, names, strict=True)]
    asked = next((image.query for image in report.images if image.query), "") if question is None else question
    left_out = len(drawn) - len(shown)
    told = [f"{len(shown)} of {len(drawn)} panels are drawn, at equal steps"] if left_out else []
    return sheet_of(
        rows, question=asked, title=summary(report) if title is None else title, lines=lines, strips=strips, notes=told
    )


def summary(report: Report) -> str:
    """Method and tokens in a few words."""
    return (
        f"{report.method}: {report.tokens_before} → {report.tokens_after} image tokens ({report.removed:.0%} removed)"
    )


def panels_of(report: ImageReport, scene: Scene | None, side: int, name: str = "") -> Panels:
    """The two panels of one scene; None where it is not known which token looks where."""
    if scene is None:
        blank = Image.new("RGB", (side, side // 3), (236, 236, 232))
        return Panels(
            _note(blank, "no pixels of it were given in this call, or where its tokens look is not known"),
            _note(blank, f"{report.tokens_after} of {report.tokens_before} tokens are kept"),
            f"{name or report.medium}: not drawn",
            "",
        )
    fitted = scene.fitted(side)
    left = paint_kept(fitted, report) if len(scene.tokens) else fitted.picture
    values, title = _ranking(report)
    merged = ", merged by tint" if report.groups is not None else ""
    short = f"{name}: {report.tokens_after} of {report.tokens_before} tokens{merged}"
    kept = short if name else _kept_title(report, scene)
    if values is None or not len(scene.tokens):
        return Panels(left, _note(fitted.picture, title), kept, "")
    return Panels(
        left, paint_values(fitted, values), kept, title.partition(";")[0] if name else title, heat_span(values)
    )


def sheet_of(
    rows: Sequence[Panels],
    *,
    question: str,
    title: str,
    lines: Sequence[Line],
    strips: Sequence[Image.Image] = (),
    notes: Sequence[str] = (),
) -> Image.Image:
    """Rows of panels, further pictures, and the caption below."""
    width = 2 * max((row.left.width for row in rows), default=560) + MARGIN
    notes = [*notes, *notes_on(" ".join([question, *(line[2] for line in lines)]))]
    caption = _caption(width, question, lines, title, notes)
    strips = [_as_wide(strip, width) for strip in strips]
    height = sum(row.height for row in rows) + sum(strip.height + MARGIN for strip in strips)
    between = MARGIN * max(len(rows) - 1, 0)
    sheet = Image.new("RGB", (width + 2 * MARGIN, height + between + 14 + caption.height + MARGIN), PAPER)
    y = 0
    for number, row in enumerate(rows):
        y += MARGIN if number else 0
        _paste_row(sheet, row, y, width)
        y += row.height
    for strip in strips:
        sheet.paste(strip, (MARGIN, y + MARGIN))
        y += strip.height + MARGIN
    sheet.paste(caption, (MARGIN, y + 14))
    return sheet


def _paste_row(sheet: Image.Image, row: Panels, y: int, width: int) -> None:
    font, second = Font(16), MARGIN + (width + MARGIN) // 2
    room = (width - MARGIN) // 2
    font.draw(sheet, (MARGIN, y + 12), wrap(row.left_title, font, room, 1)[0], SOFT)
    font.draw(sheet, (second, y + 12), wrap(row.right_title, font, room, 1)[0], SOFT)
    sheet.paste(row.left, (MARGIN, y + _HEADER))
    sheet.paste(row.right, (second, y + _HEADER))
    if row.span is None:
        return
    top = y + _HEADER + row.left.height + 8
    stops = np.linspace(0, 1, len(HEAT))
    at = np.linspace(0, 1, row.right.width)
    colors = np.stack([np.interp(at, stops, [color[i] for color in HEAT]) for i in range(3)], axis=-1)
    bar = Image.fromarray(np.repeat(colors[None].astype(np.uint8), 10, axis=0))
    sheet.paste(bar, (second, top))
    low, high = (f"{value:.3g}" for value in row.span)
    font = Font(13)
    start, end = (f"{low} or less", f"{high} or more") if row.right.width > 200 else (low, high)
    font.draw(sheet, (second, top + 12), start, SOFT)
    font.draw(sheet, (second + row.right.width - font.getlength(end), top + 12), end, SOFT)


def _caption(width: int, question: str, lines: Sequence[Line], title: str, notes: Sequence[str]) -> Image.Image:
    strip = Image.new("RGB", (width, 2400), PAPER)
    y = 8
    for line in wrap(one_line(question), Font(24), width, _QUESTION_LINES):
        Font(24).draw(strip, (0, y), line, INK, width)
        y += 32
    if title:
        y += 4
        Font(16).draw(strip, (0, y), title, SOFT)
        y += 30
    for number, (what, count, result) in enumerate(lines):
        color = ACCENT if number == len(lines) - 1 else INK
        Font(18).draw(strip, (0, y), wrap(what, Font(18), 112, 1)[0], SOFT)
        Font(18).draw(strip, (120, y), count, color)
        for line in wrap(one_line(result), Font(18), max(width - 460, 120), 2):
            Font(18).draw(strip, (460, y), line, INK)
            y += 28
    for note in notes:
        for line in wrap(note, Font(14), width, 3):
            Font(14).draw(strip, (0, y), line, ACCENT)
            y += 22
    return strip.crop((0, 0, width, y))


def _note(seen: Image.Image, text: str) -> Image.Image:
    panel = Image.new("RGB", seen.size, (236, 236, 232))
    font = Font(18)
    lines = wrap(text, font, seen.width - 2 * MARGIN, 4)
    for number, line in enumerate(lines):
        x = (seen.width - font.getlength(line)) / 2
        font.draw(panel, (x, seen.height / 2 - 13 * len(lines) + 26 * number), line, SOFT)
    return panel


def _kept_title(report: ImageReport, scene: Scene) -> str:
    if not len(scene.tokens):
        return "where this model's tokens look is not known"
    if report.keeps_all:
        return "every token is kept"
    own = "; the class token besides" if report.class_token else ""
    if report.groups is not None:
        count = report.tokens_after - report.class_token
        return f"{count} tokens, each merged of the patches of one tint (dot: its place){own}"
    return f"kept patches{'; the others as one token, their mean' if report.aggregated else ''}{own}"


def _ranking(report: ImageReport) -> tuple[Any, str]:
    """``[N]`` values that the tokens were ranked by and what they are; None and the reason where there are none."""
    if report.relevance is not None:
        return report.relevance.detach().double().cpu().numpy(), "relevance to the question"
    if report.keeps_all:
        return None, "every token is kept: nothing had to be ranked"
    if report.scores is not None and _differ(report.scores):
        return report.scores.detach().double().cpu().numpy(), "the method's score; it does not read the question"
    return None, "this method does not read the question"


def _differ(scores: Any) -> bool:
    """Whether they rank anything: a method that pools gives every patch the same."""
    return bool((scores != scores.flatten()[0]).any()) if scores.numel() else False


def _parts(views: Sequence[View]) -> list[Scene | None]:
    return [*scenes_of(views)] or [None]


def _spread(drawn: list[Any], most: int) -> list[Any]:
    """At most ``most`` of them, at equal steps, the first and the last included."""
    if len(drawn) <= most:
        return drawn
    return [drawn[round(i * (len(drawn) - 1) / (most - 1))] for i in range(most)]


def _names(report: Report, shown: Sequence[tuple[ImageReport, Any]]) -> list[str]:
    """What tells the rows apart: picture and part by number."""
    if len(shown) == 1:
        return [""]
    numbers = {id(image): number for number, image in enumerate(report.images, start=1)}
    return [f"{image.medium} {numbers[id(image)]}" for image, _ in shown]


def _as_wide(picture: Image.Image, width: int) -> Image.Image:
    out = Image.new("RGB", (width, picture.height), PAPER)
    out.paste(picture, (0, 0))
    return out
