"""How much of the full model's accuracy others have measured a method to keep."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["RERUNS", "PublishedAccuracy"]

RERUNS = "re-run in the paper of HiPrune (arXiv 2508.00553), TOPS or EADP; which of them is not recorded here"


@dataclass(frozen=True)
class PublishedAccuracy:
    """Relative accuracy from one source. Numbers of different sources do not compare.

    Attributes:
        kept: percent of the full model's accuracy, by image tokens out of 576.
        source: who measured.
        date: year and month of the source, or None where it is not known.
        model: what was measured.
    """

    kept: dict[int, float]
    source: str
    date: str | None = None
    model: str = "LLaVA-1.5-7B"
