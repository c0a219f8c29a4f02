"""Is the fitted scorer better than what the model has without it? Decided on pictures that no part of the fit has seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from trimkit.calibration import Values, interval
from trimkit.core.types import EncoderProfile, ImageTokens
from trimkit.fitting._divergence import Ranking, Reader
from trimkit.fitting._records import PairRecord
from trimkit.fitting._settings import BUDGETS
from trimkit.methods import Method, get_method

__all__ = ["Verdict", "baseline_ranking", "by_picture", "guard", "guard_method"]


@dataclass(frozen=True)
class Verdict:
    """What the guard found.

    Attributes:
        better: whether the fitted scorer is used: the interval of the difference lies below 0.
        difference: mean divergence with the fitted scorer minus without, in nats, paired by picture, and ``low``, ``high``.
        fitted, baseline: mean divergence by budget (a share of the tokens), and ``agreement`` of both, the share of answers
            that stay the same.
        against: what it was compared with.
        pictures, pairs: how many.
    """

    better: bool
    difference: float
    low: float
    high: float
    fitted: dict[str, float]
    baseline: dict[str, float]
    agreement: dict[str, tuple[float, float]]
    against: str
    pictures: int
    pairs: int

    def to_plain(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "better": self.better,
            "difference": self.difference,
            "ci95": [self.low, self.high],
            "divergence_by_share": {"fitted": self.fitted, "baseline": self.baseline},
            "agreement_by_share": {
                key: {"fitted": one, "baseline": other} for key, (one, other) in self.agreement.items()
            },
            "against": self.against,
            "pictures": self.pictures,
            "pairs": self.pairs,
        }


def guard_method(share: float, temperature: float = 1.0) -> Method:
    """What scorers are compared in: ``focus``."""
    return get_method("focus", budget=share, profile=EncoderProfile(sign=1, temperature=temperature))


def baseline_ranking(images: Sequence[ImageTokens], pairs: Sequence[PairRecord]) -> list[Tensor]:
    """The relevance that was recorded; without any, all tokens are equal, and ``focus`` covers the picture."""
    return [
        torch.zeros(len(image)) if pair.baseline is None else pair.baseline
        for image, pair in zip(images, pairs, strict=True)
    ]


def by_picture(pairs: Sequence[tuple[int, int]], values: Values) -> Values:
    """``[pictures]`` means over each picture's questions."""
    owners = np.array([number for number, _ in pairs])
    return np.array([values[owners == each].mean() for each in np.unique(owners)])


def guard(
    reader: Reader, pairs: Sequence[tuple[int, int]], rank: Ranking, temperature: float, against: str, seed: int
) -> Verdict:
    """Compare on ``pairs``, at every budget of ``BUDGETS``."""
    rows = {"fitted": [], "baseline": []}  # type: dict[str, list[Values]]
    means: dict[str, dict[str, float]] = {"fitted": {}, "baseline": {}}
    same: dict[str, list[float]] = {}
    for share in BUDGETS:
        key = f"{share:.3f}"
        for name, ranking, heat in (("fitted", rank, temperature), ("baseline", baseline_ranking, 1.0)):
            far, equal = reader.measure(pairs, ranking, guard_method(share, heat))
            rows[name].append(by_picture(pairs, far))
            means[name][key] = float(far.mean())
            same.setdefault(key, []).append(float(equal.mean()))
    differences = np.mean(rows["fitted"], axis=0) - np.mean(rows["baseline"], axis=0)
    low, high = interval(differences, seed)
    return Verdict(
        better=high < 0.0,
        difference=float(differences.mean()),
        low=low,
        high=high,
        fitted=means["fitted"],
        baseline=means["baseline"],
        agreement={key: (one, other) for key, (one, other) in same.items()},
        against=against,
        pictures=len(differences),
        pairs=len(pairs),
    )
