"""Grades counted: shares by question type with 95 % intervals, and what every evaluation is asked with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.core.choices import Positions, TurnPolicy, check_choice
from trimkit.errors import ConfigError
from trimkit.io.numbers import MAX_BATCH, MAX_QUESTIONS, MAX_SEED, check_whole

__all__ = ["NEW_TOKENS", "check_arguments", "summary", "whole", "wilson"]

NEW_TOKENS = 8  # answers are one word
_Z = 1.959964  # 97.5 % quantile of the normal distribution


def check_arguments(seed: int, n: int, batch_size: int = 1, positions: str = "auto", turns: Sequence[str] = ()) -> None:
    """Refuse what names no questions, or more than anybody could wait for.

    Raises:
        ConfigError: a negative seed, less than one question or row, a number over its limit, or an unknown choice.
    """
    if seed < 0:
        raise ConfigError(f"seed {seed} is negative: give 0 or more")
    if n < 1:
        raise ConfigError(f"n {n} asks nothing: give 1 or more questions")
    if batch_size < 1:
        raise ConfigError(f"batch size {batch_size} holds nothing: give 1 or more")
    check_whole("seed", seed, 0, MAX_SEED)
    check_whole("n", n, 1, MAX_QUESTIONS)
    check_whole("batch size", batch_size, 1, MAX_BATCH)
    check_choice("positions", positions, Positions)
    for policy in turns:
        check_choice("turns", policy, TurnPolicy)


def wilson(right: int, n: int) -> list[float]:
    """The 95 % score interval of ``right`` out of ``n``, as ``[low, high]``."""
    share, spread = right / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = math.sqrt(share * (1 - share) * spread + spread * spread / 4) / (1 + spread)
    return [max(centre - half, 0.0), min(centre + half, 1.0)]


def summary(right: Mapping[str, Sequence[bool]]) -> dict[str, Any]:
    """Accuracy of all and by type, with Wilson intervals."""
    hits = [hit for group in right.values() for hit in group]
    return {
        "n": len(hits),
        "accuracy": sum(hits) / len(hits),
        "ci95": wilson(sum(hits), len(hits)),
        "accuracy_by_type": {kind: sum(group) / len(group) for kind, group in right.items()},
        "ci95_by_type": {kind: wilson(sum(group), len(group)) for kind, group in right.items()},
        "n_by_type": {kind: len(group) for kind, group in right.items()},
    }


def whole(value: float) -> float | int:
    """An integer where it is one."""
    return int(value) if value == int(value) else value
