"""The fewest image tokens with which a promise is proved: "on pictures like these, at most 2 % of answers change".

Learn then Test (Angelopoulos, Bates, Candès, Jordan and Lei, https://arxiv.org/abs/2110.01052) with Pareto testing
(Laufer-Goldshtein, Fisch, Barzilay and Jaakkola, https://arxiv.org/abs/2210.07913): some of the pictures choose a way of
reducing and a sequence of thresholds, from the one at which every question is asked again with all tokens to the one at
which none is. The others prove, one after the other, that the risk at a threshold is not above the promised one, until one
cannot be proved (fixed-sequence testing). What is promised holds with the stated confidence over the draw of the pictures,
whatever model, method or distribution; it supposes that later pictures are exchangeable with these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from trimkit.calibration._bounds import check_promise, fixed_sequence, needed, p_value, provable_rate, upper_bound
from trimkit.calibration._ladders import cheapest_ladder
from trimkit.calibration._measure import Values
from trimkit.calibration._outcomes import LossMeasure, Outcomes
from trimkit.calibration._rules import Measured, Rule, fixed_budgets
from trimkit.errors import InputError

__all__ = ["LEAST_TUNED", "Promise", "Step", "prove", "split_pictures"]

LEAST_TUNED = 8
"""Pictures that choose what is tried, at least."""

_TUNED = 1 / 3  # of the pictures
_MOST_TUNED = 600  # more of them choose hardly better, and those that prove make the bound tight

_PROMISED: dict[LossMeasure, str] = {
    "answer": "at most {risk} % of answers change",
    "divergence": "answers are at most {risk} % divergent from those of all tokens",
    "task-metric": "at most {risk} % of answers turn from right to wrong",
}


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
        steps: the sequence, in order, up to the first that is not proved.
        fixed: the smallest budget that is proved without asking anything again, by a sequence of its own; None where none is.
        tuned, proving: how many pictures chose, and how many proved.
        full: mean image tokens of a question without reduction.
        measure: of the loss.
        compared: tokens of each answer that were looked at, where some answers are longer; else None.
    """

    risk: float
    confidence: float
    chosen: Step
    steps: tuple[Step, ...]
    fixed: Step | None
    tuned: int
    proving: int
    full: float
    measure: LossMeasure = "answer"
    compared: int | None = None

    @property
    def sentence(self) -> str:
        """The promise in words."""
        kept = f"{self.chosen.tokens:.0f} of {self.full:.0f} image tokens on average"
        if not self.chosen.rule.ways:
            return f"no reduction tried keeps the promise of {self.risk:.3g}: everything stays ({kept})"
        asked = f", {self.chosen.again:.0%} of the questions asked again with more" if self.chosen.again else ""
        what = _PROMISED[self.measure].format(risk=f"{self.risk * 100:.3g}")
        what += "" if self.compared is None else f" in their first {self.compared} tokens"
        return f"on pictures and questions like these, {what}, with {self.confidence * 100:.3g} % confidence: {kept}{asked}"


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
    tuned = max(min(round(pictures * _TUNED), _MOST_TUNED, pictures - least), LEAST_TUNED)
    order = np.random.default_rng(seed).permutation(pictures).astype(np.float64)
    return np.sort(order[:tuned]), np.sort(order[tuned:])


def prove(
    tuning: Sequence[Outcomes],
    proving: Measured,
    risk: float,
    confidence: float,
    *,
    fallback: bool = True,
    measure: LossMeasure = "answer",
    compared: int | None = None,
) -> Promise:
    """Choose on ``tuning`` and prove on ``proving``.

    Args:
        tuning: the ways that are tried, at least one.
        proving: the same ways on pictures that are not among those; asked for those that are to be proved alone.
        risk: upper limit of the expected loss, strictly between 0 and 1.
        confidence: of the promise, strictly between 0 and 1.
        fallback: whether questions may be asked again; else only budgets are tried.
        measure: of the loss, for the promise in words; ``compared`` as in ``Promise``.

    Raises:
        ConfigError: see ``check_promise``; a loss outside 0..1.
    """
    check_promise(risk, confidence)
    known = proving(min(tuning, key=lambda each: float(each.kept.mean())).way)
    pictures = len(np.unique(known.picture))
    rate = provable_rate(pictures, risk, confidence)
    everything = _step(Rule(), proving, risk, known)
    # What is tried, and in which order, comes from the other pictures: the tests hold whatever it is.
    fixed = _tested(fixed_budgets(tuning, max(rate, risk / 2)), proving, risk, confidence)
    steps = _tested(cheapest_ladder(tuning, rate), proving, risk, confidence) if fallback else fixed
    sound = [step for step in steps if step.proved and step.tokens < everything.tokens]
    alone = [step for step in fixed if step.proved]
    return Promise(
        risk=risk,
        confidence=confidence,
        chosen=sound[-1] if sound else everything,
        steps=tuple(steps),
        fixed=alone[-1] if alone else None,
        tuned=len(np.unique(tuning[0].picture)),
        proving=pictures,
        full=everything.tokens,
        measure=measure,
        compared=compared,
    )


def _tested(rules: Sequence[Rule], proving: Measured, risk: float, confidence: float) -> list[Step]:
    """The rules on the pictures that prove, up to the first that fixed-sequence testing does not prove."""
    steps: list[Step] = []
    for rule in rules:
        steps.append(_step(rule, proving, risk, confidence=confidence))
        if not steps[-1].p_value <= 1.0 - confidence:
            break
    sound = fixed_sequence([step.p_value for step in steps], 1.0 - confidence)
    return [replace(step, proved=number < sound) for number, step in enumerate(steps)]


def _step(rule: Rule, proving: Measured, risk: float, known: Outcomes | None = None, confidence: float = 0.95) -> Step:
    read = rule.read(proving, known)
    losses = read.by_picture
    return Step(
        rule=rule,
        again=float(read.again.mean()),
        tokens=float(read.tokens.mean()),
        observed=float(losses.mean()),
        bound=upper_bound(losses, confidence) if rule.ways else 0.0,
        p_value=p_value(losses, risk) if rule.ways else 0.0,
        proved=not rule.ways,
    )
