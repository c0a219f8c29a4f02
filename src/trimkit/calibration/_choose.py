"""Decisions from paired measurements: bootstrap intervals over pictures, and the smallest budget that is good enough."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.stats import norm, t

from trimkit.calibration._measure import Arm, Values

__all__ = ["MINIMUM_PICTURES", "Comparison", "choose_budget", "compare", "interval", "knee"]

MINIMUM_PICTURES = 8
"""Below that many pictures nothing is called decided: so few hardly stand for others."""

_RESAMPLES = 4000


@dataclass(frozen=True)
class Comparison:
    """One arm's divergence minus another's, paired by picture, with its 95 % interval.

    ``decided``: the interval leaves out 0, and there are ``MINIMUM_PICTURES`` or more.
    """

    difference: float
    low: float
    high: float
    decided: bool

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {"difference": self.difference, "ci95": [self.low, self.high], "decided": self.decided}


def interval(values: Values, seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of ``values`` ``[pictures]``: percentiles, expanded for small samples.

    Plain percentiles are too narrow for few pictures; these are moved out as far as a t interval lies beyond a normal one.
    Source: Hesterberg, What Teachers Should Know about the Bootstrap, 2014, https://arxiv.org/abs/1411.5279.
    """
    if len(values) < 2:
        return float(values.mean()), float(values.mean())
    tail = _expanded_tail(len(values))
    draws = np.random.default_rng(seed).integers(0, len(values), size=(_RESAMPLES, len(values)))
    low, high = np.quantile(values[draws].mean(axis=1), [tail, 1.0 - tail])
    return float(low), float(high)


def _expanded_tail(n: int) -> float:
    """The normal distribution's mass beyond the 97.5 % quantile of Student's t, itself scaled for the bootstrap's bias."""
    return float(norm.sf(t.ppf(0.975, n - 1) * math.sqrt(n / (n - 1))))


def compare(one: Arm, other: Arm, seed: int) -> Comparison:
    """Whether ``one`` stays nearer to the full model than ``other`` (a difference below 0) does."""
    differences = one.divergence - other.divergence
    low, high = interval(differences, seed)
    decided = len(differences) >= MINIMUM_PICTURES and not low <= 0.0 <= high
    return Comparison(float(differences.mean()), low, high, decided)


def choose_budget(arms: Sequence[Arm], agreement: float | None) -> tuple[Arm, bool]:
    """The arm that keeps fewest tokens of those whose answers agree often enough; else, or without a target, the knee's.

    Returns:
        The arm, and whether it reaches the target.
    """
    if agreement is not None:
        enough = [arm for arm in arms if float(arm.agreement.mean()) >= agreement]
        if enough:
            return min(enough, key=lambda arm: (arm.share, float(arm.divergence.mean()))), True
    return knee(arms), False


def knee(arms: Sequence[Arm]) -> Arm:
    """Where keeping more stops to pay: the arm farthest below the line from the smallest budget to the full model.

    Only arms that no other beats with fewer tokens count. Both axes are scaled to 0..1 (after Satopaa et al., Finding a
    "kneedle" in a haystack, 2011, https://doi.org/10.1109/ICDCSW.2011.20).
    """
    front: list[Arm] = []
    for arm in sorted(arms, key=lambda arm: (arm.share, float(arm.divergence.mean()))):
        if not front or float(arm.divergence.mean()) < float(front[-1].divergence.mean()):
            front.append(arm)
    first, worst = front[0].share, max(float(front[0].divergence.mean()), 1e-12)
    room = max(1.0 - first, 1e-12)
    return max(front, key=lambda arm: (1.0 - (arm.share - first) / room) - float(arm.divergence.mean()) / worst)
