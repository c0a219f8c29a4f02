"""What may be done with a question, and what that costs and loses on measured ones: a budget, or a ladder of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from trimkit.calibration._measure import Values
from trimkit.calibration._outcomes import Outcomes, Signal, Way

__all__ = ["Measured", "Reading", "Rule", "fixed_budgets", "said_same", "sure_of"]

Measured = Callable[[Way], Outcomes]
"""The outcomes of a way on one set of pictures; measured when they are asked for."""


@dataclass(frozen=True)
class Reading:
    """A rule on questions. Every array is ``[questions]``.

    Attributes:
        loss: 0 to 1; 0 where all tokens were given in the end.
        tokens: image tokens that the language model was given, all rungs.
        again: 1 where the first answer did not stay.
        picture: which picture each question is about.
    """

    loss: Values
    tokens: Values
    again: Values
    picture: Values

    @property
    def by_picture(self) -> Values:
        """``[pictures]`` mean loss of a picture's questions, which depend on each other."""
        _, where = np.unique(self.picture, return_inverse=True)
        means: Values = np.bincount(where, weights=self.loss) / np.bincount(where)
        return means


@dataclass(frozen=True)
class Rule:
    """``ways`` one after the other, until the confidence ``signal`` is not below the threshold of a way; then all tokens.

    Without a signal there is one way, and its answer stays. Without a way every question gets all tokens.

    Attributes:
        threshold: of the first way.
        later: of the others, one for each; empty where ``threshold`` is theirs, too.
        agreed: of the others, where their answer begins as that of the way before; empty where that does not matter.
    """

    ways: tuple[Way, ...] = ()
    signal: Signal | None = None
    threshold: float = -math.inf
    later: tuple[float, ...] = ()
    agreed: tuple[float, ...] = ()

    @property
    def thresholds(self) -> tuple[float, ...]:
        """One for each way."""
        return (self.threshold, *(self.later or (self.threshold,) * (len(self.ways) - 1)))

    def read(self, measured: Measured, everything: Outcomes | None = None) -> Reading:
        """What it costs and loses.

        Args:
            measured: gives the outcomes of a way.
            everything: outcomes of any way on the same questions; only for the rule without ways.

        Raises:
            ValueError: neither ways nor ``everything``.
        """
        rungs = [measured(way) for way in self.ways]
        first = rungs[0] if rungs else everything
        if first is None:
            raise ValueError("a rule without ways is read on the outcomes of another")
        left = np.ones_like(first.loss)
        loss, tokens, again = np.zeros_like(left), np.zeros_like(left), np.zeros_like(left)
        for number, rung in enumerate(rungs):
            tokens = tokens + left * rung.kept
            unsure = np.zeros_like(left)
            if self.signal is not None:
                limit = self.agreed[number - 1] if number and self.agreed else math.inf
                sure = sure_of(rungs, number, self.signal, self.thresholds[number], limit)
                unsure = (~sure).astype(np.float64)
            loss = loss + left * (1.0 - unsure) * rung.loss
            left = left * unsure
            again = left if number == 0 else again
        return Reading(loss, tokens + left * first.full, again, first.picture)


def sure_of(
    rungs: Sequence[Outcomes], number: int, signal: Signal, threshold: float | Values, agreed: float | Values
) -> NDArray[np.bool_]:
    """Where the answer of a rung stays: ``[questions]``, or ``[rules, questions]`` for thresholds ``[rules, 1]``."""
    own = rungs[number].confidence[signal]
    sure: NDArray[np.bool_] = own >= threshold
    if number and np.min(agreed) < math.inf:
        sure = sure | (said_same(rungs[number - 1], rungs[number], signal) & (own >= agreed))
    return sure


def said_same(first: Outcomes, second: Outcomes, signal: Signal) -> NDArray[np.bool_]:
    """``[questions]``, whether both answers begin alike, as far as ``signal`` looks."""
    same: NDArray[np.bool_] = first.said[signal[1]] == second.said[signal[1]]
    return same


def fixed_budgets(tuning: Sequence[Outcomes], most: float) -> list[Rule]:
    """Ways without a fallback, from many tokens to few: the first, and those that lose at most ``most`` on ``tuning``."""
    ordered = sorted(tuning, key=lambda outcomes: -float(outcomes.kept.mean()))
    return [Rule((each.way,)) for each in ordered if float(each.loss.mean()) <= most or each is ordered[0]]
