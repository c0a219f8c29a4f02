"""Writing files so that no reader ever sees half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

__all__ = ["write_atomically"]


def write_atomically(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Call ``write`` on a new file beside ``target``, then rename it; on failure nothing is left behind.

    Raises:
        OSError: the directory or the disk refuses.
    """
    target = target.resolve()  # a link stays, what it points to is replaced
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
