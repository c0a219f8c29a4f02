"""What was kept of a picture, on its way from the engine to the API server: a file that is taken away when it is read.

A report is asked for by a number that the API server makes up (``new_number``), one picture of the request at a time. A client
that makes up one gets none: nobody would take it away.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
import uuid
from pathlib import Path
from typing import Any

from trimkit.core.recent import Recent
from trimkit.serving.vllm.engine_counts import counts_directory, own_directory

__all__ = ["asked_number", "leave_report", "new_number", "take_reports"]

_NUMBER = re.compile(r"[0-9a-f]{32}", re.ASCII)
_KEPT_SECONDS = 600.0  # of a report that nobody has come for
_LOOK_SECONDS = 30.0  # between two looks for such
_issued: Recent[str, bool] = Recent(4096)
_looked = [0.0]


def new_number() -> str:
    """A number for the report of one request."""
    number = uuid.uuid4().hex
    _issued.put(number, True)
    return number


def asked_number(value: object) -> str | None:
    """``value`` where it is a number that ``new_number`` has given in this process, else None."""
    return value if isinstance(value, str) and _NUMBER.fullmatch(value) and _issued.get(value) else None


def leave_report(place: str, content: dict[str, Any], directory: Path | None = None) -> None:
    """Write the report of one picture.

    Args:
        place: number of the report, a dash, and number of the picture.
        content: JSON.
        directory: where; by default, one of this user's own.

    Raises:
        OSError: it cannot be written.
    """
    folder = own_directory(directory)
    unfinished = folder / f"report-{place}.unfinished"
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(folder / f"report-{place}.json")
    if time.monotonic() - _looked[0] > _LOOK_SECONDS:
        _looked[0] = time.monotonic()
        _expire(folder)


def take_reports(number: str, directory: Path | None = None) -> list[dict[str, Any]]:
    """Those of a request's pictures, in order; they are gone then. So are old ones that nobody has taken."""
    folder = directory or counts_directory()
    found = []
    for path in sorted(folder.glob(f"report-{number}-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1])):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink(missing_ok=True)
    _expire(folder)
    return found


def _expire(folder: Path) -> None:
    oldest = time.time() - _KEPT_SECONDS
    for path in folder.glob("report-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
