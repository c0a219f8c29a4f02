"""Options that take one of a few words."""

from __future__ import annotations

from typing import Any, Literal, get_args

from trimkit.errors import ConfigError

__all__ = ["OnUnreduced", "Padding", "Positions", "QueryFrom", "TurnPolicy", "check_choice"]

TurnPolicy = Literal["refresh", "first", "union"]
"""Which questions of a conversation choose the tokens of an earlier image: the last, the first, or any so far."""

Positions = Literal["auto", "contiguous", "original"]
"""How the tokens that are left are numbered."""

Padding = Literal["keep", "skip"]
"""Whether tokens that see only the padding of a square can be chosen."""

QueryFrom = Literal["question", "conversation-with-answers"]
"""What is read from a prompt where no query is given."""


OnUnreduced = Literal["error", "warn", "stock"]
"""What happens to a call that brings images and cannot be reduced: it is refused, or it runs with all image tokens."""


def check_choice(option: str, value: str, kind: Any) -> None:
    """Refuse a ``value`` that the literal type ``kind`` does not have.

    Raises:
        ConfigError: the value is not one of the words.
    """
    if value not in get_args(kind):
        raise ConfigError(f"{option}={value!r} is not known: choose one of {', '.join(get_args(kind))}")
