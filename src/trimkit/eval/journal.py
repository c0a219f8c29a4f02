"""A journal of finished rows: an evaluation that was killed goes on where it was, without a row lost or counted twice.

A file of JSON lines, only ever appended to. Line 1 holds the settings that all rows share; every other line is one row, with
its task, its id and the hash of the settings. Every line ends in a checksum of itself, so that a damaged one is named and never
taken for a result; journals of earlier versions, without checksums, are read and written on. A batch is on the disk (fsync)
before ``add`` returns, and counts whole or not at all, so that after an interruption the same batches are run as would have
been without it.

    with Journal("run.jsonl", {"model": "demo", "seed": 1}) as journal:
        for batch in batches:
            todo = [row for row in batch if journal.get("scenes", row.id) is None]
            journal.add("scenes", {row.id: {"right": True} for row in todo})
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from trimkit.errors import ConfigError, InputError
from trimkit.io.files import check_writable, user_path
from trimkit.io.reading import check_regular
from trimkit.io.summed_lines import summed, unsummed
from trimkit.io.text import parse_json

__all__ = ["Journal", "check_journal", "fingerprint"]

_FORMAT = "trimkit-journal-1"
_BEGINS = b'{"journal": "trimkit-journal-'
_ROW_KEYS = {"task", "id", "config", "row", "more"}
_MAX_BYTES = 8 * 2**30


def fingerprint(settings: Any) -> str:
    """Twelve hex digits that tell JSON-like settings apart; the order of keys does not count."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


def check_journal(
    path: str | os.PathLike[str] | None, inputs: Iterable[str | os.PathLike[str] | None] = ()
) -> Path | None:
    """Where a journal is or is to be, looked at before anything slow is done; None where there is to be none.

    Raises:
        InputError: it cannot be written there, is no regular file, or is one of ``inputs``, by whatever links.
    """
    if path is None:
        return None
    target = user_path(path)
    try:
        return check_writable(target, inputs, append=True)
    except InputError as error:
        raise InputError(str(error).replace("cannot write", "cannot write the journal", 1)) from None


class Journal:
    """Rows by (task, id), in one file that outlives the process.

    Args:
        path: the file; made where it is not there.
        config: what has to be the same for a row to be used again: model, seed, versions, ... JSON-like. What differs between
            the arms of one run (method, budget) belongs into the task instead, for example by its ``fingerprint``.

    Raises:
        ConfigError: the file was written with other settings; the message names the first that differs.
        InputError: it is no journal, is damaged before its end, is in use, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], config: Mapping[str, Any]) -> None:
        self.path = check_journal(path) or user_path(path)
        self.config: dict[str, Any] = json.loads(json.dumps(config, sort_keys=True))
        self._hash = fingerprint(self.config)
        self._rows: dict[tuple[str, str], dict[str, Any]] = {}
        self._has_sums = True  # an earlier version's has not
        if self.path.exists():
            check_regular(self.path, _MAX_BYTES)
        try:
            self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 (held open, and locked, until close)
        except OSError as error:
            raise InputError(
                f"cannot write the journal {str(self.path)!r} ({error.strerror}): choose another place"
            ) from None
        try:
            self._lock()
            self._load()
        except BaseException:
            self._file.close()
            raise

    def get(self, task: str, row_id: str | int) -> dict[str, Any] | None:
        """What was added for a row; None where it is still to be done."""
        return self._rows.get((task, str(row_id)))

    def add(self, task: str, rows: Mapping[Any, Mapping[str, Any]]) -> None:
        """Write a batch of finished rows, by their id; they are on the disk when this returns.

        Raises:
            InputError: one of them is there already, or the disk refuses (what was written of the batch does not count).
        """
        lines = []
        for number, (row_id, row) in enumerate(rows.items(), start=1):
            key = (task, str(row_id))
            if key in self._rows:
                raise InputError(
                    f"row {row_id} of {task} is in the journal {str(self.path)!r} already: it would count twice"
                )
            line: dict[str, Any] = {"task": task, "id": str(row_id), "config": self._hash, "row": dict(row)}
            lines.append(line | ({"more": True} if number < len(rows) else {}))
        self._append(lines)
        for line in lines:
            self._rows[(task, line["id"])] = json.loads(json.dumps(line["row"]))

    def __len__(self) -> int:
        return len(self._rows)

    def close(self) -> None:
        """Close the file, which ends the lock on it."""
        self._file.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _lock(self) -> None:
        """One writer at a time; the system takes the lock back from a process that died."""
        try:
            import fcntl
        except ImportError:  # not a POSIX system
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InputError(
                f"the journal {str(self.path)!r} is in use by another run: wait for it, or give another file"
            ) from None

    def _load(self) -> None:
        """Read what is whole, and cut off what the last interruption left half written."""
        self._file.seek(0)
        start = self._file.read(len(_BEGINS))
        if not _BEGINS.startswith(start):
            raise self._no_journal()  # somebody's file, which may be one line of gigabytes
        self._file.seek(0)
        good, pending, position = 0, [], 0
        for number, raw in enumerate(self._file, start=1):
            position += len(raw)
            if not raw.endswith(b"\n"):  # torn: the write did not get to its end
                break
            line = self._parse(raw, number)
            if number == 1:
                self._check_head(line)
                good = position
                continue
            pending.append(self._checked(line, number))
            if not line.get("more"):
                for key, row in pending:
                    if key in self._rows:
                        raise InputError(
                            f"the journal {str(self.path)!r} has row {key[1]} of {key[0]} twice: start a new one"
                        )
                    self._rows[key] = row
                pending, good = [], position
        self._file.truncate(good)
        if good == 0:
            self._has_sums = True
            self._append([{"journal": _FORMAT, "sums": "crc32", "config": self._hash, "settings": self.config}])
            _sync_directory(self.path.parent)

    def _parse(self, raw: bytes, number: int) -> dict[str, Any]:
        try:
            line = parse_json(raw.decode())
        except ValueError:
            line = None
        if number == 1:
            self._has_sums = unsummed(raw) is not None or b'"sums"' in raw
        if not isinstance(line, dict) or not self._is_whole(line, raw, number):
            raise self._damaged(number)
        return line

    def _is_whole(self, line: dict[str, Any], raw: bytes, number: int) -> bool:
        """Whether a line is what was written: by its checksum, or, of an earlier version's, by its keys."""
        found = unsummed(raw)
        if found is not None:
            return found[1]
        return not self._has_sums and (number == 1 or set(line) <= _ROW_KEYS)

    def _damaged(self, number: int) -> InputError:
        if number == 1:
            return InputError(f"line 1 of {str(self.path)!r} is damaged, or it is no journal: give another file")
        return InputError(
            f"line {number} of {str(self.path)!r} is damaged: delete that line to have its question asked again, or give "
            "another file"
        )

    def _check_head(self, line: dict[str, Any]) -> None:
        settings = line.get("settings")
        if line.get("journal") != _FORMAT or not isinstance(settings, dict):
            raise self._no_journal()
        for name in sorted({*settings, *self.config}):
            before, now = settings.get(name), self.config.get(name)
            if before != now:
                raise ConfigError(
                    f"the journal {str(self.path)!r} was written with {name} {_short(before)}, this run has {_short(now)}: "
                    "give the same settings, or another file"
                )

    def _no_journal(self) -> InputError:
        return InputError(f"{str(self.path)!r} is not a trimkit journal: give another file, or a new one")

    def _checked(self, line: dict[str, Any], number: int) -> tuple[tuple[str, str], dict[str, Any]]:
        task, row_id, row = line.get("task"), line.get("id"), line.get("row")
        if not (isinstance(task, str) and isinstance(row_id, str) and isinstance(row, dict)):
            raise InputError(f"line {number} of {str(self.path)!r} is not a journal's row: give another file")
        if line.get("config") != self._hash:
            raise ConfigError(f"line {number} of {str(self.path)!r} was written with other settings: give another file")
        return (task, row_id), row

    def _append(self, lines: list[dict[str, Any]]) -> None:
        left = b"".join(_written(line) for line in lines)
        end = self._file.seek(0, os.SEEK_END)
        file = self._file.fileno()  # past the buffer, which would keep what the disk refused and write it later
        try:
            while left:
                left = left[os.write(file, left) :]
            os.fsync(file)
        except OSError as error:
            os.ftruncate(file, end)
            raise InputError(
                f"cannot write the journal {str(self.path)!r} ({error.strerror}): free space, then go on"
            ) from None


def _written(line: dict[str, Any]) -> bytes:
    """One line with its checksum as its last key."""
    try:
        return summed(json.dumps(line, ensure_ascii=False).encode())
    except UnicodeEncodeError:  # lone surrogates
        return summed(json.dumps(line).encode())


def _sync_directory(directory: Path) -> None:
    """Make a new file's name as durable as its content."""
    if os.name != "posix":
        return
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."
