"""Writing files: looked at before the work, never over what is read, and so that no reader sees half of one."""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from trimkit.errors import InputError
from trimkit.io.leftovers import locked, sweep, temporary_name

__all__ = ["check_writable", "resolved", "same_file", "user_path", "write_atomically"]


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a user writes it, ``~`` included.

    Raises:
        InputError: nobody knows whose home directory it names, or no file can have that name.
    """
    text = os.fspath(path)
    try:
        if "\0" in text:
            raise ValueError
        os.fsencode(text)
        return Path(path).expanduser()
    except RuntimeError:
        raise InputError(f"{text!r}: there is no such home directory: write the path out") from None
    except ValueError:  # a zero byte, or letters that the file system's encoding does not have
        raise InputError(f"{text!r} is not a path: no file can have that name") from None


def resolved(path: Path) -> Path:
    """Absolute, without links.

    Raises:
        InputError: it is a loop of links.
    """
    try:
        return path.resolve()
    except RuntimeError:  # until Python 3.12; later ones leave the loop as it is
        raise InputError(f"{str(path)!r} is a loop of links: give another path") from None


def same_file(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> bool:
    """Whether two names lead to one file, by whatever links; of files that are not there yet, to one place."""
    first, second = user_path(one), user_path(other)
    with contextlib.suppress(OSError):
        return os.path.samefile(first, second)
    return os.path.realpath(first) == os.path.realpath(second)


def check_writable(
    path: str | os.PathLike[str], inputs: Iterable[str | os.PathLike[str] | None] = (), *, append: bool = False
) -> Path:
    """Where a file is to go, looked at before anything slow is done. Nothing is left there.

    Args:
        path: a new file, or one to replace. A link is followed: what it points to is replaced.
        inputs: files that the same command reads or writes; ``path`` must be none of them, by whatever links. None is skipped.
        append: the file is not replaced but written on.

    Raises:
        InputError: it cannot be written there, is one of ``inputs``, is marked read-only, or is a link that leads nowhere.
    """
    target = user_path(path)
    name = f"cannot write {str(target)!r}"
    try:
        if target.is_symlink() and not target.exists():
            raise InputError(f"{name}: it is a link that leads nowhere; remove it, or choose another place")
        if target.is_dir():
            raise InputError(f"{name}: it is a directory; give a file name in it")
        if target.exists() and not target.is_file():
            raise InputError(f"{name}: it is not a regular file; choose another place")
        for each in inputs:
            if each is not None and same_file(target, each):
                raise InputError(
                    f"{name}: the command uses {os.fspath(each)!r}, which is that file; choose another place"
                )
        place = Path(os.path.realpath(target))
        if not place.parent.is_dir():
            raise InputError(f"{name}: there is no directory {str(target.parent)!r}; make it first")
        if place.exists() and (not os.access(place, os.W_OK) or not place.stat().st_mode & 0o222):
            raise InputError(f"{name}: it is read-only; make it writable, or choose another place")
        if not (append and place.exists()):
            _try_directory(place, name)
    except OSError as error:  # a name that is too long, a loop of links
        raise InputError(f"{name} ({error.strerror}): choose another place") from None
    return target


def _try_directory(place: Path, name: str) -> None:
    if not os.access(place.parent, os.W_OK):
        raise InputError(f"{name}: its directory is not yours to write; choose another place")
    with contextlib.suppress(FileNotFoundError):
        os.stat(place)  # a name that is too long is found here
    with tempfile.TemporaryFile(dir=place.parent):  # some file systems take no new file, whatever the permissions say
        pass


def write_atomically(target: Path, write: Callable[[IO[bytes]], object], *, follow: bool = True) -> None:
    """Call ``write`` on a new file beside ``target``, then rename it; on failure nothing is left behind.

    A new file gets the mode that the umask leaves; one that is replaced keeps its mode, and its owner where possible.

    Args:
        target: the file.
        write: gets the open file.
        follow: of a link, replace what it points to; False replaces the link.

    Raises:
        InputError: the directory or the disk refuses.
    """
    try:
        _write_and_rename(resolved(target) if follow else target, write)
    except OSError as error:
        raise InputError(f"cannot write {str(target)!r} ({error.strerror or error}): choose another place") from None


def _write_and_rename(target: Path, write: Callable[[IO[bytes]], object]) -> None:
    before = None
    with contextlib.suppress(FileNotFoundError):
        before = os.lstat(target)
    if before is not None and not (stat.S_ISREG(before.st_mode) or stat.S_ISLNK(before.st_mode)):
        raise FileExistsError("it is not a regular file")
    kept = before if before is not None and stat.S_ISREG(before.st_mode) else None
    if kept is not None and not kept.st_mode & 0o222:
        raise PermissionError("it is read-only")
    sweep(target.parent)
    temporary = target.parent / temporary_name()
    # The system takes the umask off; a file that is to be private again is private from its first byte on.
    handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600 if kept is not None else 0o666)
    try:
        with os.fdopen(handle, "wb") as file, locked(handle):
            write(file)
            file.flush()
            if kept is not None:
                _take_over(handle, kept)
            if os.name == "posix":  # while it is locked
                temporary.replace(target)
                return
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _take_over(handle: int, kept: os.stat_result) -> None:
    """Owner and mode of the file that is replaced; the owner first, since a change of it takes bits off the mode."""
    now = os.fstat(handle)
    if not hasattr(os, "fchown"):  # not a POSIX system
        return
    if (now.st_uid, now.st_gid) != (kept.st_uid, kept.st_gid):
        with contextlib.suppress(PermissionError):
            os.fchown(handle, kept.st_uid, kept.st_gid)
    os.fchmod(handle, stat.S_IMODE(kept.st_mode) & 0o777)
