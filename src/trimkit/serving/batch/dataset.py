"""Rows of a data set, one at a time: a JSONL or Parquet file, or a directory of pictures."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimkit.errors import ConfigError, InputError, MissingDependencyError
from trimkit.io.files import user_path
from trimkit.io.text import is_text, parse_json

__all__ = ["PICTURES", "BadRow", "Row", "count_rows", "read_rows"]

PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".tif", ".tiff")
"""Endings of the files that a directory is read for."""

_MAX_LINE = 64 * 2**20  # bytes; a row may hold its picture


@dataclass(frozen=True)
class Row:
    """One request to be.

    Attributes:
        index: its place in the data set, from 0.
        id: its name: the field ``id``, a picture's path in a directory, else the index.
        images: what to show, in order: a path, an http(s) address, a ``data:`` address, or the bytes of a picture file.
        question: what to ask.
    """

    index: int
    id: str
    images: tuple[Path | str | bytes, ...]
    question: str


@dataclass(frozen=True)
class BadRow:
    """A row that says nothing that could be asked, and why."""

    index: int
    id: str
    reason: str


def read_rows(source: str | Path, question: str | None = None) -> Iterator[Row | BadRow]:
    """Rows in the order of the data set. No picture is opened, and only a few rows are in memory.

    Args:
        source: a ``.jsonl`` file (a JSON object a line) or a ``.parquet`` file (needs pyarrow), each with ``image`` or
            ``images``, ``question`` and, where there is one, ``id``; or a directory, whose pictures are taken by name, those of
            its directories included. A picture is a path (relative to the data set's file), an http(s) or ``data:`` address, or
            in Parquet the bytes of a picture file, alone or as ``{"bytes": ..., "path": ...}``. Other fields are left aside.
        question: for rows that have none.

    Raises:
        ConfigError: there is no such file or directory, it is of another kind, it has no pictures, a directory comes without
            a question, or the question is no text.
        MissingDependencyError: pyarrow is not installed.
    """
    path = user_path(source)
    if not is_text(question or ""):
        raise ConfigError("the question is not UTF-8 text: write it again")
    if path.is_dir():
        return _of_directory(path, question)
    if not path.is_file():
        raise ConfigError(f"there is no data set {str(source)!r}: give a .jsonl or .parquet file, or a directory")
    if path.suffix.lower() == ".jsonl":
        return _of_lines(path, question)
    if path.suffix.lower() == ".parquet":
        return _of_parquet(path, question)
    raise ConfigError(f"data set {str(source)!r} is neither .jsonl nor .parquet: rename or convert it")


def count_rows(source: str | Path) -> int:
    """About how many rows ``read_rows`` will give, for a progress bar; blank lines are counted, no line is parsed.

    Raises:
        ConfigError, MissingDependencyError: as ``read_rows``.
    """
    path = user_path(source)
    if path.is_dir():
        return len(_pictures_in(path))
    if path.suffix.lower() == ".parquet":
        return int(_open_parquet(path).metadata.num_rows)
    count, ended = 0, True
    with path.open("rb") as file:
        while piece := file.read(_MAX_LINE // 64):
            count += piece.count(b"\n")
            ended = piece.endswith(b"\n")
    return count + (not ended)


def _pictures_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES and path.is_file())


def _of_directory(folder: Path, question: str | None) -> Iterator[Row]:
    if question is None:
        raise ConfigError(f"{str(folder)!r} is a directory, which holds no questions: give one for all with --question")
    found = _pictures_in(folder)
    if not found:
        raise ConfigError(f"{str(folder)!r} holds no pictures ({', '.join(PICTURES)}): give another directory")
    return (Row(index, path.relative_to(folder).as_posix(), (path,), question) for index, path in enumerate(found))


def _of_lines(path: Path, question: str | None) -> Iterator[Row | BadRow]:
    with path.open("rb") as file:
        index = 0
        while line := file.readline(_MAX_LINE):
            if not line.strip():
                continue
            if len(line) == _MAX_LINE and not line.endswith(b"\n"):
                while (rest := file.readline(_MAX_LINE)) and not rest.endswith(b"\n"):
                    pass
                yield BadRow(index, str(index), f"a line of more than {_MAX_LINE / 2**20:g} MiB: name the file instead")
            else:
                yield _of_line(line, index, path.parent, question)
            index += 1


def _of_line(line: bytes, index: int, base: Path, question: str | None) -> Row | BadRow:
    try:
        fields = parse_json(line.decode("utf-8-sig"))
    except (ValueError, json.JSONDecodeError) as error:
        return BadRow(index, str(index), f"not a line of JSON ({str(error).splitlines()[0][:120]})")
    if not isinstance(fields, dict):
        return BadRow(index, str(index), "not a JSON object")
    return _row(fields, index, base, question)


def _of_parquet(path: Path, question: str | None) -> Iterator[Row | BadRow]:
    file = _open_parquet(path)
    known = {"id", "image", "images", "question"}
    columns = [name for name in file.schema_arrow.names if name in known]
    return _of_batches(file, columns, path, question)


def _open_parquet(path: Path) -> Any:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise MissingDependencyError("reading Parquet needs pyarrow: pip install pyarrow") from None
    try:
        return parquet.ParquetFile(path)
    except (ArrowException, OSError) as error:
        raise ConfigError(f"data set {str(path)!r} is no Parquet file ({str(error)[:120]}): write it again") from None


def _of_batches(file: Any, columns: list[str], path: Path, question: str | None) -> Iterator[Row | BadRow]:
    from pyarrow import ArrowException

    index, batches = 0, file.iter_batches(batch_size=64, columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except (ArrowException, OSError, ValueError) as error:
            said = str(error).splitlines()[0][:120] if str(error) else type(error).__name__
            raise ConfigError(
                f"data set {str(path)!r} is damaged behind row {index} ({said}): write it again"
            ) from None
        if batch is None:
            return
        for number in range(batch.num_rows):
            yield _of_cells(batch, number, index, path.parent, question)
            index += 1


def _of_cells(batch: Any, number: int, index: int, base: Path, question: str | None) -> Row | BadRow:
    """One row, of which a cell may hold what Python has no value for."""
    from pyarrow import ArrowException

    fields = {}
    for name in batch.schema.names:
        try:
            fields[name] = batch.column(name)[number].as_py()
        except (ArrowException, ValueError, OverflowError, LookupError) as error:
            return BadRow(index, str(index), f"{name} cannot be read ({type(error).__name__})")
    return _row(fields, index, base, question)


def _row(fields: Mapping[str, Any], index: int, base: Path, question: str | None) -> Row | BadRow:
    name = str(index) if fields.get("id") is None else str(fields["id"])
    name = name if is_text(name) else str(index)
    try:
        images = fields.get("images") if fields.get("images") is not None else fields.get("image")
        given = images if isinstance(images, list) else [] if images is None else [images]
        asked = question if fields.get("question") is None else fields["question"]
        if not isinstance(asked, str) or not asked.strip():
            raise InputError("no question: add the field 'question', or give one for all")
        if not is_text(asked):
            raise InputError("the question is no text, it holds half a letter: write it again")
        return Row(index, name, tuple(_picture(each, base) for each in given), asked)
    except InputError as error:
        return BadRow(index, name, str(error))


def _picture(given: object, base: Path) -> Path | str | bytes:
    if isinstance(given, dict):  # how the data sets library stores a picture
        given = given.get("bytes") or given.get("path")
    if isinstance(given, bytes) and given:
        return given
    if not isinstance(given, str) or not given:
        raise InputError(f"a picture is a {type(given).__name__}: give a path, an address, or the bytes of a file")
    return given if given.lower().startswith(("http://", "https://", "data:")) else base / user_path(given)
