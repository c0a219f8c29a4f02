"""Directories that an export writes: whole or not at all, beside what is there."""

from __future__ import annotations

import contextlib
import fnmatch
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from trimkit.errors import ConfigError, InputError
from trimkit.io.files import resolved, user_path
from trimkit.io.leftovers import locked, sweep, temporary_name
from trimkit.io.reading import check_regular

__all__ = ["built", "copy_tree", "new_directory"]

_LEFT_OUT = (".git", ".cache", ".trimkit-*", "trimkit_engines")


def new_directory(path: str | Path | None, what: str) -> Path:
    """Where to write, resolved.

    Raises:
        ConfigError: none is given, or something is there.
    """
    if path is None or not str(path).strip():
        raise ConfigError(f"{what} needs a directory to be written to: give one")
    given = user_path(path)
    try:
        target = resolved(given)
    except InputError:
        raise ConfigError(f"{str(path)!r} is a loop of links: choose a new or an empty directory") from None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError(f"{str(path)!r} is there already: choose a new or an empty directory")
    parent = next(each for each in target.parents if each.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK):
        raise ConfigError(f"{str(path)!r} cannot be made: {str(parent)!r} is no directory that can be written to")
    return target


@contextlib.contextmanager
def built(target: Path) -> Iterator[Path]:
    """A directory beside ``target`` to fill; it gets that name at the end, or goes where something fails.

    What is left where this process is killed, the next one that writes here removes.
    """
    made = [each for each in target.parents if not each.exists()]
    temporary = target.parent / temporary_name()
    try:
        _make(temporary)
        with _locked_directory(temporary):
            yield temporary
            if target.exists():
                target.rmdir()  # empty, or this fails
            temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        with contextlib.suppress(OSError):  # another program has put something there
            for each in made:
                each.rmdir()
        raise


def _make(temporary: Path) -> None:
    """With the mode that the umask leaves; once more where another program has removed the parent, which it had made, too."""
    for last in (False, True):
        temporary.parent.mkdir(parents=True, exist_ok=True)
        try:
            sweep(temporary.parent)
            temporary.mkdir()
            return
        except FileNotFoundError:
            if last:
                raise


@contextlib.contextmanager
def _locked_directory(directory: Path) -> Iterator[None]:
    if os.name != "posix":  # others open no directories, and have nothing to sweep
        yield
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        with locked(handle):
            yield
    finally:
        os.close(handle)


def copy_tree(source: Path, target: Path) -> None:
    """Copy a checkpoint into an existing directory, as ``cp -r`` does: links as what they lead to, modes within the umask."""
    if source.is_symlink() and source.parent.resolve().is_relative_to(source.resolve()):
        raise ConfigError(f"{str(source)!r} is a link to a directory that it lies in: remove it from the checkpoint")
    for entry in sorted(source.iterdir()):
        copy = target / entry.name
        if any(fnmatch.fnmatch(entry.name, pattern) for pattern in _LEFT_OUT):
            continue
        if entry.is_dir():
            copy.mkdir()
            copy_tree(entry, copy)
            continue
        with check_regular(entry).open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode & 0o777 | 0o200
            handle = os.open(copy, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as out:
                shutil.copyfileobj(file, out, 2**22)
