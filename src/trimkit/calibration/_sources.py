"""A user's pictures and questions: read, checked, and drawn from where there are more than needed."""

from __future__ import annotations

import csv
import io
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trimkit.calibration._notes import Pair
from trimkit.errors import InputError
from trimkit.images import load_image
from trimkit.io.files import resolved, user_path
from trimkit.io.reading import read_text
from trimkit.io.text import is_text, parse_json

__all__ = ["GENERIC_QUESTIONS", "Sources", "files_of", "make_pairs", "read_sources"]

GENERIC_QUESTIONS = (
    "What is in the picture?",
    "What colour is the main object?",
    "How many objects are there?",
    "What is written in the picture?",
    "Is there a person in the picture?",
    "What is in the background?",
)
"""Asked where the user has no questions. They name little, so they tell less about relevance than real ones."""

_MOST_FILES = 500_000
_MOST_SKIPPED = 1000  # for every picture that can be read

Questions = Sequence[str] | Mapping[str, Sequence[str]]

Labels = Mapping[tuple[str, str], str]
"""Right answers by picture and question; of every picture where its name is empty."""


@dataclass(frozen=True)
class Sources:
    """What was read.

    Attributes:
        pictures: by name (the path below the directory), sorted.
        questions: for every picture, or by the picture's name; None: there was no file.
        skipped: ``(name, reason)`` of what could not be used.
        labels: right answers that the file of questions gives.
    """

    pictures: dict[str, Any]
    questions: Questions | None
    skipped: tuple[tuple[str, str], ...]
    labels: Labels = field(default_factory=dict)


def read_sources(
    images: str | Path,
    questions: str | Path | None = None,
    *,
    limit: int = 64,
    seed: int = 0,
    longest: int | None = None,
) -> Sources:
    """Read at most ``limit`` pictures of a directory, and a file of questions.

    Where there are more pictures, ``seed`` draws which. A file that is no picture, or a damaged one, is skipped and named; so
    is a question about a picture that is not there.

    Args:
        images: a directory; pictures in directories below it count, hidden files do not.
        questions: ``.jsonl`` (``{"image": name, "question": text}`` a line; without ``image`` it is asked of every picture),
            ``.csv`` (the same as columns), or text with one question a line for every picture. The first two may have
            ``answer``, which makes labels.
        limit, seed: how many pictures, and which.
        longest: pixels of the longer side that a larger picture is shrunk to, so that thousands fit into memory.

    Raises:
        InputError: no such directory or file, a line that cannot be read, or not one picture that can.
    """
    folder = user_path(images)
    if not folder.is_dir():
        raise InputError(f"there is no directory {str(images)!r}: give one that holds pictures")
    names, skipped = _names(folder, questions), []
    shared: list[str] = []
    own: dict[str, list[str]] = {}
    labels: dict[tuple[str, str], str] = {}
    if questions is not None:
        shared, own, labels = _read_questions(user_path(questions))
        skipped = [(name, "named in the questions, but not in the directory") for name in sorted(set(own) - set(names))]
        names = [name for name in names if shared or name in own]
        if own and not names:
            raise InputError(
                f"no question of {str(questions)!r} is about a picture in {str(images)!r}: check the names"
            )
    random.Random(seed).shuffle(names)
    pictures, unreadable = _pictures(folder, names, limit, longest)
    skipped += unreadable
    asked: Questions | None = shared or None
    if own:
        asked = {name: [*own.get(name, ()), *_from(shared, number)] for number, name in enumerate(pictures)}
    return Sources(pictures, asked, tuple(sorted(skipped)), labels)


def _pictures(
    folder: Path, names: Sequence[str], limit: int, longest: int | None
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """At most ``limit`` pictures by name, sorted, and what could not be read."""
    pictures: dict[str, Any] = {}
    skipped: list[tuple[str, str]] = []
    room = _room()
    for name in names:
        if len(pictures) == limit:
            break
        try:
            picture = _shrunk(load_image(folder / name), longest)
            pictures[name] = picture
            room -= 3 * picture.width * picture.height
            if room < 0:
                break
        except InputError as error:
            skipped.append((name, str(error)))
            if len(skipped) > _MOST_SKIPPED * (len(pictures) + 1):
                raise InputError(
                    f"only {len(pictures)} of the first {len(skipped) + len(pictures)} files in {str(folder)!r} can be read as "
                    "pictures: give a directory of pictures"
                ) from None
    if room < 0:
        raise InputError(
            f"the first {len(pictures)} pictures fill half of this machine's memory: take fewer (--max-images), or shrink them "
            "to the size that the model sees"
        )
    if not pictures:
        raise InputError(
            f"there is no picture that can be read in {str(folder)!r}: give PNG, JPEG, WebP, GIF or TIFF files"
        )
    return dict(sorted(pictures.items())), skipped


def _room() -> int:
    """Bytes that pictures may take: half of the machine's memory, or 8 GB where that is not known."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (AttributeError, OSError, ValueError):
        return 8 * 10**9


def _shrunk(image: Any, longest: int | None) -> Any:
    if longest is not None:
        image.thumbnail((longest, longest))
    return image


def _from(shared: list[str], number: int) -> list[str]:
    """Each picture begins with another one, so that all are asked where only a few are asked of each."""
    first = number % max(len(shared), 1)
    return shared[first:] + shared[:first]


def make_pairs(
    pictures: Mapping[str, Any], questions: Questions | None, per_picture: int, labels: Labels | None = None
) -> list[Pair]:
    """At most ``per_picture`` questions of each picture. Questions for all pictures take turns, so that all are asked.

    Raises:
        InputError: no picture has a question, or one has no label where there are some.
    """
    pairs = []
    for number, (name, image) in enumerate(pictures.items()):
        if isinstance(questions, Mapping):
            mine = list(questions.get(name, ()))[:per_picture]
        else:
            shared = list(questions) if questions else list(GENERIC_QUESTIONS)
            count = min(per_picture, len(shared))
            mine = [shared[(number * count + turn) % len(shared)] for turn in range(count)]
        for question in mine:
            label = (labels or {}).get((name, question), (labels or {}).get(("", question)))
            if labels is not None and label is None:
                raise InputError(
                    f'{name}, "{question[:80]}" has no label: give "answer" in every line of the questions'
                )
            pairs.append(Pair(number, name, image, question, label))
    if not pairs:
        raise InputError("there is no question about any picture: check the names in the questions")
    return pairs


def files_of(images: str | Path) -> list[Path]:
    """Files that ``read_sources`` may read of a directory of pictures, JSON results that lie among them left out."""
    folder = user_path(images)
    names = _names(folder, None) if folder.is_dir() else []
    return [folder / name for name in names if not name.lower().endswith(".json")]


def _names(folder: Path, questions: str | Path | None) -> list[str]:
    """Files below ``folder`` by their relative names, sorted; neither hidden ones nor the questions."""
    own = None if questions is None else resolved(user_path(questions))
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in files if not name.startswith(".")]
        if len(found) > _MOST_FILES:
            raise InputError(f"{str(folder)!r} holds more than {_MOST_FILES} files: give a directory of pictures")
    return [path.relative_to(folder).as_posix() for path in sorted(found) if path.is_file() and path.resolve() != own]


def _read_questions(path: Path) -> tuple[list[str], dict[str, list[str]], dict[tuple[str, str], str]]:
    """Questions for every picture, those of pictures by name, and the labels."""
    text = read_text(path, what="questions", remedy="give a .jsonl, .csv or .txt file")
    read = {".jsonl": _json_rows, ".ndjson": _json_rows, ".csv": _csv_rows}.get(path.suffix.lower(), _plain_rows)
    shared: list[str] = []
    named: dict[str, list[str]] = {}
    labels: dict[tuple[str, str], str] = {}
    for line, row in read(path, text):
        image, question = row.get("image"), row.get("question")
        if not (isinstance(question, str) and question.strip()):
            raise InputError(
                f'{path}, line {line}: no question: write {{"image": "a.png", "question": "What is this?"}}'
            )
        if not is_text(question):
            raise InputError(
                f"{path}, line {line}: the question holds half a character (a lone surrogate): write it out"
            )
        if image is not None and not isinstance(image, str):
            raise InputError(
                f"{path}, line {line}: image {image!r} is not a name: give the picture's path in the directory"
            )
        name, label = Path(image).as_posix() if image else "", row.get("answer")
        (named.setdefault(name, []) if image else shared).append(question.strip())
        if isinstance(label, str) and label.strip() and is_text(label):
            labels[name, question.strip()] = label.strip()
    if not (shared or named):
        raise InputError(f"{path} holds no question: write one a line")
    return shared, named, labels


def _plain_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield number, {"question": line}


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise InputError(
                f'{path}, line {number} is not a JSON object: write {{"image": "a.png", "question": "..."}}'
            )
        yield number, row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    rows = csv.DictReader(io.StringIO(text, newline=""))
    try:
        names, found = rows.fieldnames or (), [(rows.line_num, dict(row)) for row in rows]
    except csv.Error as error:
        raise InputError(f"{path}, line {rows.line_num + 1} is not CSV ({error}): mend it") from None
    if "question" not in names:
        raise InputError(f"{path} has no column 'question': its first line must name the columns image,question")
    yield from found
