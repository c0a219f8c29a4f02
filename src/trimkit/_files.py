"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from trimkit.errors import InputError

__all__ = ["write_atomically"]


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
