"""What was kept of a picture, on its way from the engine to the API server: a file that is taken away when it is read.

A report is asked for by a number that the API server makes up (``asked_number``), one picture of the request at a time.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from pathlib import Path
from typing import Any

from trimkit.serving.vllm.engine_counts import counts_directory, own_directory

__all__ = ["asked_number", "leave_report", "take_reports"]

_NUMBER = re.compile(r"[0-9a-f]{32}", re.ASCII)
_KEPT_SECONDS = 600.0  # of a report that nobody has come for


def asked_number(value: object) -> str | None:
    """``value`` where it can be the number of a report, else None."""
    return value if isinstance(value, str) and _NUMBER.fullmatch(value) else None


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


def take_reports(number: str, directory: Path | None = None) -> list[dict[str, Any]]:
    """Those of a request's pictures, in order; they are gone then. So are old ones that nobody has taken."""
    folder = directory or counts_directory()
    found = []
    for path in sorted(folder.glob(f"report-{number}-*.json"), key=lambda path: int(path.stem.rsplit("-", 1)[1])):
        with contextlib.suppress(OSError, ValueError):
            found.append(json.loads(path.read_text(encoding="utf-8")))
        path.unlink(missing_ok=True)
    oldest = time.time() - _KEPT_SECONDS
    for path in folder.glob("report-*"):
        with contextlib.suppress(OSError):
            if path.stat().st_mtime < oldest:
                path.unlink()
    return found
