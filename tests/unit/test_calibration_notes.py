"""Measurements in a journal: what was finished is not measured again, and comes back as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from trimkit.calibration._notes import Notes, Pair, task_of
from trimkit.eval.journal import Journal
from trimkit.methods import get_method

PAIRS = [Pair(number, f"{number}.png", Image.new("RGB", (2, 2), (number, 0, 0)), "What?") for number in range(3)]
ROWS: Any = [[0.1, True, math.inf], [1 / 3, False, -math.inf], [2.0, 1, math.nan]]


def never() -> list[list[float]]:
    raise AssertionError("measured again")


def test_rows_come_back_to_the_last_bit(tmp_path: Path) -> None:
    path = tmp_path / "book.jsonl"
    with Journal(path, {}) as book:
        assert Notes(book).rows("a", PAIRS, lambda: ROWS) == ROWS
    with Journal(path, {}) as book:
        found = Notes(book).rows("a", PAIRS, never)
    assert found[:2] == [[float(value) for value in row] for row in ROWS[:2]]
    assert math.isnan(found[2][2])


def test_a_batch_counts_whole_and_only_what_is_missing_is_written(tmp_path: Path) -> None:
    with Journal(tmp_path / "book.jsonl", {}) as book:
        notes = Notes(book)
        notes.rows("a", PAIRS[:1], lambda: [[5.0]])
        assert notes.rows("a", PAIRS, lambda: [[1.0], [2.0], [3.0]]) == [[1.0], [2.0], [3.0]]
        assert notes.rows("a", PAIRS[:1], never) == [[5.0]]
        assert notes.rows("a", PAIRS[1:], never) == [[2.0], [3.0]]


@pytest.mark.parametrize(
    "other",
    [
        Pair(0, "0.png", Image.new("RGB", (2, 2), (9, 0, 0)), "What?"),  # another picture of that name
        Pair(0, "0.png", PAIRS[0].image, "Where?"),
        Pair(0, "0.png", PAIRS[0].image, "What?", "here"),
        Pair(0, "1.png", PAIRS[0].image, "What?"),
    ],
)
def test_another_question_is_measured(tmp_path: Path, other: Pair) -> None:
    with Journal(tmp_path / "book.jsonl", {}) as book:
        notes = Notes(book)
        notes.rows("a", PAIRS[:1], lambda: [[1.0]])
        assert Notes(book).rows("a", [other], lambda: [[2.0]]) == [[2.0]]
        assert notes.rows("b", PAIRS[:1], lambda: [[3.0]]) == [[3.0]]


def test_a_task_names_every_option() -> None:
    tasks = [
        task_of(get_method("trim", budget=4)),
        task_of(get_method("trim", budget=5)),
        task_of(get_method("random", budget=4)),
        task_of(get_method("trim", budget=4), "original"),
        task_of(get_method("trim", budget=4, aggregate="none")),
    ]
    assert len(set(tasks)) == len(tasks)


def test_without_a_book_everything_is_measured() -> None:
    assert Notes(None).rows("a", PAIRS, lambda: ROWS) is ROWS
