"""What an engine process has done, counted, and left where the API server finds it.

vLLM answers ``/metrics`` in the API server, and runs towers in processes below it. An engine leaves its counts in a file of
the user's own directory for temporary files; ``metrics`` reads those of the processes that belong to its server.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from trimkit.serving.seconds import Seconds

__all__ = ["NUMBERS", "Counts", "counts_directory", "leave", "left_by", "own_directory", "sweep"]

_log = logging.getLogger("vllm.trimkit")


@dataclass
class Counts:
    """Since the engine's start.

    Attributes:
        image_tokens_before, image_tokens_after: image tokens of pictures that were chosen among.
        pictures, feature_cache_hits: all of them, and those whose tower features were there.
        fallbacks: images whose tokens were taken at equal distances because choosing failed.
        choosing_seconds: relevance and choice, a picture.
    """

    image_tokens_before: int = 0
    image_tokens_after: int = 0
    pictures: int = 0
    feature_cache_hits: int = 0
    fallbacks: int = 0
    choosing_seconds: Seconds = field(default_factory=Seconds)

    @classmethod
    def read(cls, said: dict[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        return cls(**{**said, "choosing_seconds": Seconds.read(said["choosing_seconds"])})

    def merge(self, other: Counts) -> None:
        """Count what ``other`` has counted."""
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.choosing_seconds.merge(other.choosing_seconds)


NUMBERS = tuple(each.name for each in fields(Counts) if each.name != "choosing_seconds")
"""Those of its fields that are whole numbers."""


def counts_directory() -> Path:
    """Of this user."""
    return Path(tempfile.gettempdir()) / f"trimkit-vllm-{os.getuid()}"


def own_directory(directory: Path | None = None) -> Path:
    """``directory``, or else ``counts_directory``, made where it is not there.

    Raises:
        OSError: it cannot be made, or is not this user's.
    """
    folder = directory or counts_directory()
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.lstat().st_uid != os.getuid():
        raise PermissionError(f"{folder} belongs to somebody else")
    return folder


def leave(counts: Counts, directory: Path | None = None) -> None:
    """Write the counts of this process, whole. What hinders that is logged once, and counts nothing."""
    try:
        folder = own_directory(directory)
        unfinished = folder / f"{os.getpid()}.unfinished"
        unfinished.write_text(json.dumps(asdict(counts)), encoding="utf-8")
        unfinished.replace(folder / f"{os.getpid()}.json")
    except OSError as error:
        _once(f"trimkit: metrics of the engine are not shown: {error}")


def left_by(processes: list[int], directory: Path | None = None) -> list[Counts]:
    """The counts that these processes have left; what cannot be read is left out."""
    found = []
    for process in processes:
        try:
            said = json.loads(((directory or counts_directory()) / f"{process}.json").read_text(encoding="utf-8"))
            found.append(Counts.read(said))
        except (OSError, ValueError, TypeError, KeyError):
            continue
    return found


def sweep(directory: Path | None = None) -> None:
    """Remove what processes have left that are no more."""
    for path in (directory or counts_directory()).glob("*.json"):
        try:
            os.kill(int(path.stem), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        except (OSError, ValueError):
            continue


_said: set[str] = set()


def _once(message: str) -> None:
    if message not in _said:
        _said.add(message)
        _log.warning(message)
