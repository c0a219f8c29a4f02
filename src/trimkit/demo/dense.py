"""Dense reading: questions about tables, receipts and charts of numbers, of which one cell of twenty holds the answer."""

from __future__ import annotations

import numpy as np

from trimkit.demo.pages import Page, sample_chart, sample_receipt, sample_table
from trimkit.demo.questions import NUMBER_WORDS, Question
from trimkit.demo.wording import ask, one_of, pick

__all__ = ["DENSE", "WORDING", "sample_dense"]

DENSE = "dense_reading"
TABLE = (
    "Which word is in the row of the {n} and the {k} column?",
    "What does the table say in the {k} column of the {n} row?",
    "Read the word in the row of the {n}, {k} column.",
)
RECEIPT = (
    "How much is {w}?",
    "What number is next to the word {w}?",
    "Read the number on the line of {w}.",
)
CHART = (
    "What number is above the bar of the {n}?",
    "How high is the bar of the {n}?",
    "Read the number of the {n}.",
)
HIGHEST = ("Which object has the highest bar?", "What is below the highest bar?")
HIGHER = ("Which bar is higher, the {a} or the {b}?", "Is the bar of the {a} or of the {b} higher?")

WORDING: tuple[str, ...] = (*TABLE, *RECEIPT, *CHART, *HIGHEST, *HIGHER)


def sample_dense(rng: np.random.Generator) -> tuple[Page, Question]:
    """A page and a question about it: tables, receipts and charts equally often."""
    kind = pick(rng, ("table", "receipt", "chart"))
    if kind == "table":
        page = sample_table(rng)
        cell = one_of(rng, page.cells)
        return page, Question(ask(rng, TABLE, n=cell.row, k=cell.column), cell.text, DENSE, cell.boxes)
    if kind == "receipt":
        page = sample_receipt(rng)
        cell = one_of(rng, page.cells)
        return page, Question(ask(rng, RECEIPT, w=cell.row), NUMBER_WORDS[int(cell.text)], DENSE, cell.boxes)
    page = sample_chart(rng)
    return page, _about_chart(page, rng)


def _about_chart(page: Page, rng: np.random.Generator) -> Question:
    draw = rng.random()
    if draw < 0.25:
        highest = max(page.cells, key=lambda cell: int(cell.text))
        return Question(ask(rng, HIGHEST), highest.row, DENSE, highest.boxes)
    if draw < 0.5:
        pairs = [(a, b) for a in page.cells for b in page.cells if a.text != b.text]
        first, second = one_of(rng, pairs)
        higher = max(first, second, key=lambda cell: int(cell.text))
        return Question(ask(rng, HIGHER, a=first.row, b=second.row), higher.row, DENSE, first.boxes + second.boxes)
    cell = one_of(rng, page.cells)
    return Question(ask(rng, CHART, n=cell.row), NUMBER_WORDS[int(cell.text)], DENSE, cell.boxes)
