"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trimkit.errors import InputError

__all__ = ["check_writable", "user_path", "write_atomically"]


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it, ``~`` included.

    Raises:
        InputError: nobody knows whose home directory it names.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{os.fspath(path)!r}: there is no such home directory: write the path out") from None


def check_writable(path: str | os.PathLike[str]) -> Path:
    """Where a file is to go, looked at before anything slow is done.

    Raises:
        InputError: it cannot be written there.
    """
    target = user_path(path)
    name = f"cannot write {str(target)[:200]!r}"
    try:
        if target.is_dir():
            raise InputError(f"{name}: it is a directory; give a file name in it")
        if target.exists() and not target.is_file():
            raise InputError(f"{name}: it is not a regular file; choose another place")
        if not target.parent.is_dir():
            raise InputError(f"{name}: there is no directory {str(target.parent)!r}; make it first")
        if not os.access(target.parent, os.W_OK):
            raise InputError(f"{name}: its directory is not yours to write; choose another place")
    except OSError as error:  # a name that is too long
        raise InputError(f"{name} ({error.strerror}): choose another place") from None
    return target


def write_atomically(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a new file beside ``target``, then rename it; on failure nothing is left behind.

    Raises:
        InputError: the directory or the disk refuses.
    """
    try:
        _write_and_rename(target.resolve(), write)  # a link stays, what it points to is replaced
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r} ({error.strerror or error}): choose another place") from None


def _write_and_rename(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    if target.exists() and not target.is_file():
        raise FileExistsError(f"{target} is not a regular file")
    handle, name = tempfile.mkstemp(prefix=".trimkit-", suffix=target.suffix, dir=target.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        temporary.chmod(0o644)  # mkstemp makes it private
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
