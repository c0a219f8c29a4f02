"""Which pictures a scorer was fitted on: marks of their pixels, kept beside it, so that nothing is proved on them later."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from trimkit.errors import InputError, ModelError
from trimkit.io.files import write_atomically
from trimkit.io.reading import read_json
from trimkit.io.text import json_text

__all__ = ["LONGEST_SIDE", "PICTURES_FILE", "picture_mark", "read_pictures", "write_pictures"]

LONGEST_SIDE = 1344
"""Pixels of the longer side that ``trimkit fit`` shrinks larger pictures to."""

PICTURES_FILE = "pictures.json"
_MARK = re.compile(r"[0-9a-f]{16}")


def picture_mark(image: Any) -> str:
    """16 hexadecimal digits by which a PIL image is known again, whatever its file is called.

    It is the same for a picture and for what ``trimkit fit`` shrinks it to. From a mark the picture cannot be told.
    """
    small = image.convert("RGB")  # a copy, whatever the mode
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    digest = hashlib.blake2b(f"{small.size}".encode(), digest_size=8)
    digest.update(small.tobytes())
    return digest.hexdigest()


def write_pictures(folder: Path, marks: Iterable[str]) -> None:
    """Into the folder of a scorer.

    Raises:
        InputError: the disk refuses.
    """
    text = json_text({"marks": sorted(set(marks))})
    write_atomically(folder / PICTURES_FILE, lambda file: file.write(text.encode()))


def read_pictures(folder: Path) -> frozenset[str] | None:
    """Marks of the pictures that the scorer in ``folder`` was fitted on; None where it does not say.

    Raises:
        ModelError: it says what cannot be.
    """
    path = folder / PICTURES_FILE
    if not path.is_file():
        return None
    try:
        marks = read_json(path, remedy="fit the scorer again")["marks"]
        if not all(_MARK.fullmatch(mark) for mark in marks):
            raise ValueError
    except (InputError, KeyError, TypeError, ValueError):
        raise ModelError(f"{path} does not name pictures that the scorer was fitted on: fit it again") from None
    return frozenset(marks)
