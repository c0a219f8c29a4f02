"""Times as Prometheus takes them, with the same limits in every server, and a form of them that goes through a file."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

__all__ = ["LIMITS", "Seconds"]

LIMITS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Upper limits of histograms, in seconds."""


@dataclass
class Seconds:
    """A histogram.

    Attributes:
        counts: how many times lie between two of ``LIMITS``; the last one counts those beyond all of them.
        total: their sum.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(LIMITS) + 1))
    total: float = 0.0

    @classmethod
    def read(cls, said: Mapping[str, Any]) -> Self:
        """What ``dataclasses.asdict`` gave.

        Raises:
            ValueError, TypeError, KeyError: it is something else.
        """
        counts = [int(each) for each in said["counts"]]
        if len(counts) != len(LIMITS) + 1:
            raise ValueError(f"{len(counts)} counts where {len(LIMITS) + 1} were to be")
        return cls(counts, float(said["total"]))

    def add(self, seconds: float) -> None:
        """Count one time."""
        self.counts[bisect_left(LIMITS, seconds)] += 1
        self.total += seconds

    def merge(self, other: Seconds) -> None:
        """Count what ``other`` has counted."""
        self.counts = [mine + its for mine, its in zip(self.counts, other.counts, strict=True)]
        self.total += other.total

    def cumulated(self) -> list[tuple[str, float]]:
        """Pairs of a limit, as Prometheus writes it, and how many times are at most that."""
        found, count = [], 0
        for limit, each in zip([*map(str, LIMITS), "+Inf"], self.counts, strict=True):
            count += each
            found.append((limit, float(count)))
        return found
