"""What an engine process has done, counted, and left where the API server finds it.

vLLM answers ``/metrics`` in the API server, and runs towers in processes below it. An engine leaves its counts in a file of
the user's own directory for temporary files; ``metrics`` reads those of the processes that belong to its server.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["Counts", "counts_directory", "leave", "left_by", "sweep"]

_log = logging.getLogger("vllm.trimkit")


@dataclass
class Counts:
    """Since the engine's start.

    Attributes:
        tokens_before, tokens_after: image tokens of pictures that were chosen among.
        pictures_encoded, pictures_held: pictures that ran through the tower, and whose features were there.
        choosing_seconds: spent on relevance and choice.
        fallbacks: images whose tokens were taken at equal distances because choosing failed.
    """

    tokens_before: int = 0
    tokens_after: int = 0
    pictures_encoded: int = 0
    pictures_held: int = 0
    choosing_seconds: float = 0.0
    fallbacks: int = 0


def counts_directory() -> Path:
    """Of this user."""
    return Path(tempfile.gettempdir()) / f"trimkit-vllm-{os.getuid()}"


def leave(counts: Counts, directory: Path | None = None) -> None:
    """Write the counts of this process, whole. What hinders that is logged once, and counts nothing."""
    folder = directory or counts_directory()
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        if folder.lstat().st_uid != os.getuid():
            raise PermissionError(f"{folder} belongs to somebody else")
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
            found.append(Counts(**said))
        except (OSError, ValueError, TypeError):
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
