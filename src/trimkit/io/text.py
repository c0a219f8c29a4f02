"""Text of unknown origin: checked, read as JSON within limits, and made fit to print."""

from __future__ import annotations

import json
import re
from typing import Any

__all__ = ["MAX_DEPTH", "MAX_INTEGER", "is_text", "json_text", "one_line", "parse_json", "shorten"]

MAX_DEPTH = 64
"""Levels of lists and objects in a JSON text; what trimkit writes has fewer than ten."""

MAX_INTEGER = 2**63 - 1
"""Largest whole number in a JSON text, by size: torch and numpy hold no larger ones."""

_LONGEST_WORD = 160
_QUOTED = re.compile(r"'[^']{161,}'|\"[^\"]{161,}\"")
_WORD = re.compile(r"\S{161,}")


def one_line(text: str) -> str:
    """``text`` on one line, without what a terminal would act on."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in " ".join(text.split()))


def shorten(message: str) -> str:
    """A message in which nothing quoted, and no single word, is longer than 160 characters: the middle is left out."""
    return _WORD.sub(_without_middle, _QUOTED.sub(_without_middle, message))


def _without_middle(found: re.Match[str]) -> str:
    text = found.group()
    return f"{text[: _LONGEST_WORD // 2]}...{text[-_LONGEST_WORD // 4 :]}"


def is_text(text: str) -> bool:
    """False where ``text`` holds what no UTF-8 file could: undecodable bytes of an argument or a file name, lone surrogates."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse_json(text: str) -> Any:
    """What ``json.loads`` gives, of a text that is not meant to do harm.

    Raises:
        ValueError: it is no JSON, is nested more than ``MAX_DEPTH`` levels, or holds a whole number beyond ``MAX_INTEGER``.
            The message is one line.
    """
    if _depth_at_least(text, MAX_DEPTH + 1):  # before the reader, which calls itself once a level
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    return json.loads(text, parse_int=_whole_number)


def _depth_at_least(text: str, limit: int) -> bool:
    """Whether brackets outside of strings are ``limit`` levels deep somewhere."""
    depth = 0
    for found in re.finditer(r'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', text, re.DOTALL):
        letter = found.group()[0]
        if letter in "[{":
            depth += 1
            if depth >= limit:
                return True
        elif letter in "]}":
            depth -= 1
    return False


def _whole_number(digits: str) -> int:
    if len(digits) > 20 or abs(int(digits)) > MAX_INTEGER:
        raise ValueError(f"a whole number of {len(digits.lstrip('-'))} digits is too large")
    return int(digits)


def json_text(value: Any, encoding: str | None = "utf-8") -> str:
    """A JSON document with a line end; characters that ``encoding`` does not have are escaped."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:  # lone surrogates, or a terminal that knows ASCII only
        return json.dumps(value, indent=2) + "\n"
    return text
