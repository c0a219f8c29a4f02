"""``trimkit calibrate --risk``: the fewest image tokens with which a promise about a user's own model is proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.calibration._calibrate import choose_profile, find_scorer
from trimkit.calibration._measure import Probe, Values
from trimkit.calibration._outcomes import LossMeasure, Outcomes, Way, measure_outcomes, refuse_broken
from trimkit.calibration._promise import Promise, Step, prove, split_pictures
from trimkit.calibration._sources import Questions, make_pairs
from trimkit.config import Config, Reduction
from trimkit.core.choices import Positions, check_choice
from trimkit.errors import ConfigError
from trimkit.io.provenance import hardware, versions
from trimkit.methods import Method, get_method

__all__ = ["BUDGETS", "RiskCalibration", "calibrate_risk", "count_risk_passes"]

BUDGETS = (1 / 72, 1 / 36, 1 / 18, 1 / 9, 0.21, 0.4, 0.7)
"""Shares of the image tokens that are tried: 8, 16, 32, 64, 120, 230 and 403 of 576."""


@dataclass(frozen=True)
class RiskCalibration:
    """What is promised, and what it was proved with.

    Attributes:
        promise: see ``Promise``.
        config: for ``trimkit.config.save_config``.
        notes: what else is to be known, as sentences.
        skipped: ``(name, reason)`` of questions that the model cannot be asked.
        settings: what was run.
    """

    promise: Promise
    config: Config
    notes: tuple[str, ...]
    skipped: tuple[tuple[str, str], ...]
    settings: dict[str, Any]

    def to_plain(self) -> dict[str, Any]:
        """The JSON object that ``trimkit calibrate --risk --json`` prints."""
        promise = self.promise
        return {
            "promise": promise.sentence,
            "risk": promise.risk,
            "confidence": promise.confidence,
            "chosen": step_to_plain(promise.chosen),
            "curve": [step_to_plain(step) for step in promise.steps],
            "smallest_fixed_budget": None if promise.fixed is None else step_to_plain(promise.fixed),
            "image_tokens_full": promise.full,
            "pictures": {"choosing": promise.tuned, "proving": promise.proving},
            "notes": list(self.notes),
            "skipped": [{"name": name, "reason": reason} for name, reason in self.skipped],
            "settings": self.settings,
            "config": self.config.model_dump(mode="json", exclude_none=True),
        }


def calibrate_risk(
    model: Any,
    processor: Any,
    pictures: Mapping[str, Any],
    questions: Questions | None = None,
    *,
    risk: float = 0.02,
    confidence: float = 0.95,
    measure: LossMeasure = "answer",
    method: str | Method | Sequence[str | Method] = "focus",
    positions: Sequence[Positions] = ("auto",),
    fallback: bool = True,
    per_picture: int = 1,
    max_new_tokens: int = 8,
    batch_size: int = 8,
    seed: int = 0,
    scorer: Any = None,
    advance: Callable[[int], None] | None = None,
) -> RiskCalibration:
    """Find how to reduce ``model`` so that a promise holds; no labels are needed.

    Args:
        model, processor, pictures, questions, per_picture, max_new_tokens, batch_size, scorer: as ``calibrate`` takes them. One
            question of each picture proves most: those of one picture count together as one.
        risk: the promise: the expected loss is at most this, strictly between 0 and 1.
        confidence: over the draw of the pictures, strictly between 0 and 1.
        measure: what a question loses, see ``LossMeasure``.
        method: one or several; the one that takes fewest tokens is chosen.
        positions: one or several, as ``trimkit.reduce`` takes them.
        fallback: whether questions may be asked again with all tokens where the model is unsure.
        seed: draws which pictures choose and which prove.
        advance: called with the number of questions done; ``count_risk_passes`` passes over all of them make the whole at most.

    Raises:
        ConfigError: a number or option that cannot be; a method that keeps everything.
        InputError: too few pictures for the promise.
        ModelError: the model's scores are not finite with all image tokens.
        TrimkitError: whatever ``trimkit.reduce`` raises.
    """
    check_choice("measure", measure, LossMeasure)
    methods = _methods(method)
    pairs = make_pairs(pictures, questions, per_picture)
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    found = find_scorer(next((each for each in methods if each.uses_text), methods[0]), model, scorer)

    def probe_of(places: Values) -> Probe:
        wanted = {numbers[int(place)] for place in places}
        mine = [pair for pair in pairs if pair.picture in wanted]
        return Probe(model, processor, mine, scorer=found, advance=advance, **limits)

    numbers = sorted({pair.picture for pair in pairs})
    choosing, proving = split_pictures(len(numbers), risk, confidence, seed)
    first = probe_of(choosing)
    refuse_broken(first)
    ways = [
        Way(get_method(each, budget=share), place)
        for each in _with_profiles(first, methods, found, seed)
        for place in positions
        for share in BUDGETS
    ]
    tuned = [measure_outcomes(first, way, measure) for way in ways]
    second = probe_of(proving)
    refuse_broken(second)
    proved = [measure_outcomes(second, way, measure) for way in ways]
    promise = prove(tuned, proved, risk, confidence, fallback=fallback)
    settings = {
        **{"method": [each.name for each in methods], "positions": list(positions), "measure": measure},
        **{
            "questions": "generic" if questions is None else "given",
            "per_picture": per_picture,
            **limits,
            "seed": seed,
        },
        **{"versions": versions(), "hardware": hardware(str(model.device))},
    }
    notes = _notes(second, proved, questions is None)
    skipped = (*first.skipped, *second.skipped)
    return RiskCalibration(promise, _config(promise, notes, settings), notes, skipped, settings)


def count_risk_passes(methods: int = 1, positions: int = 1) -> int:
    """Passes over all questions that ``calibrate_risk`` makes at most."""
    return 1 + len(BUDGETS) * methods * positions + 2 * methods


def step_to_plain(step: Step) -> dict[str, Any]:
    """One rule and what the pictures say of it, as JSON; an infinite threshold is ``all`` or ``none`` asked again."""
    rule = step.rule
    said: dict[str, Any] = (
        {"method": "none", "budget": 1.0}
        if rule.way is None
        else {
            "method": rule.way.method.name,
            "budget": rule.way.method.budget.to_plain(),
            "positions": rule.way.positions,
        }
    )
    if rule.signal is not None:
        finite = abs(rule.threshold) != float("inf")
        limit: Any = rule.threshold if finite else "all" if rule.threshold > 0 else "none"
        said |= {"measure": rule.signal[0], "tokens": rule.signal[1], "threshold": limit}
    return {
        **said,
        "asked_again": step.again,
        "image_tokens": step.tokens,
        "observed": step.observed,
        "bound": step.bound,
        "p_value": step.p_value,
        "proved": step.proved,
    }


def _methods(method: str | Method | Sequence[str | Method]) -> list[Method]:
    given = [method] if isinstance(method, str | Method) else list(method)
    methods = [get_method(each) for each in given]
    for each in methods:
        if each.name == "none" or each.prunes_llm:
            raise ConfigError(
                f"method {each.name!r} drops no image tokens before the language model: choose for example 'focus'"
            )
    return methods


def _with_profiles(probe: Probe, methods: Sequence[Method], found: Any, seed: int) -> list[Method]:
    """The methods, with the sign and normalisation that the choosing pictures decide."""
    return [
        get_method(each, profile=choose_profile(probe, each, each.profile or found.profile, seed)[0].method.profile)
        if each.uses_text and found is not None
        else each
        for each in methods
    ]


def _notes(probe: Probe, proved: Sequence[Outcomes], generic: bool) -> tuple[str, ...]:
    notes = []
    if generic:
        notes.append("no questions were given: the promise is about the general ones that were asked, not about yours")
    said = {tuple(row) for each in probe.answers for row in each.tokens.masked_fill(~each.real, -1).tolist()}
    if len(said) == 1:
        notes.append("the model gave one and the same answer to every question: these questions tell nothing of others")
    if not any(float(each.loss.sum()) for each in proved):
        notes.append("no answer changed at any budget tried: harder questions would tell more")
    return tuple(notes)


def _config(promise: Promise, notes: Sequence[str], settings: Mapping[str, Any]) -> Config:
    """What is to be done, and in short what it was proved with."""
    rule = promise.chosen.rule
    told = {key: value for key, value in settings.items() if key != "hardware"}
    told |= {"promise": promise.sentence, "risk": promise.risk, "confidence": promise.confidence, "notes": list(notes)}
    if rule.way is None:
        return Config(reduce=Reduction(method="none"), calibration=told)
    options = rule.way.method.model_dump(mode="json", exclude_unset=True)
    again = rule.signal is not None and rule.threshold != float("-inf")
    looked = dict(zip(("measure", "tokens"), rule.signal or (), strict=False))
    fallback = {**looked, "threshold": rule.threshold} if again else None
    reduction = Reduction(
        method=rule.way.method.name,
        fallback=fallback,
        positions=None if rule.way.positions == "auto" else rule.way.positions,
        **options,
    )
    return Config(reduce=reduction, calibration=told)
