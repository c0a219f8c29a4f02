"""Hidden files and directories that are filled, then renamed: one that a killed process left is known by its name, and removed.

A name ends in digits that are computed from the rest, so that nobody else's file has one; and the process that fills it holds a
lock on it, which the system takes back when that process ends, in whatever way.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import stat
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

__all__ = ["locked", "sweep", "temporary_name"]

_NAME = re.compile(r"\.trimkit-([0-9a-f]{16})-([0-9a-f]{8})")
_SETTLED = 5.0  # seconds: between its making and its lock, somebody else's is not to be taken for a leftover


def temporary_name() -> str:
    """A name that nothing has yet, and that ``sweep`` knows."""
    token = secrets.token_hex(8)
    return f".trimkit-{token}-{_check(token)}"


@contextlib.contextmanager
def locked(handle: int) -> Iterator[None]:
    """Hold the lock of an open file or directory; where the file system has no locks, nothing there is ever swept."""
    with contextlib.suppress(ImportError, OSError):
        import fcntl

        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield


def sweep(directory: Path) -> list[Path]:
    """Remove what processes that have ended left in ``directory``; returns what was removed.

    Only a user's own files with a ``temporary_name``, which nobody holds locked. What cannot be removed stays.
    """
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        return []
    removed = []
    with contextlib.suppress(OSError):
        for path in [Path(entry.path) for entry in os.scandir(directory) if _is_ours(entry)]:
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails where its process lives
                    _remove(path, stat.S_ISDIR(os.fstat(handle).st_mode))
                    removed.append(path)
                finally:
                    os.close(handle)
    return removed


def _is_ours(entry: os.DirEntry[str]) -> bool:
    found = _NAME.fullmatch(entry.name)
    if found is None or found[2] != _check(found[1]) or entry.is_symlink():
        return False
    status = entry.stat(follow_symlinks=False)
    return status.st_uid == os.getuid() and time.time() - status.st_ctime > _SETTLED


def _remove(path: Path, is_directory: bool) -> None:
    if is_directory:
        shutil.rmtree(path)
    else:
        path.unlink()


def _check(token: str) -> str:
    return f"{zlib.crc32(b'trimkit' + token.encode()):08x}"
