"""Numbers that a user gives, with the limits that all commands share."""

from __future__ import annotations

import math

from trimkit.errors import ConfigError

__all__ = [
    "MAX_BATCH",
    "MAX_NEW_TOKENS",
    "MAX_QUESTIONS",
    "MAX_SEED",
    "MAX_WORKERS",
    "check_whole",
    "parse_gigabytes",
    "parse_shares",
    "parse_whole_numbers",
]

MAX_QUESTIONS = 1_000_000
"""Questions of one evaluation: days of work on any machine."""

MAX_BATCH = 1024
"""Prompts per generate call of an evaluation. Whole batches are drawn and encoded: a larger one would look like a hang."""

MAX_SEED = 2**63 - 1
"""Largest seed that torch, numpy and the demo world all take."""

MAX_NEW_TOKENS = 100_000
MAX_WORKERS = 256
_MAX_GIGABYTES = 1_000_000


def check_whole(name: str, value: int, low: int, high: int) -> int:
    """``value``, where it lies between ``low`` and ``high``, both included.

    Raises:
        ConfigError: it does not; ``name`` says which setting.
    """
    if not low <= value <= high:
        raise ConfigError(f"{name} {_shown(value)} is outside {low} to {high}: give a number between")
    return value


def parse_whole_numbers(option: str, text: str) -> tuple[int, ...]:
    """``1,8,32`` as whole numbers.

    Raises:
        ConfigError: one of them is none; ``option`` says where.
    """
    try:
        return tuple(int(word) for word in text.split(","))
    except ValueError:
        raise ConfigError(
            f"{option} {text!r} is not a whole number: give one, or several with commas between"
        ) from None


def parse_gigabytes(value: float) -> int:
    """Bytes of so many gigabytes (10^9).

    Raises:
        ConfigError: it is no number above 0, or more than any machine has.
    """
    if not 0 < value <= _MAX_GIGABYTES:
        raise ConfigError(f"memory {value:g} is outside 0 to {_MAX_GIGABYTES}: give gigabytes, for example 80")
    return max(int(value * 1e9), 1)


def parse_shares(option: str, text: str) -> tuple[float, ...]:
    """``1.0,0.5`` as shares; whether they lie in (0, 1] is for the caller to check.

    Raises:
        ConfigError: one of them is no finite number.
    """
    try:
        found = tuple(float(word) for word in text.split(","))
    except ValueError:
        found = (math.nan,)
    if not all(math.isfinite(share) for share in found):
        raise ConfigError(f"{option} {text!r} is not a share: give for example 0.5, or 1.0,0.5")
    return found


def _shown(value: int) -> str:
    """A number of any length, so that it fits into a line (Python refuses to print very long ones)."""
    return (
        str(value) if abs(value) < 10**20 else f"of more than {20 if value > 0 else -20} digits".replace("-", "minus ")
    )
