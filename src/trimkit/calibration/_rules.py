"""What may be done with a question, and what that costs and loses on measured ones: a budget, or a ladder of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
from numpy.typing import NDArray

from trimkit.calibration._measure import Values
from trimkit.calibration._outcomes import Outcomes, Signal, Way

__all__ = ["Measured", "Reading", "Rule", "cheapest_ladder", "fixed_budgets", "ladders"]

Measured = Callable[[Way], Outcomes]
"""The outcomes of a way on one set of pictures; measured when they are asked for."""

_SHARES = (1.0, *(round(0.8 * 0.9**step, 4) for step in range(48)), 0.0)  # asked again, from all to none
_GO_ON = (1.0, 0.5, 0.25, 0.1, 0.0)  # of the questions asked again, how many go on to all tokens
_DOUBTED = (0.0, 0.25)  # of the answers asked again that agree with the first, how many go on nevertheless
_EASED = 0.2  # of the questions asked again, or fewer: the other shares have fallen to what they are to be
_TARGETS = (
    0.5,
    1.0,
    2.0,
)  # of the loss that can be proved: a ladder has to be cheap around it, not at one lucky threshold


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
                sure = _sure(rungs, number, self.signal, self.thresholds[number], limit)
                unsure = (~sure).astype(np.float64)
            loss = loss + left * (1.0 - unsure) * rung.loss
            left = left * unsure
            again = left if number == 0 else again
        return Reading(loss, tokens + left * first.full, again, first.picture)


def _sure(
    rungs: Sequence[Outcomes], number: int, signal: Signal, threshold: float | Values, agreed: float | Values
) -> NDArray[np.bool_]:
    """Where the answer of a rung stays: ``[questions]``, or ``[rules, questions]`` for thresholds ``[rules, 1]``."""
    own = rungs[number].confidence[signal]
    sure: NDArray[np.bool_] = own >= threshold
    if number and np.min(agreed) < math.inf:
        sure = sure | (_same(rungs[number - 1], rungs[number], signal) & (own >= agreed))
    return sure


def _same(first: Outcomes, second: Outcomes, signal: Signal) -> NDArray[np.bool_]:
    same: NDArray[np.bool_] = first.said[signal[1]] == second.said[signal[1]]
    return same


def fixed_budgets(tuning: Sequence[Outcomes], most: float) -> list[Rule]:
    """Ways without a fallback, from many tokens to few: the first, and those that lose at most ``most`` on ``tuning``."""
    ordered = sorted(tuning, key=lambda outcomes: -float(outcomes.kept.mean()))
    return [Rule((each.way,)) for each in ordered if float(each.loss.mean()) <= most or each is ordered[0]]


def ladders(tuning: Sequence[Outcomes]) -> Iterator[list[Rule]]:
    """Sequences of thresholds, each from asking everything again to asking nothing: of every way, pair of ways and signal.

    The second of a pair keeps at least twice as many tokens; both are of one method. Its threshold is the first one's, or the
    one at which a fixed share of the questions that it gets goes on to all tokens: a share that falls to what it is to be while
    the first threshold does, so that no step loses much at once. Or answers that begin as the first one's have a threshold of
    their own, and the fixed share is of the others.
    """
    for first in tuning:
        seconds = [each for each in tuning if _goes_on(first, each)]
        for signal in first.confidence:
            rules = _sequence(first, (first.way,), signal)
            yield rules
            for second in seconds:
                yield [replace(rule, ways=(first.way, second.way)) for rule in rules]
                for share, doubted in product(_GO_ON, (None, *_DOUBTED) if signal[1] in first.said else (None,)):
                    if share or doubted is None:  # of no others, none of those that agree
                        yield [_with_later(rule, signal, first, second, share, doubted) for rule in rules]


def cheapest_ladder(tuning: Sequence[Outcomes], loss: float) -> list[Rule]:
    """The sequence that takes fewest tokens where it loses about ``loss``; empty where there is none.

    What it loses counts up to there: a test stops at the first rule that is not proved.
    """
    by_way = {each.way: each for each in tuning}

    def cost(rules: list[Rule]) -> float:
        lost, tokens = _means([by_way[way] for way in rules[0].ways], rules)
        worst = np.maximum.accumulate(lost)  # at first all goes on to all tokens, and nothing is lost
        return sum(float(tokens[worst <= loss * target].min()) for target in _TARGETS)

    return min(ladders(tuning), key=cost, default=[])


def _means(rungs: Sequence[Outcomes], rules: Sequence[Rule]) -> tuple[Values, Values]:
    """``[rules]`` mean loss and tokens of one sequence: what ``Rule.read`` gives, for all thresholds together."""
    signal, limits = rules[0].signal, np.array([rule.thresholds for rule in rules])
    agreed = np.array([[math.inf, *(rule.agreed or (math.inf,) * (len(rungs) - 1))] for rule in rules])
    left = np.ones((len(limits), len(rungs[0].loss)))
    lost, tokens = np.zeros(len(limits)), np.zeros(len(limits))
    for number, rung in enumerate(rungs):
        tokens += left @ rung.kept
        stays = left
        if signal is not None:
            stays = left * _sure(rungs, number, signal, limits[:, number, None], agreed[:, number, None])
        lost += stays @ rung.loss
        left = left - stays
    count = len(rungs[0].loss)
    return lost / count, (tokens + left @ rungs[0].full) / count


def _goes_on(first: Outcomes, second: Outcomes) -> bool:
    same = first.way.positions == second.way.positions and first.way.method.name == second.way.method.name
    fixed = first.way.method.model_copy(update={"budget": second.way.method.budget}) == second.way.method
    return same and fixed and float(second.kept.mean()) >= 2.0 * float(first.kept.mean())


def _with_later(
    rule: Rule, signal: Signal, first: Outcomes, second: Outcomes, share: float, doubted: float | None
) -> Rule:
    """With the threshold of the second way at which about ``share`` of the questions asked again go on.

    With ``doubted``, of those alone whose answer changes from the first way to the second; of the others, that share goes on,
    unless that would be more of them. Both shares fall from all to what they are to be while the first threshold does.
    """
    sure, again = second.confidence[signal], ~(first.confidence[signal] >= rule.threshold)
    part = min((1.0 - float(again.mean())) / (1.0 - _EASED), 1.0)
    share, rule = 1.0 - part * (1.0 - share), replace(rule, ways=(first.way, second.way))
    if doubted is None:
        return replace(rule, later=(_at_share(sure[again], share),))
    same = _same(first, second, signal)
    later = _at_share(sure[again & ~same], share)
    agreed = _at_share(sure[again & same], 1.0 - part * (1.0 - doubted))
    return replace(rule, later=(later,), agreed=(agreed,) if agreed < later else ())


def _at_share(sure: Values, share: float) -> float:
    """The threshold below which about ``share`` of the values lie; all do where there are none yet."""
    if share == 0.0:
        return -math.inf
    return float(np.sort(sure)[int(share * len(sure) + 1e-9)]) if len(sure) and share < 1.0 else math.inf


def _sequence(first: Outcomes, ways: tuple[Way, ...], signal: Signal) -> list[Rule]:
    sure = np.sort(first.confidence[signal])
    rules = [Rule(ways, signal, math.inf)]
    for share in _SHARES[1:-1]:
        threshold = float(sure[min(int(share * len(sure)), len(sure) - 1)])
        if threshold < rules[-1].threshold:
            rules.append(Rule(ways, signal, threshold))
    return [*rules, Rule(ways, signal, -math.inf)]
