"""What pydantic refuses, as one line that a user can read: the alternatives of a union are one message, not its first."""

from __future__ import annotations

import itertools
from typing import Any

from pydantic import ValidationError

__all__ = ["first_fault"]

_SHOULD = "Input should be "


def first_fault(error: ValidationError) -> tuple[str, str, str]:
    """The first field that is refused.

    Returns:
        Its dotted name (empty for the whole), what is wrong with it, and pydantic's type of the fault.
    """
    faults: list[Any] = error.errors()
    first = faults[0]
    group = [fault for fault in faults if fault["loc"][:1] == first["loc"][:1]]
    if len(group) == 1 or any(not fault["msg"].startswith(_SHOULD) for fault in group):
        return _dotted(first["loc"]), first["msg"].removeprefix("Value error, "), first["type"]
    levels = zip(*(fault["loc"] for fault in group), strict=False)  # the name of an alternative comes after the field's
    path = [parts[0] for parts in itertools.takewhile(lambda parts: len(set(parts)) == 1, levels)]
    wanted = list(dict.fromkeys(fault["msg"].removeprefix(_SHOULD).partition(",")[0] for fault in group))
    given = {_short(fault["input"]) for fault in group}
    value = f"{given.pop()} " if len(given) == 1 else ""
    return _dotted(path), f"{value}should be {' or '.join(wanted)}", first["type"]


def _dotted(path: Any) -> str:
    return ".".join(str(part) for part in path)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
