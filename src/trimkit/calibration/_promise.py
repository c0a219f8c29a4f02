"""The fewest image tokens with which a promise is proved: "on pictures like these, at most 2 % of answers change".

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei, https://arxiv.org/abs/2110.01052) with Pareto testing
(Laufer-Goldshtein, Fisch, Barzilay and Jaakkola, https://arxiv.org/abs/2210.07913): some of the pictures choose a way of
reducing and a sequence of thresholds, from the one at which every question is asked again with all tokens to the one at
which none is. The others prove, one after the other, that the risk at a threshold is not above the promised one, until one
cannot be proved (fixed-sequence testing). What is promised holds with the stated confidence over the draw of the pictures,
whatever model, method or distribution; it supposes that later pictures are exchangeable with these.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from trimkit.calibration._bounds import check_promise, fixed_sequence, needed, p_value, upper_bound
from trimkit.calibration._measure import Values
from trimkit.calibration._outcomes import Outcomes, Signal, Way
from trimkit.errors import InputError

__all__ = ["LEAST_TUNED", "Promise", "Rule", "Step", "prove", "split_pictures"]

LEAST_TUNED = 8
"""Pictures that choose what is tried, at least."""

_TUNED = 1 / 3  # of the pictures
_AGAIN = (1.0, 0.8, 0.65, 0.5, 0.4, 0.35, 0.3, 0.25, 0.2, 0.17, 0.14, 0.12, 0.1, 0.08, 0.06, 0.04, 0.02, 0.0)
_SLACK = 0.5  # of the risk is what a choice may show on the pictures that choose: the others must prove it


@dataclass(frozen=True)
class Rule:
    """What is done with a question: ``way``, and all tokens where the confidence ``signal`` is below ``threshold``.

    Without a signal nothing is asked again; without a way every question gets all tokens.
    """

    way: Way | None
    signal: Signal | None = None
    threshold: float = -math.inf

    def again(self, outcomes: Outcomes) -> Values:
        """``[questions]`` 1 where a question is asked again."""
        if self.signal is None:
            return np.zeros_like(outcomes.loss)
        return (~(outcomes.confidence[self.signal] >= self.threshold)).astype(np.float64)

    def losses(self, outcomes: Outcomes) -> Values:
        """``[pictures]``, 0 to 1: the mean over a picture's questions, whose losses depend on each other."""
        if self.way is None:
            return np.zeros(len(np.unique(outcomes.picture)))
        return _by_picture(outcomes, outcomes.loss * (1.0 - self.again(outcomes)))

    def tokens(self, outcomes: Outcomes) -> float:
        """Image tokens of a question that the language model is given, on average; both rungs' where it is asked again."""
        if self.way is None:
            return float(outcomes.full.mean())
        return float((outcomes.kept + self.again(outcomes) * outcomes.full).mean())


@dataclass(frozen=True)
class Step:
    """One rule on the pictures that prove: what was seen, and what that proves.

    Attributes:
        rule: what was tried.
        again: share of questions asked again.
        tokens: mean image tokens of a question, all rungs.
        observed, bound: mean loss, and its upper bound with the promised confidence.
        p_value: of the risk being above the promised one.
        proved: whether it and all before it in the sequence were proved.
    """

    rule: Rule
    again: float
    tokens: float
    observed: float
    bound: float
    p_value: float
    proved: bool


@dataclass(frozen=True)
class Promise:
    """What is proved.

    Attributes:
        risk, confidence: the promise.
        chosen: the last of ``steps`` that is proved and takes fewer tokens than all; else the rule of all tokens.
        steps: the sequence, in order.
        fixed: the smallest budget that is proved without asking anything again, by a sequence of its own; None where none is.
        tuned, proving: how many pictures chose, and how many proved.
        full: mean image tokens of a question without reduction.
    """

    risk: float
    confidence: float
    chosen: Step
    steps: tuple[Step, ...]
    fixed: Step | None
    tuned: int
    proving: int
    full: float

    @property
    def sentence(self) -> str:
        """The promise in words, for the ``answer`` measure."""
        kept = f"{self.chosen.tokens:.0f} of {self.full:.0f} image tokens on average"
        if self.chosen.rule.way is None:
            return f"no reduction tried keeps the promise of {self.risk:.3g}: everything stays ({kept})"
        asked = f", {self.chosen.again:.0%} of the questions asked again with all" if self.chosen.rule.signal else ""
        return (
            f"on pictures and questions like these, at most {self.risk * 100:.3g} % of answers change, with "
            f"{self.confidence * 100:.3g} % confidence: {kept}{asked}"
        )


def split_pictures(pictures: int, risk: float, confidence: float, seed: int) -> tuple[Values, Values]:
    """Numbers of the pictures that choose, and of those that prove, drawn by ``seed``.

    Raises:
        ConfigError: see ``check_promise``.
        InputError: too few for the promise, whatever the model says.
    """
    check_promise(risk, confidence)
    least = needed(risk, confidence)
    if pictures < least + LEAST_TUNED:
        raise InputError(
            f"{pictures} pictures are too few to promise {risk * 100:.3g} % with {confidence * 100:.3g} % confidence: it needs "
            f"{least} to prove it, even if no answer changes, and {LEAST_TUNED} to choose "
            "what is tried; give more, or a higher risk"
        )
    tuned = max(min(round(pictures * _TUNED), pictures - least), LEAST_TUNED)
    order = np.random.default_rng(seed).permutation(pictures).astype(np.float64)
    return np.sort(order[:tuned]), np.sort(order[tuned:])


def prove(
    tuning: Sequence[Outcomes], proving: Sequence[Outcomes], risk: float, confidence: float, *, fallback: bool = True
) -> Promise:
    """Choose on ``tuning`` and prove on ``proving``.

    Args:
        tuning, proving: the same ways in the same order, on pictures that are in one of both alone.
        risk: upper limit of the expected loss, strictly between 0 and 1.
        confidence: of the promise, strictly between 0 and 1.
        fallback: whether questions may be asked again; else only budgets are tried.

    Raises:
        ConfigError: see ``check_promise``; a loss outside 0..1.
    """
    check_promise(risk, confidence)
    fixed = _proved(_budgets(tuning), proving, risk, confidence)
    steps = _proved(_thresholds(tuning, risk), proving, risk, confidence) if fallback else fixed
    everything = _step(Rule(None), proving, risk, confidence)
    sound = [step for step in steps if step.proved and step.tokens < everything.tokens]
    alone = [step for step in fixed if step.proved]
    return Promise(
        risk=risk,
        confidence=confidence,
        chosen=sound[-1] if sound else everything,
        steps=tuple(steps),
        fixed=alone[-1] if alone else None,
        tuned=len(np.unique(tuning[0].picture)),
        proving=len(np.unique(proving[0].picture)),
        full=everything.tokens,
    )


def _thresholds(tuning: Sequence[Outcomes], risk: float) -> list[Rule]:
    """The sequence of the way and signal that would take fewest tokens, from asking everything again to asking nothing."""
    chains = [_chain(outcomes, signal) for outcomes in tuning for signal in outcomes.confidence]
    if not chains:
        return []

    def cost(chain: list[Rule]) -> float:
        outcomes = _of_way(tuning, chain[0])
        fair = [rule for rule in chain if float(rule.losses(outcomes).mean()) <= risk * _SLACK]
        return min((rule.tokens(outcomes) for rule in fair), default=math.inf)

    return min(chains, key=cost)


def _chain(outcomes: Outcomes, signal: Signal) -> list[Rule]:
    sure = np.sort(outcomes.confidence[signal])
    rules = [Rule(outcomes.way, signal, math.inf)]
    for share in _AGAIN[1:-1]:
        threshold = float(sure[min(int(share * len(sure)), len(sure) - 1)])
        if threshold < rules[-1].threshold:
            rules.append(Rule(outcomes.way, signal, threshold))
    return [*rules, Rule(outcomes.way, signal, -math.inf)]


def _budgets(tuning: Sequence[Outcomes]) -> list[Rule]:
    """Ways without a fallback, from many tokens to few."""
    ordered = sorted(tuning, key=lambda outcomes: -float(outcomes.kept.mean()))
    return [Rule(outcomes.way) for outcomes in ordered]


def _proved(rules: Sequence[Rule], proving: Sequence[Outcomes], risk: float, confidence: float) -> list[Step]:
    """The rules on the pictures that prove, those marked that fixed-sequence testing proves."""
    steps = [_step(rule, proving, risk, confidence) for rule in rules]
    sound = fixed_sequence([step.p_value for step in steps], 1.0 - confidence)
    return [
        Step(**{**vars(step), "proved": number < sound})  # the order comes from the other pictures
        for number, step in enumerate(steps)
    ]


def _step(rule: Rule, proving: Sequence[Outcomes], risk: float, confidence: float) -> Step:
    outcomes = _of_way(proving, rule)
    losses = rule.losses(outcomes)
    return Step(
        rule=rule,
        again=float(rule.again(outcomes).mean()),
        tokens=rule.tokens(outcomes),
        observed=float(losses.mean()),
        bound=upper_bound(losses, confidence),
        p_value=p_value(losses, risk),
        proved=rule.way is None,
    )


def _of_way(measured: Sequence[Outcomes], rule: Rule) -> Outcomes:
    return next(each for each in measured if rule.way in (None, each.way))


def _by_picture(outcomes: Outcomes, values: Values) -> Values:
    _, where = np.unique(outcomes.picture, return_inverse=True)
    counts = np.bincount(where)
    means: Values = np.bincount(where, weights=values) / counts
    return means
