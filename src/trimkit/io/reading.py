"""Reading a user's files: regular ones only, up to a size, as UTF-8. Every small file that a user names is opened here."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trimkit.errors import InputError
from trimkit.io.files import user_path
from trimkit.io.text import parse_json

__all__ = ["MAX_TEXT", "check_checkpoint", "check_regular", "checkpoint_files", "read_bytes", "read_json", "read_text"]

MAX_TEXT = 64 * 2**20
"""Default limit in bytes on a file that is read as a whole."""

# Names of the JSON files that save_pretrained and trimkit write; others in a checkpoint's directory are the user's.
_CHECKPOINT_JSON = (
    *("config.json", "tokenizer.json", "index.json", "_map.json", "added_tokens.json", "vocab.json"),
    *("trimkit.json", "chat_template.json", "scorer.json", "fit.json"),
)
_MAX_CHECKPOINT_TEXT = 512 * 2**20  # the largest tokenizer.json there are have some 40 MiB


def check_regular(path: str | os.PathLike[str], limit: int | None = None) -> Path:
    """The path of a file that can be read to an end: no pipe, no device, no directory, and not over ``limit`` bytes.

    Raises:
        InputError: it is something else, or is not there.
    """
    found = user_path(path)
    try:
        _check_status(os.stat(found), limit)
    except OSError as error:
        raise _unreadable(found, error) from None
    return found


def read_bytes(
    path: str | os.PathLike[str], limit: int = MAX_TEXT, *, what: str = "", remedy: str = "give another file"
) -> bytes:
    """The content of a regular file.

    Args:
        path: as a user writes it.
        limit: on its size, in bytes.
        what, remedy: of the error line: what the file was to be, and what to do.

    Raises:
        InputError: there is none, it is no regular file, it may not be read, or it holds more than ``limit`` bytes.
    """
    found = user_path(path)
    try:
        # Not blocking: the opening of a pipe would wait for its writer, before anything can be asked about it.
        handle = os.open(found, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
        with open(handle, "rb") as file:
            _check_status(os.fstat(handle), limit)
            content = file.read(limit + 1) or b""
        if len(content) > limit:  # a file of /proc says that it has no bytes
            raise _too_large(limit)
    except OSError as error:
        raise _unreadable(found, error, what, remedy) from None
    return content


def read_text(
    path: str | os.PathLike[str], limit: int = MAX_TEXT, *, what: str = "", remedy: str = "give another file"
) -> str:
    """The content of a regular UTF-8 file, without a byte order mark; takes what ``read_bytes`` takes.

    Raises:
        InputError: as ``read_bytes``, or it is not UTF-8.
    """
    content = read_bytes(path, limit, what=what, remedy=remedy)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _unreadable(
            user_path(path), OSError(f"not UTF-8 text from byte {error.start} on"), what, remedy
        ) from None


def read_json(
    path: str | os.PathLike[str], limit: int = MAX_TEXT, *, what: str = "", remedy: str = "give another file"
) -> Any:
    """What a JSON file says, see ``parse_json``; takes what ``read_bytes`` takes.

    Raises:
        InputError: as ``read_text``, or it is no JSON, nested too deep, or holds too large a number.
    """
    text = read_text(path, limit, what=what, remedy=remedy)
    try:
        return parse_json(text)
    except ValueError as error:
        raise _unreadable(user_path(path), OSError(str(error).strip().splitlines()[0]), what, remedy) from None


def check_checkpoint(directory: Path) -> None:
    """Refuse a checkpoint directory with a file that never ends: a pipe or a device, or one named like text and too large.

    Raises:
        InputError: there is one, or the directory cannot be read.
    """
    for path in _files(directory):
        try:
            limit = _MAX_CHECKPOINT_TEXT if path.suffix in (".json", ".txt", ".jinja") else None
            _check_status(os.stat(path), limit)
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ELOOP):  # a link that leads nowhere is not read, either
                raise _unreadable(path, error, remedy="remove it from the checkpoint") from None


def checkpoint_files(directory: Path) -> list[Path]:
    """Files that a checkpoint is read from; a result that somebody has put beside them is none."""
    return [path for path in _files(directory) if path.suffix != ".json" or path.name.endswith(_CHECKPOINT_JSON)]


def _files(directory: Path) -> Iterator[Path]:
    """Files of a directory and of those in it, hidden ones left out: no checkpoint goes deeper."""
    try:
        for folder, names, files in os.walk(directory):
            deeper = Path(folder) == directory
            names[:] = [name for name in names if deeper and not name.startswith(".")]
            yield from (Path(folder, name) for name in files)
    except OSError as error:
        raise _unreadable(directory, error) from None


def _check_status(status: os.stat_result, limit: int | None) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise OSError("it is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is not a regular file")
    if limit is not None and status.st_size > limit:
        raise _too_large(limit)


def _too_large(limit: int) -> OSError:
    return OSError(f"it is larger than {limit / 2**20:g} MiB")


def _unreadable(path: Path, error: OSError, what: str = "", remedy: str = "give another file") -> InputError:
    name = f"{what} {str(path)!r}".strip()
    return InputError(f"cannot read {name} ({error.strerror or error}): {remedy}")
