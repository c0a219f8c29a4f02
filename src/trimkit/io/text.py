"""Text of unknown origin, made fit to print."""

from __future__ import annotations

__all__ = ["one_line"]


def one_line(text: str) -> str:
    """``text`` on one line, without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))
