"""What ``calibrate --risk`` says of its result: steps as JSON, notes, and the config."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.calibration._measure import Probe
from trimkit.calibration._outcomes import Outcomes, full_texts, is_right
from trimkit.calibration._promise import Promise, Step
from trimkit.config import Config, Reduction
from trimkit.core.confidence import Measure

__all__ = ["config_of", "limit_to_plain", "notes_of", "step_to_plain"]


def step_to_plain(step: Step) -> dict[str, Any]:
    """One rule and what the pictures say of it, as JSON; an infinite threshold is ``all`` or ``none`` asked again."""
    rule = step.rule
    said: dict[str, Any] = {"method": "none", "budget": 1.0}
    if rule.ways:
        first, *more = rule.ways
        said = {"method": first.method.name, "budget": first.method.budget.to_plain(), "positions": first.positions}
        said |= {"ladder": [way.method.budget.to_plain() for way in more]} if more else {}
    if rule.signal is not None:
        said |= {"measure": rule.signal[0], "tokens": rule.signal[1], "threshold": limit_to_plain(rule.threshold)}
        said |= {"thresholds": [limit_to_plain(each) for each in rule.later]} if rule.later else {}
        said |= {"agreed": [limit_to_plain(each) for each in rule.agreed]} if rule.agreed else {}
    return {
        **said,
        "asked_again": step.again,
        "image_tokens": step.tokens,
        "observed": step.observed,
        "bound": step.bound,
        "p_value": step.p_value,
        "proved": step.proved,
    }


def limit_to_plain(threshold: float) -> float | str:
    """JSON has no infinite numbers: below it ``all`` questions, or ``none``, are asked again."""
    return threshold if abs(threshold) != float("inf") else "all" if threshold > 0 else "none"


def _finite(threshold: float, measure: Measure) -> float:
    """JSON has no infinite numbers: one below, or above, every confidence that the measure can give."""
    low, high = (-1000.0, 1.0) if measure == "entropy" else (0.0, 2.0)
    return threshold if math.isfinite(threshold) else high if threshold > 0 else low


def notes_of(probe: Probe, proved: Sequence[Outcomes], *, generic: bool) -> tuple[str, ...]:
    """What is to be known beside the promise, as sentences.

    Args:
        probe: of the pictures that prove.
        proved: what was measured on them.
        generic: whether general questions were asked.
    """
    notes = []
    if generic:
        notes.append("no questions were given: the promise is about the general ones that were asked, not about yours")
    said, labels = set(full_texts(probe)), {pair.label for pair in probe.pairs}
    if len(said) == 1:
        notes.append("the model gave one and the same answer to every question: these questions tell nothing of others")
    if labels != {None}:
        right = [is_right(text, pair.label or "") for text, pair in zip(full_texts(probe), probe.pairs, strict=True)]
        if not any(right):
            notes.append("no answer is right with all tokens: none can become wrong, so the promise says nothing")
        if len(labels) == 1:
            notes.append("all labels are one and the same: an answer that never changes is always right")
    if cut := probe.cut():
        notes.append(
            f"{cut} of {len(probe.pairs)} answers are longer than the {probe.length} tokens that were compared: what comes "
            "later may change, too (more max_new_tokens compare more)"
        )
    if not any(float(each.loss.sum()) for each in proved):
        notes.append("no answer changed at any budget tried: harder questions would tell more")
    return tuple(notes)


def config_of(promise: Promise, notes: Sequence[str], settings: Mapping[str, Any], scorer: str | None = None) -> Config:
    """What is to be done, and in short what it was proved with; ``scorer`` names one that is not the model's own."""
    rule = promise.chosen.rule
    told = {key: value for key, value in settings.items() if key != "hardware"}
    told |= {"promise": promise.sentence, "risk": promise.risk, "confidence": promise.confidence, "notes": list(notes)}
    if not rule.ways:
        return Config(reduce=Reduction(method="none"), calibration=told)
    first, *more = rule.ways
    options = first.method.model_dump(mode="json", exclude_unset=True)
    again = rule.signal is not None and rule.threshold != float("-inf")
    fallback: dict[str, Any] | None = None
    if again and rule.signal is not None:
        measure, tokens = rule.signal
        fallback = {"measure": measure, "tokens": tokens, "threshold": _finite(rule.threshold, measure)}
        fallback |= {"ladder": [way.method.budget.to_plain() for way in more]} if more else {}
        fallback |= {"thresholds": [_finite(each, measure) for each in rule.later]} if rule.later else {}
        fallback |= {"agreed": [_finite(each, measure) for each in rule.agreed]} if rule.agreed else {}
    reduction = Reduction(
        method=first.method.name,
        fallback=fallback,
        positions=None if first.positions == "auto" else first.positions,
        scorer=scorer,
        **options,
    )
    return Config(reduce=reduction, calibration=told)
