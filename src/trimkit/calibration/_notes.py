"""Finished measurements in a journal: a calibration that was interrupted goes on where it was, and comes out the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from trimkit.methods import Method

__all__ = ["Book", "Notes", "Pair", "task_of"]


@dataclass(frozen=True)
class Pair:
    """One question about one picture; ``picture`` numbers the pictures from 0, ``label`` is the right answer if it is known."""

    picture: int
    name: str
    image: Any
    question: str
    label: str | None = None


class Book(Protocol):
    """Rows by task and id; ``trimkit.eval.journal.Journal`` is one, on the disk."""

    def get(self, task: str, row_id: str) -> Mapping[str, Any] | None:
        """What was added for a row, or None."""

    def add(self, task: str, rows: Mapping[Any, Mapping[str, Any]]) -> None:
        """Add rows that are not there."""


class Notes:
    """Numbers of pairs in a book, or nowhere.

    Args:
        book: where they go; None for nowhere.
    """

    def __init__(self, book: Book | None) -> None:
        self._book = book
        self._digests: dict[int, str] = {}

    def rows(self, task: str, pairs: Sequence[Pair], measure: Callable[[], list[list[float]]]) -> list[list[float]]:
        """The rows of ``pairs``: from the book where it has all of them, else from ``measure``, which go there.

        A batch counts whole, so that the same ones are measured together after an interruption.
        """
        book = self._book
        if book is None:
            return measure()
        keys = [self._key(pair) for pair in pairs]
        known = [book.get(task, key) for key in keys]
        found = [each for each in known if each is not None]
        if len(found) == len(keys):
            return [[float(value) for value in each["values"]] for each in found]
        rows = measure()
        new = {key: {"values": [str(float(value)) for value in row]} for key, row in zip(keys, rows, strict=True)}
        missing = {key for key, each in zip(keys, known, strict=True) if each is None}
        book.add(task, {key: row for key, row in new.items() if key in missing})
        return rows

    def _key(self, pair: Pair) -> str:
        if pair.picture not in self._digests:
            image = pair.image
            content = image.tobytes() if hasattr(image, "tobytes") else repr(image).encode()
            said = f"{getattr(image, 'size', '')} {getattr(image, 'mode', '')}".encode()
            self._digests[pair.picture] = hashlib.blake2b(content + said, digest_size=8).hexdigest()
        asked = hashlib.blake2b(f"{pair.question}\0{pair.label}".encode(), digest_size=8).hexdigest()
        return f"{pair.name} {self._digests[pair.picture]} {asked}"


def task_of(method: Method, *more: str) -> str:
    """A method with its options, and what else says what is measured."""
    return " ".join([method.name, json.dumps(method.model_dump(mode="json"), sort_keys=True), *more])
