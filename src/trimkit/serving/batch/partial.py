"""``OUTPUT.part``: the first lines of a batch's output while it runs, and what a later run needs to go on."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trimkit.errors import ConfigError, InputError
from trimkit.io.summed_lines import summed, unsummed
from trimkit.io.text import parse_json

__all__ = ["PartialOutput", "finished_lines"]

_FORMAT = "trimkit-batch-2"
_BEGINS = f'{{"format": "{_FORMAT}"'.encode()


class PartialOutput:
    """One open partial output; a context manager. Line 1 holds the settings; a last line without its end is cut off.

    Every line ends with a checksum, which the output does not have.

    Args:
        target: the output that it is to become.
        settings: what the run asks with.

    Raises:
        ConfigError: it is there and was written with other settings, is no partial output, is damaged, or another run writes
            on it.
        InputError: it cannot be opened.
    """

    def __init__(self, target: Path, settings: Mapping[str, Any]) -> None:
        self.path = target.with_name(f"{target.name}.part")
        self._head = {"format": _FORMAT, "settings": json.loads(json.dumps(settings))}
        mode = target.stat().st_mode & 0o666 if target.exists() else 0o666  # a private output stays private
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
        try:
            self._file: IO[bytes] = os.fdopen(os.open(self.path, flags, mode), "r+b")
        except OSError as error:
            raise InputError(f"cannot write {str(self.path)!r} ({error.strerror}): choose another place") from None
        try:
            if not stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):
                raise self._foreign()
            self._lock()
            self._begin()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> PartialOutput:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self) -> Iterator[dict[str, Any]]:
        """The lines that were there at the start.

        Raises:
            ConfigError: one of them is not what was written.
        """
        with self.path.open("rb") as file:
            file.readline()
            while file.tell() < self._known:
                yield _object(_whole(file.readline(), self.path), self.path)

    def add(self, line: Mapping[str, Any]) -> None:
        """Write one more line, which a killed process leaves there.

        Raises:
            InputError: the disk refuses.
        """
        try:
            self._file.write(_summed(line))
            self._file.flush()
        except OSError as error:
            raise InputError(f"cannot write {str(self.path)!r} ({error.strerror}): free space there") from None

    def copy_to(self, file: IO[bytes]) -> None:
        """Its rows, without their checksums."""
        self._file.seek(0)
        self._file.readline()
        for line in self._file:
            file.write(_whole(line, self.path))

    def remove(self) -> None:
        """It has become the output."""
        self.path.unlink(missing_ok=True)

    def _lock(self) -> None:
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another run writes {str(self.path)!r}: wait for it, or write to another file") from None
        except OSError:  # a file system without locks
            return

    def _begin(self) -> None:
        start = self._file.read(len(_BEGINS))
        if not _BEGINS.startswith(start):
            raise self._foreign()  # somebody's file, which may be one line of gigabytes
        self._file.seek(0)
        first = self._file.readline()
        if not first.endswith(b"\n"):  # new, or killed before its first line was whole
            self._file.seek(0)
            self._file.truncate()
            self._file.write(_summed(self._head))
            self._file.flush()
            self._known = self._file.tell()
            return
        found = _object(_whole(first, self.path), self.path)
        if found != self._head:
            raise ConfigError(
                f"{str(self.path)!r} was begun with other settings ({_difference(found, self._head)}): give those, remove it, "
                "or write to another file"
            )
        self._known = self._file.tell()
        for line in self._file:
            if line.endswith(b"\n"):
                self._known += len(line)
        self._file.seek(self._known)
        self._file.truncate()

    def _foreign(self) -> ConfigError:
        return ConfigError(f"{str(self.path)!r} is no partial output of a batch: move it away")


def finished_lines(target: Path) -> Iterator[dict[str, Any]]:
    """The lines of a finished output.

    Raises:
        ConfigError: one of them is no JSON object.
    """
    with target.open("rb") as file:
        for line in file:
            yield _object(line, target)


def _summed(line: Mapping[str, Any]) -> bytes:
    """A line with its checksum as its last key."""
    return summed(json.dumps(line, ensure_ascii=True).encode())


def _whole(line: bytes, path: Path) -> bytes:
    """A line without its checksum."""
    found = unsummed(line)
    if found is None or not found[1]:
        raise ConfigError(f"{str(path)!r} holds a line that is not what was written: it is damaged, remove it")
    return found[0] + b"\n"


def _object(line: bytes, path: Path) -> dict[str, Any]:
    try:
        found = parse_json(line.decode())
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise ConfigError(f"{str(path)!r} holds a line that is no JSON object: it is damaged, remove it")
    return found


def _difference(found: Mapping[str, Any], head: Mapping[str, Any]) -> str:
    before, now = found.get("settings"), head["settings"]
    before = before if isinstance(before, dict) else {}
    name = next((key for key in now if before.get(key) != now[key]), "other fields")
    return f"{name}: {before.get(name)!r}, now {now.get(name)!r}"
