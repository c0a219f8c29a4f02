"""Medians with quartiles, ratios with intervals, and the order in which arms take their turns."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from typing import Any

__all__ = ["orders", "ratio", "spread"]

_RESAMPLES = 2000


def spread(values: Sequence[float]) -> dict[str, Any] | None:
    """``median``, ``q25``, ``q75`` and how many ``runs`` they are of; None of no values."""
    if not values:
        return None
    low, high = values[0], values[0]
    if len(values) > 1:
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return {"median": statistics.median(values), "q25": low, "q75": high, "runs": len(values)}


def ratio(reduced: Sequence[float], full: Sequence[float], seed: int = 0) -> dict[str, Any] | None:
    """Median over rounds of the ratio within a round, with its bootstrap 95 % interval.

    Within a round both arms ran one after the other, so that what slows the machine down for a while drops out.
    """
    pairs = [one / other for one, other in zip(reduced, full, strict=True) if other > 0]
    if not pairs:
        return None
    draw = random.Random(seed)
    medians = sorted(statistics.median(draw.choices(pairs, k=len(pairs))) for _ in range(_RESAMPLES))
    low, high = medians[int(0.025 * _RESAMPLES)], medians[int(0.975 * _RESAMPLES) - 1]
    return {"median": statistics.median(pairs), "low": low, "high": high, "runs": len(pairs)}


def orders(arms: int, rounds: int) -> list[list[int]]:
    """The turns of each round: another arm begins each time, and every other time round they go backwards."""
    turns = []
    for number in range(rounds):
        first = number % arms
        order = [*range(first, arms), *range(first)]
        turns.append(order if (number // arms) % 2 == 0 else order[::-1])
    return turns
