"""Which types of question of the demo world are asked: a set by name, or types with commas between."""

from __future__ import annotations

from trimkit.demo.questions import TYPES
from trimkit.demo.typed_items import ALL_TYPES, HARD_TYPES
from trimkit.errors import ConfigError

__all__ = ["BASIC", "check_types", "parse_types"]

BASIC = TYPES
"""The six types that the demo model was first trained on."""

_SETS: dict[str, tuple[str, ...]] = {"basic": TYPES, "hard": HARD_TYPES, "all": ALL_TYPES}


def parse_types(text: str) -> tuple[str, ...]:
    """``basic``, ``hard``, ``all``, or names with commas between.

    Raises:
        ConfigError: an unknown name, or one twice.
    """
    found = _SETS.get(text.strip()) or tuple(part.strip() for part in text.split(","))
    check_types(found)
    return found


def check_types(types: tuple[str, ...]) -> None:
    """Refuse what are no types of question.

    Raises:
        ConfigError: none at all, an unknown name, or one twice.
    """
    for kind in types:
        if kind not in ALL_TYPES:
            raise ConfigError(
                f"question type {kind!r} is not known: give basic, hard, all, or some of {', '.join(ALL_TYPES)}"
            )
    if not types or len(set(types)) < len(types):
        raise ConfigError("question types take turns: give at least one, and each once")
