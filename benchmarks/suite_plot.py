"""Accuracy against kept tokens, a line a method, as SVG: drawn by hand, so that the same record gives the same bytes."""

from __future__ import annotations

import math
from html import escape
from typing import Any

from benchmarks.suite_filtered import literal

__all__ = ["svg"]

Record = dict[str, Any]

_WIDTH, _HEIGHT = 920, 560
_LEFT, _TOP, _RIGHT, _BOTTOM = 70, 56, 640, 500  # of the axes
_INK, _SOFT, _GRID, _PAPER = "#18202a", "#5f6772", "#dfe1e4", "#fbfbf9"
# Ten hues of unlike lightness (after Okabe and Ito); dashes and marks tell apart what shares one.
_HUES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8c6d00", "#56b4e9", "#6a3d9a", "#7f7f7f", "#a6761d", "#1b1b1b")
_DASHES = ("", "7 4", "2 3")
_OURS = "#d0021b"


def svg(run: Record) -> str:
    """One picture of one run of the suite: the full model is a line across."""
    lines = _lines(run)
    full = next((arm["accuracy"] for arm in run["arms"] if arm["method"] == "none"), None)
    kept = [x for points in lines.values() for x, _ in points]
    values = [y for points in lines.values() for _, y in points] + ([] if full is None else [full])
    if not kept:
        return _document(["<text x='80' y='90'>no arm with a fixed budget</text>"])
    scale = _Scale(min(kept), max(kept), min(values), max(values))
    asked = {int(arm["budget"]) for arm in run["arms"] if str(arm["budget"]).isdigit()}
    parts = [_title(run), *scale.axes(sorted(asked))]
    if full is not None:
        y = scale.y(full)
        parts.append(_line(_LEFT, y, _RIGHT, y, _INK, 1.5, "1 4"))
        parts.append(_text(_LEFT + 6, y - 6, f"all {run['image_tokens_full']} tokens: {100 * full:.1f} %", _INK, 13))
    order = sorted(lines, key=lambda name: (-min(lines[name])[1], name))  # by the accuracy at the fewest tokens
    for number, name in reversed(list(enumerate(order))):  # the best ones lie on top
        parts.append(_curve(lines[name], scale, _style(name, number, run)))
    parts += _legend(order, lines, run)
    return _document(parts)


def _lines(run: Record) -> dict[str, list[tuple[float, float]]]:
    """For every method its points (tokens kept, accuracy) at fixed budgets, fewest tokens first."""
    found: dict[str, list[tuple[float, float]]] = {}
    for arm in run["arms"]:
        if arm["method"] not in {"none", *literal(run)} and str(arm["budget"]).isdigit():
            found.setdefault(arm["method"], []).append((arm["image_tokens_kept_mean"], arm["accuracy"]))
    return {name: sorted(points) for name, points in found.items()}


class _Scale:
    """Tokens and accuracies to places; mistakes are on a logarithmic scale, which keeps good methods apart."""

    def __init__(self, fewest: float, most: float, low: float, high: float) -> None:
        self._from, self._to = math.log(fewest) - 0.08, math.log(most) + 0.08
        self._low = _mistakes(low) + 0.05
        self._high = _mistakes(high) - 0.12

    def x(self, tokens: float) -> float:
        return _LEFT + (math.log(tokens) - self._from) / (self._to - self._from) * (_RIGHT - _LEFT)

    def y(self, accuracy: float) -> float:
        return _BOTTOM - (_mistakes(accuracy) - self._low) / (self._high - self._low) * (_BOTTOM - _TOP)

    def axes(self, tokens: list[int]) -> list[str]:
        parts = []
        last = math.inf
        for mark in (*range(0, 90, 5), *range(90, 100)):
            y = self.y(mark / 100)
            if not _TOP <= y <= _BOTTOM or last - y < 26:
                continue
            last = y
            parts.append(_line(_LEFT, y, _RIGHT, y, _GRID, 1))
            parts.append(_text(_LEFT - 10, y + 5, f"{mark} %", _SOFT, 13, "end"))
        shown: list[int] = []
        for count in tokens:
            if all(abs(self.x(count) - self.x(other)) > 30 for other in shown):
                shown.append(count)
                parts.append(_line(self.x(count), _BOTTOM, self.x(count), _BOTTOM + 5, _SOFT, 1))
                parts.append(_text(self.x(count), _BOTTOM + 22, str(count), _SOFT, 13, "middle"))
        middle = (_LEFT + _RIGHT) / 2
        caption = "image tokens kept; both axes are logarithmic, the upright one in mistakes"
        parts.append(_line(_LEFT, _BOTTOM, _RIGHT, _BOTTOM, _SOFT, 1))
        parts.append(_text(middle, _BOTTOM + 44, caption, _SOFT, 13, "middle"))
        return parts


def _mistakes(accuracy: float) -> float:
    return math.log(max(1.0 - accuracy, 0.005))


def _style(name: str, number: int, run: Record) -> tuple[str, str, float]:
    """Colour, dash and width."""
    if name == run.get("ours"):
        return _OURS, "", 3.6
    return _HUES[number % len(_HUES)], _DASHES[number // len(_HUES) % len(_DASHES) if name != "random" else 2], 2.0


def _curve(points: list[tuple[float, float]], scale: _Scale, style: tuple[str, str, float]) -> str:
    colour, dash, width = style
    places = [(scale.x(x), scale.y(y)) for x, y in points]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{width + 1.2:.1f}" fill="{colour}"/>' for x, y in places)
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width}"{dashed}/>{dots}'


def _legend(order: list[str], lines: dict[str, list[tuple[float, float]]], run: Record) -> list[str]:
    """Names from the best at the smallest budget to the worst, with that accuracy."""
    fewest = min(int(arm["budget"]) for arm in run["arms"] if str(arm["budget"]).isdigit())
    parts = [_text(_WIDTH - 12, _TOP - 6, f"%, asked for {fewest} tokens", _SOFT, 13, "end")]
    step = min(24.0, (_BOTTOM - _TOP - 8) / max(len(order), 1))
    for number, name in enumerate(order):
        colour, dash, width = _style(name, number, run)
        y = _TOP + 14 + step * number
        parts.append(_line(_RIGHT + 24, y - 4, _RIGHT + 54, y - 4, colour, width, dash))
        parts.append(_text(_RIGHT + 62, y, name, _INK, 13, weight="bold" if name == run.get("ours") else "normal"))
        parts.append(_text(_WIDTH - 12, y, f"{100 * lines[name][0][1]:.1f}", _INK, 13, "end"))
    return parts


def _title(run: Record) -> str:
    pictures = "" if run["shift"] == "none" else f", pictures: {run['shift']}"
    text = f"Accuracy on {run['n']} questions about held-out scenes of the demo world{pictures}"
    return _text(_LEFT, 30, text, _INK, 16)


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, width: float, dash: str = "") -> str:
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    places = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
    return f'<line {places} stroke="{colour}" stroke-width="{width}"{dashed}/>'


def _text(x: float, y: float, text: str, colour: str, size: int, anchor: str = "start", weight: str = "normal") -> str:
    look = f'fill="{colour}" font-size="{size}" text-anchor="{anchor}" font-weight="{weight}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'


def _document(parts: list[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        f'font-family="DejaVu Sans, Verdana, sans-serif">\n<rect width="100%" height="100%" fill="{_PAPER}"/>\n{body}\n</svg>\n'
    )
