"""Which ladders and thresholds are tried, from safe to cheap: where to stop on a ladder while losses become cheaper.

A loss is given a price in image tokens. At each price the thresholds are those with which a question costs least, tokens and
losses together: on the last rung an answer stays where its expected loss costs less than all tokens do, on the one before where
it costs less than what the rungs above would. While the price falls, from one at which everything is asked again to one at
which nothing is, they make a sequence. In it more and more is lost, so that it can be proved rule after rule.

Few questions change their answer, so losses are not taken as they are but as expected of a question's confidence: a logistic
regression on the normal scores of confidence, and on whether the answer agrees with the one before.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, ndtri
from scipy.stats import rankdata

from trimkit.calibration._measure import Values
from trimkit.calibration._outcomes import Outcomes, Signal, Way
from trimkit.calibration._rules import Rule, said_same, sure_of

__all__ = ["Ladder", "cheapest_ladder", "ladders", "means"]

_PRICES = np.geomspace(500.0, 0.5, 25)  # of a loss, in all image tokens of a question
_MOST_AT_ONCE = 0.02  # of the questions, that stay at the next rule and did not before
_ROUNDS = 2  # of improving all thresholds at a price: each depends on the others
_LEAST = 30  # questions that reach a rung, or its threshold is set on all of them
_RIDGE = 0.1  # of the regression's slopes, which else grow without end where confidence tells everything
_TARGETS = (0.5, 1.0, 2.0)  # of the loss that can be proved: a ladder has to be cheap around it, not only there

Mask = NDArray[np.bool_]
Limits = tuple[float, float]
"""Thresholds of one rung: of answers that differ from those of the rung before, and of those that agree."""


@dataclass(frozen=True)
class Ladder:
    """A sequence of rules, and its rungs with the losses that are expected of confidence."""

    rules: list[Rule]
    expected: list[Outcomes]


@dataclass(frozen=True)
class _Rung:
    """One way on all questions. Every array is ``[questions]``.

    Attributes:
        sure: confidence; ``order``: numbers of the questions from the surest on.
        agrees: whether the answer begins as the one before; false throughout where that does not matter.
        loss: as expected.
        kept: image tokens.
    """

    sure: Values
    order: NDArray[np.int64]
    agrees: Mask
    loss: Values
    kept: Values

    def stays(self, limits: Limits) -> Mask:
        """Which answers are sure enough."""
        enough: Mask = self.sure >= np.where(self.agrees, limits[1], limits[0])
        return enough

    def ranks(self, limits: Limits) -> list[int]:
        """How many of all answers are as sure as each limit."""
        return [int((self.sure >= limit).sum()) for limit in limits]

    def at(self, ranks: Sequence[int]) -> Limits:
        """The limits that so many answers are as sure as."""
        first, second = (float(self.sure[self.order[rank - 1]]) if rank > 0 else math.inf for rank in ranks)
        return first, second

    def cut(self, some: Mask, gain: Values) -> float:
        """The threshold above which ``some`` questions gain most together by staying; infinite where none gains."""
        among = self.order[some[self.order]]
        if not among.size:
            return math.inf
        total, sure = np.cumsum(gain[among]), self.sure[among]
        total[:-1][sure[:-1] == sure[1:]] = -math.inf  # equal ones stay, or go, together
        best = int(total.argmax())
        return float(sure[best]) if total[best] > 0.0 else math.inf


def cheapest_ladder(tuning: Sequence[Outcomes], loss: float) -> list[Rule]:
    """The sequence that takes fewest tokens where it loses about ``loss``; empty where there is none.

    Both what was lost and what was to be expected count, and what is lost up to there: a test stops at the first rule that is
    not proved.
    """
    by_way = {each.way: each for each in tuning}

    def cost(ladder: Ladder) -> float:
        seen = [by_way[way] for way in ladder.rules[0].ways]
        return _tokens_at(seen, ladder.rules, loss) + _tokens_at(ladder.expected, ladder.rules, loss)

    best = min(ladders(tuning), key=cost, default=None)
    return [] if best is None else best.rules


def _tokens_at(rungs: Sequence[Outcomes], rules: Sequence[Rule], loss: float) -> float:
    lost, tokens = means(rungs, rules)
    worst = np.maximum.accumulate(lost)  # at first all goes on to all tokens, and nothing is lost
    return sum(float(tokens[worst <= loss * target].min()) for target in _TARGETS)


def ladders(tuning: Sequence[Outcomes]) -> Iterator[Ladder]:
    """One of every way, pair of ways and signal; the second of a pair keeps twice as many tokens or more."""
    for first in tuning:
        seconds = [second for second in tuning if _goes_on(first, second)]
        for signal in first.confidence:
            lowest = _rung(first, signal, None)
            yield _ladder([first], [lowest], signal)
            for second in seconds:
                yield _ladder([first, second], [lowest, _rung(second, signal, first)], signal)


def _ladder(rungs: Sequence[Outcomes], parts: Sequence[_Rung], signal: Signal) -> Ladder:
    ways, full = tuple(each.way for each in rungs), rungs[0].full
    limits: tuple[Limits, ...] = ((math.inf,) * 2,) * len(rungs)
    path = [limits]
    for price in _PRICES * float(full.mean()):
        for _ in range(_ROUNDS):
            limits = _improved(parts, full, price, limits)
        path.append(limits)
    path.append(((-math.inf,) * 2,) * len(rungs))
    steps = [path[0], *(step for pair in pairwise(path) for step in _between(parts, *pair))]
    rules = [rule for rule, _ in groupby(_rule(ways, signal, step) for step in steps)]
    return Ladder(rules, [replace(each, loss=part.loss) for each, part in zip(rungs, parts, strict=True)])


def _between(parts: Sequence[_Rung], start: Sequence[Limits], end: Sequence[Limits]) -> Iterator[tuple[Limits, ...]]:
    """From behind ``start`` to ``end``, in steps at which few answers more stay: a test stops where too much changes at once.

    One price can be far from the next in what it leads to.
    """
    ranks = np.array([[part.ranks(one), part.ranks(other)] for part, one, other in zip(parts, start, end, strict=True)])
    count = len(parts[0].sure)
    steps = max(1, math.ceil(np.abs(ranks[:, 1] - ranks[:, 0]).max() / (count * _MOST_AT_ONCE)))
    for step in range(1, steps):
        found = np.rint(ranks[:, 0] + (ranks[:, 1] - ranks[:, 0]) * step / steps).astype(np.int64)
        yield tuple(part.at(its) for part, its in zip(parts, found, strict=True))
    yield tuple(end)


def _improved(parts: Sequence[_Rung], full: Values, price: float, limits: Sequence[Limits]) -> tuple[Limits, ...]:
    """The best limits of each rung, the last one first, for the questions that the limits before let reach it."""
    reached = [np.ones(len(full), dtype=bool)]
    for part, its in zip(parts[:-1], limits[:-1], strict=True):
        reached.append(reached[-1] & ~part.stays(its))
    found: list[Limits] = []
    ahead = full  # what a question costs that does not stay
    for part, here in zip(reversed(parts), reversed(reached), strict=True):
        some = here if int(here.sum()) >= _LEAST else np.ones_like(here)
        loss = price * part.loss
        found.insert(0, (part.cut(some & ~part.agrees, ahead - loss), part.cut(some & part.agrees, ahead - loss)))
        ahead = part.kept + np.where(part.stays(found[0]), loss, ahead)
    return tuple(found)


def _rule(ways: tuple[Way, ...], signal: Signal, limits: Sequence[Limits]) -> Rule:
    (threshold, _), *more = limits
    matters = any(agreed < own for own, agreed in more)
    agreed = tuple(min(each) for each in more) if matters else ()
    return Rule(ways, signal, threshold, tuple(own for own, _ in more), agreed)


def _rung(outcomes: Outcomes, signal: Signal, before: Outcomes | None) -> _Rung:
    sure = outcomes.confidence[signal]
    agrees: Mask = np.zeros(len(sure), dtype=bool)
    if before is not None and signal[1] in outcomes.said and signal[1] in before.said:
        agrees = said_same(before, outcomes, signal)
    loss, believed = _expected(sure, agrees, outcomes.loss)
    order = np.argsort(-sure, kind="stable")
    return _Rung(sure, order, agrees & believed, loss, outcomes.kept)


def _expected(sure: Values, agrees: Mask, loss: Values) -> tuple[Values, bool]:
    """``[questions]`` loss as expected; and whether answers that agree lose less than others of the same confidence."""
    doubt = ndtri(rankdata(-sure) / (len(sure) + 1))
    if agrees.any() and not agrees.all():
        weights, fitted = _logistic(np.stack([doubt, agrees.astype(np.float64)], axis=1), loss)
        if weights[2] < 0.0:
            return fitted, True
    return _logistic(doubt[:, None], loss)[1], False


def _logistic(features: Values, loss: Values) -> tuple[Values, Values]:
    """Weights, the constant's first, and the fitted values of a logistic regression; losses between 0 and 1 count as shares."""
    columns = np.concatenate([np.ones((len(features), 1)), features], axis=1)
    ridge = np.array([0.0] + [_RIDGE] * features.shape[1])

    def objective(weights: Values) -> tuple[float, Values]:
        raised = columns @ weights
        value = float((np.logaddexp(0.0, raised) - loss * raised).sum()) + 0.5 * float(ridge @ weights**2)
        return value, columns.T @ (expit(raised) - loss) + ridge * weights

    weights: Values = minimize(objective, np.zeros(len(ridge)), jac=True, method="L-BFGS-B").x
    return weights, expit(columns @ weights)


def means(rungs: Sequence[Outcomes], rules: Sequence[Rule]) -> tuple[Values, Values]:
    """``[rules]`` mean loss and tokens of one sequence: what ``Rule.read`` gives, for all thresholds together."""
    signal, limits = rules[0].signal, np.array([rule.thresholds for rule in rules])
    agreed = np.array([[math.inf, *(rule.agreed or (math.inf,) * (len(rungs) - 1))] for rule in rules])
    left = np.ones((len(limits), len(rungs[0].loss)))
    lost, tokens = np.zeros(len(limits)), np.zeros(len(limits))
    for number, rung in enumerate(rungs):
        tokens += left @ rung.kept
        stays = left
        if signal is not None:
            stays = left * sure_of(rungs, number, signal, limits[:, number, None], agreed[:, number, None])
        lost += stays @ rung.loss
        left = left - stays
    count = len(rungs[0].loss)
    return lost / count, (tokens + left @ rungs[0].full) / count


def _goes_on(first: Outcomes, second: Outcomes) -> bool:
    same = first.way.positions == second.way.positions and first.way.method.name == second.way.method.name
    fixed = first.way.method.model_copy(update={"budget": second.way.method.budget}) == second.way.method
    return same and fixed and float(second.kept.mean()) >= 2.0 * float(first.kept.mean())
