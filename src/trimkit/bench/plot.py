"""Time against image tokens: for each batch size and length one panel for the whole request and one for prefill."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trimkit.bench._canvas import Canvas, PngCanvas, SvgCanvas
from trimkit.errors import InputError
from trimkit.io.files import check_writable, write_atomically

__all__ = ["check_plot", "draw"]

_WIDTH, _PANEL, _LEGEND = 960, 320, 44
_INK, _SOFT, _GRID = "#181a20", "#686c76", "#dcdcd6"
_COLOURS = ("#c44e18", "#1f6fa8", "#4a7d2c", "#7c3f98", "#a8801f", "#2a8a86", "#a83a5c", "#5a5f6b")
_PARTS = (("end_to_end_s", "end to end"), ("prefill_s", "prefill of the language model"))


def check_plot(path: str, inputs: Iterable[str | Path | None] = ()) -> Path:
    """Where a plot is to go, looked at before anything slow is done.

    Raises:
        InputError: the name ends in neither .png nor .svg, the place cannot be written, or it is one of ``inputs``.
    """
    if Path(path).suffix.lower() not in (".png", ".svg"):
        raise InputError(f"cannot write {path!r}: the name of a plot must end in .png or .svg")
    return check_writable(path, inputs)


def draw(found: dict[str, Any], target: Path) -> None:
    """Draw what ``bench`` gave; a reader sees the old file or the whole new one.

    Raises:
        InputError: the disk refuses.
    """
    cells = list(dict.fromkeys((arm["batch_size"], arm["new_tokens"]) for arm in found["arms"]))
    methods = list(dict.fromkeys(arm["method"] for arm in found["arms"] if arm["method"] != "none"))
    colours = {name: _COLOURS[i % len(_COLOURS)] for i, name in enumerate(methods)}
    size = (_WIDTH, _LEGEND + _PANEL * len(cells))
    canvas: Canvas = SvgCanvas(*size) if target.suffix.lower() == ".svg" else PngCanvas(*size)
    _legend(canvas, colours, found["provenance"])
    for row, cell in enumerate(cells):
        arms = [arm for arm in found["arms"] if (arm["batch_size"], arm["new_tokens"]) == cell]
        for column, (key, title) in enumerate(_PARTS):
            box = (column * _WIDTH / 2, _LEGEND + row * _PANEL)
            _panel(canvas, box, arms, key, f"{title}: batch {cell[0]}, new tokens {cell[1]}", colours)
    content = canvas.encoded()
    write_atomically(target, lambda file: file.write(content))


def _legend(canvas: Canvas, colours: dict[str, str], about: dict[str, Any]) -> None:
    x = 66.0
    for name, colour in {"full": _INK, **colours}.items():
        canvas.dot(x, 20, 5, colour)
        canvas.text(x + 10, 20, name, 14, _INK)
        x += 34 + 8 * len(name)
    config = about["config"]
    name = config["random"] or config["model"] or "demo"
    machine = f"{name}, {about['dtype']}, {about['hardware']['device']}, {about['threads']} threads"
    canvas.text(_WIDTH - 16, 20, machine, 12, _SOFT, "end")


def _panel(
    canvas: Canvas,
    corner: tuple[float, float],
    arms: list[dict[str, Any]],
    key: str,
    title: str,
    colours: dict[str, str],
) -> None:
    """Dots at medians with bars between the quartiles; a method's dots are joined, with the full model's as the last."""
    left, top = corner[0] + 66, corner[1] + 34
    width, height = _WIDTH / 2 - 66 - 20, _PANEL - 34 - 46
    most_x, step_x = _axis(max(arm["image_tokens"] for arm in arms))
    most_y, step_y = _axis(max(arm[key]["q75"] for arm in arms))

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most_x, top + height * (1 - y / most_y)

    canvas.text(left, corner[1] + 16, title, 13, _INK)
    for tick in _ticks(most_y, step_y):
        canvas.line([place(0, tick), place(most_x, tick)], _GRID)
        canvas.text(left - 8, place(0, tick)[1], _label(tick, most_y), 12, _SOFT, "end")
    for tick in _ticks(most_x, step_x):
        x, y = place(tick, 0)
        canvas.line([(x, y), (x, y + 4)], _SOFT)
        canvas.text(x, y + 14, f"{tick:g}", 12, _SOFT, "middle")
    canvas.line([place(0, 0), place(most_x, 0)], _SOFT)
    canvas.text(left + width / 2, top + height + 34, "image tokens a picture", 12, _SOFT, "middle")
    full = [arm for arm in arms if arm["method"] == "none"]
    for name, colour in colours.items():
        own = sorted((arm for arm in arms if arm["method"] == name), key=lambda arm: float(arm["image_tokens"]))
        points = [place(arm["image_tokens"], arm[key]["median"]) for arm in [*own, *full]]
        canvas.line(points, colour, 1.5)
    for arm in arms:
        colour = colours.get(arm["method"], _INK)
        low, high = (place(arm["image_tokens"], arm[key][quartile]) for quartile in ("q25", "q75"))
        canvas.line([low, high], colour, 3)
        canvas.dot(*place(arm["image_tokens"], arm[key]["median"]), 4.5, colour)


def _axis(most: float) -> tuple[float, float]:
    """An upper end not below ``most`` and a step, both round numbers."""
    step = 10.0 ** math.floor(math.log10(max(most, 1e-9) / 4))
    step = next(step * factor for factor in (1, 2, 2.5, 5, 10) if math.ceil(most / (step * factor)) <= 5)
    return math.ceil(most / step) * step, step


def _ticks(most: float, step: float) -> list[float]:
    return [step * i for i in range(round(most / step) + 1)]


def _label(seconds: float, most: float) -> str:
    return f"{seconds:.3g} s" if most >= 1 else f"{1000 * seconds:.3g} ms"
