"""Pictures and questions of the demo world to fit a scorer on, and others to test it on: all ten types, no labels handed on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from trimkit.demo.dense import DENSE, about_page
from trimkit.demo.items import item_rng
from trimkit.demo.overall import GLOBAL, about_discs
from trimkit.demo.pages import Page
from trimkit.demo.questions import Question, sample_question
from trimkit.demo.typed_items import ALL_TYPES, draw, sample_typed, sample_typed_item
from trimkit.demo.world import Scene
from trimkit.eval.shifts import apply_shift

__all__ = ["NAMESPACE", "items_of", "write_set"]

_FITTED_ON = (*ALL_TYPES, DENSE, DENSE)  # a quarter are pages: what is hard should not be rare

NAMESPACE = 0xF177
"""Of the generators that draw what is fitted on: no seed of a test set leads there."""


def write_set(folder: Path, count: int, per_picture: int, seed: int, shift: str = "none") -> None:
    """``count`` pictures and ``questions.jsonl``, types in turn, pages three times, with further questions about each picture.

    A folder that is complete is left as it is.
    """
    done = folder / "questions.jsonl"
    if done.is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    lines = []
    for index in range(count):
        rng = item_rng(NAMESPACE, seed, index)
        content, question = sample_typed(rng, _FITTED_ON[index % len(_FITTED_ON)])
        asked = [question.text]
        asked += [_further(content, rng, question.type).text for _ in range(per_picture - 1)]
        name = f"{index:05}.png"
        apply_shift(draw(content), shift, index).save(folder / name)
        lines += [json.dumps({"image": name, "question": text}) for text in dict.fromkeys(asked)]
    done.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _further(content: Scene | Page, rng: np.random.Generator, kind: str) -> Question:
    """Another question about what a picture shows: of the same type for pages and, every other time, for discs."""
    if isinstance(content, Page):
        return about_page(content, rng)
    discs = about_discs(content, rng) if kind == GLOBAL and rng.random() < 0.5 else None
    return discs or sample_question(content, rng)


def items_of(seed: int, indices: Any, shift: str) -> list[tuple[Any, Any]]:
    """Pictures and questions with answers, types in turn."""
    items = [(index, *sample_typed_item(seed, index)) for index in indices]
    return [(apply_shift(picture, shift, index), question) for index, picture, question in items]
