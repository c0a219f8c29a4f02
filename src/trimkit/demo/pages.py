"""Pages full of text: tables of words, receipts and bar charts, drawn at random; no pixels.

Words stand as large as on the signs of scenes, things nearly as large as in scenes, so that a tower that knows scenes can see
them; there are only many more on a page. The same generator state gives the same page.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trimkit.demo.wording import one_of
from trimkit.demo.world import COLOURS, IMAGE_SIZE, NAMES, SIGN_STYLES, WORDS, Box, SceneObject

__all__ = ["Bar", "Cell", "Lettering", "Page", "sample_chart", "sample_receipt", "sample_table"]

Span = tuple[int, int]

TABLE_ROWS: Span = (7, 9)  # below a row of colours
TABLE_COLUMNS = 3
RECEIPT_ROWS: Span = (8, 10)
RECEIPT_COLUMNS = 2
BARS: Span = (6, 7)
HIGHEST = 9  # numbers are 1 to 9
MARGIN = 6.0


@dataclass(frozen=True)
class Lettering:
    """A word or a number in capitals around a centre; ``pitch`` is the room of a letter in pixels."""

    text: str
    x: float
    y: float
    pitch: float

    @property
    def box(self) -> Box:
        half, tall = self.pitch * len(self.text) / 2, self.pitch * 0.75
        return (self.x - half, self.y - tall, self.x + half, self.y + tall)


@dataclass(frozen=True)
class Bar:
    """A filled shape: a bar of a chart, a line between rows, or the disc (``round``) at the head of a column."""

    box: Box
    fill: tuple[int, int, int]
    round: bool = False


@dataclass(frozen=True)
class Cell:
    """What can be looked up on a page.

    Attributes:
        row: name of a thing, or the word of a receipt's line.
        column: colour at the head of a table's column; empty elsewhere.
        text: what stands there.
        boxes: of the row's head, of the column's where there is one, and of the text, which comes last.
    """

    row: str
    column: str
    text: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Page:
    """A square picture of text: paper and ink are those of sign style ``style``."""

    kind: str  # table, receipt or chart
    size: int
    style: int
    bars: tuple[Bar, ...]
    things: tuple[SceneObject, ...]
    texts: tuple[Lettering, ...]
    cells: tuple[Cell, ...]


def sample_table(rng: np.random.Generator, size: int = IMAGE_SIZE) -> Page:
    """Words in rows that are headed by things, in columns that are headed by colours; no word twice."""
    rows, columns = _between(rng, TABLE_ROWS), TABLE_COLUMNS
    names, colours = _drawn(rng, NAMES, rows), _drawn(rng, tuple(COLOURS), columns)
    words = _drawn(rng, WORDS, rows * columns)
    style, pitch = int(rng.integers(len(SIGN_STYLES))), float(rng.uniform(15, 17))
    tall, first = size / (rows + 1), 46.0
    wide = (size - first) / columns
    heads = [_head(first + wide * (column + 0.5), tall / 2, COLOURS[colours[column]]) for column in range(columns)]
    things, texts, cells = [], [], []
    for row in range(rows):
        y = tall * (row + 1.5)
        things.append(_thing(rng, names[row], first / 2, y, tall))
        for column in range(columns):
            text = Lettering(words[row * columns + column], first + wide * (column + 0.5), y, pitch)
            texts.append(text)
            boxes = (things[-1].box, heads[column].box, text.box)
            cells.append(Cell(names[row], colours[column], text.text, boxes))
    lines = [_line(0.0, tall * (row + 1), size, style) for row in range(rows)]
    return Page("table", size, style, (*lines, *heads), tuple(things), tuple(texts), tuple(cells))


def sample_receipt(rng: np.random.Generator, size: int = IMAGE_SIZE) -> Page:
    """Words with a number behind each, in two columns; no word twice."""
    rows, columns = _between(rng, RECEIPT_ROWS), RECEIPT_COLUMNS
    words = _drawn(rng, WORDS, rows * columns)
    style, pitch = int(rng.integers(len(SIGN_STYLES))), float(rng.uniform(15, 17))
    tall, wide = size / rows, size / columns
    texts, cells = [], []
    for place, word in enumerate(words):
        left, y = wide * (place // rows), tall * (place % rows + 0.5)
        item = Lettering(word, left + MARGIN + 4 + pitch * len(word) / 2, y, pitch)
        price = Lettering(str(int(rng.integers(1, HIGHEST + 1))), left + wide - MARGIN - pitch, y, pitch)
        texts += [item, price]
        cells.append(Cell(word, "", price.text, (item.box, price.box)))
    middle = Bar((wide - 1, 0.0, wide, float(size)), SIGN_STYLES[style][1])
    return Page("receipt", size, style, (middle,), (), tuple(texts), tuple(cells))


def sample_chart(rng: np.random.Generator, size: int = IMAGE_SIZE) -> Page:
    """Bars that stand on things, each with its number above; exactly one is highest."""
    bars = _between(rng, BARS)
    names, style = _drawn(rng, NAMES, bars), int(rng.integers(len(SIGN_STYLES)))
    pitch, wide, floor = float(rng.uniform(15, 17)), size / bars, size - 48.0
    numbers = [int(number) for number in rng.integers(1, HIGHEST + 1, size=bars)]
    while numbers.count(max(numbers)) > 1:
        numbers = [int(number) for number in rng.integers(1, HIGHEST + 1, size=bars)]
    shapes, things, texts, cells = [], [], [], []
    for place, (name, number) in enumerate(zip(names, numbers, strict=True)):
        x, top = wide * (place + 0.5), floor - (floor - 34.0) * number / HIGHEST
        shapes.append(Bar((x - wide * 0.3, top, x + wide * 0.3, floor), one_of(rng, tuple(COLOURS.values()))))
        things.append(_thing(rng, name, x, floor + 24.0, 42.0))
        texts.append(Lettering(str(number), x, top - 15.0, pitch))
        cells.append(Cell(name, "", str(number), (things[-1].box, shapes[-1].box, texts[-1].box)))
    shapes.append(_line(0.0, floor, size, style))
    return Page("chart", size, style, tuple(shapes), tuple(things), tuple(texts), tuple(cells))


def _between(rng: np.random.Generator, span: Span) -> int:
    return int(rng.integers(span[0], span[1] + 1))


def _drawn(rng: np.random.Generator, pool: tuple[str, ...], count: int) -> list[str]:
    return [pool[i] for i in rng.choice(len(pool), size=count, replace=False)]


def _thing(rng: np.random.Generator, name: str, x: float, y: float, room: float) -> SceneObject:
    extent = min(room - 1.0, 40.0)
    return SceneObject(name, x, y, extent, 0.0, bool(rng.random() < 0.5), float(rng.uniform(0.9, 1.1)), None)


def _head(x: float, y: float, fill: tuple[int, int, int]) -> Bar:
    return Bar((x - 13, y - 13, x + 13, y + 13), fill, round=True)


def _line(left: float, y: float, size: int, style: int) -> Bar:
    return Bar((left, y - 0.5, float(size), y + 0.5), SIGN_STYLES[style][1])
