"""What was left out of a user's pictures and questions, in lines."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from trimkit.io.text import one_line

__all__ = ["print_skipped"]

_MOST = 10  # with one reason, that are named


def print_skipped(skipped: Sequence[tuple[str, str]]) -> None:
    """``(name, reason)`` of what was left out, to stderr; of many with one reason the first few, and how many more."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in skipped:
        by_reason.setdefault(reason, []).append(name)
    for reason, names in by_reason.items():
        for name in names[:_MOST]:
            print(f"skipped {one_line(name)}: {one_line(reason)}", file=sys.stderr)
        if len(names) > _MOST:
            print(f"skipped {len(names) - _MOST} more: {one_line(reason)}", file=sys.stderr)
