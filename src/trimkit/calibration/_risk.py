"""``trimkit calibrate --risk``: the fewest image tokens with which a promise about a user's own model is proved."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from trimkit.calibration._calibrate import choose_profile, find_scorer, scorer_name
from trimkit.calibration._measure import Probe
from trimkit.calibration._notes import Book, Pair
from trimkit.calibration._outcomes import LossMeasure, Outcomes, Way, measure_outcomes, refuse_broken
from trimkit.calibration._promise import Promise, prove, split_pictures
from trimkit.calibration._risk_report import config_of, notes_of, step_to_plain
from trimkit.calibration._sources import Labels, Questions, make_pairs
from trimkit.calibration._unseen import unseen
from trimkit.config import Config
from trimkit.core.budget import Budget
from trimkit.core.choices import Positions, check_choice
from trimkit.errors import ConfigError, InputError
from trimkit.io.provenance import hardware, versions
from trimkit.methods import Method, get_method

__all__ = ["BUDGETS", "DIALS", "RiskCalibration", "calibrate_risk", "count_risk_passes"]

BUDGETS = (1 / 72, 1 / 36, 1 / 18, 1 / 9, 0.21, 0.4, 0.7)
"""Shares of the image tokens that are tried: 8, 16, 32, 64, 120, 230 and 403 of 576."""

DIALS = (0.08, 0.16, 0.32, 0.64)
"""Of the budget ``auto``, that are tried beside them."""


@dataclass(frozen=True)
class RiskCalibration:
    """What is promised, and what it was proved with.

    Attributes:
        promise: see ``Promise``.
        config: for ``trimkit.config.save_config``.
        notes: what else is to be known, as sentences.
        skipped: ``(name, reason)`` of pictures that the scorer was fitted on, and of questions that the model cannot be asked.
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
    labels: Labels | None = None,
    book: Book | None = None,
    advance: Callable[[int], None] | None = None,
) -> RiskCalibration:
    """Find how to reduce ``model`` so that a promise holds; no labels are needed.

    Args:
        model, processor, pictures, questions, per_picture, max_new_tokens, batch_size, scorer: as ``calibrate`` takes them. One
            question of each picture proves most: those of one picture count together as one.
        risk: the promise: the expected loss is at most this, strictly between 0 and 1.
        confidence: over the draw of the pictures, strictly between 0 and 1.
        measure: what a question loses, see ``LossMeasure``; ``task-metric`` needs ``labels``.
        method: one or several; the one that takes fewest tokens is chosen.
        positions: one or several, as ``trimkit.reduce`` takes them.
        fallback: whether questions may be asked again with all tokens where the model is unsure.
        seed: draws which pictures choose and which prove.
        labels: right answers by name of the picture and question.
        book: where finished questions are taken from and go, for example a ``trimkit.eval.journal.Journal``.
        advance: called with the number of questions done; ``count_risk_passes`` passes over all of them make the whole at most.

    Raises:
        ConfigError: a number or option that cannot be; a method that keeps everything.
        InputError: too few pictures for the promise, those that a fitted scorer has learned from left out.
        ModelError: the model's scores are not finite with all image tokens.
        TrimkitError: whatever ``trimkit.reduce`` raises.
    """
    check_choice("measure", measure, LossMeasure)
    methods = _methods(method)
    if measure == "task-metric" and not labels:
        raise InputError("measure 'task-metric' needs right answers: give \"answer\" in every line of the questions")
    pairs = make_pairs(pictures, questions, per_picture, labels if measure == "task-metric" else None)
    limits: dict[str, Any] = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
    found = find_scorer(next((each for each in methods if each.uses_text), methods[0]), model, scorer)
    pairs, seen, notes = unseen(pairs, found)

    options: dict[str, Any] = {**limits, "scorer": found, "advance": advance, "book": book}
    choosing, proving = _parted(pairs, risk, confidence, seed)
    first = Probe(model, processor, choosing, **options)
    refuse_broken(first)
    profiled = _with_profiles(first, methods, found, seed)
    ways = [Way(get_method(each, budget=size), at) for each in profiled for at in positions for size in _budgets(each)]
    tuned = [measure_outcomes(first, way, measure) for way in ways]
    second = Probe(model, processor, proving, **options)
    refuse_broken(second, forget=measure != "divergence")
    proved: dict[Way, Outcomes] = {}

    def prove_on(way: Way) -> Outcomes:
        if way not in proved:
            proved[way] = measure_outcomes(second, way, measure)
        return proved[way]

    compared = max_new_tokens if first.cut() + second.cut() else None
    promise = prove(tuned, prove_on, risk, confidence, fallback=fallback, measure=measure, compared=compared)
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
    notes += notes_of(second, list(proved.values()), generic=questions is None)
    config = config_of(promise, notes, settings, scorer_name(scorer))
    return RiskCalibration(promise, config, notes, (*seen, *first.skipped, *second.skipped), settings)


def _parted(pairs: Sequence[Pair], risk: float, confidence: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """The questions about pictures that choose, and about those that prove."""
    numbers = sorted({pair.picture for pair in pairs})
    choosing = {numbers[int(place)] for place in split_pictures(len(numbers), risk, confidence, seed)[0]}
    return [each for each in pairs if each.picture in choosing], [
        each for each in pairs if each.picture not in choosing
    ]


def _budgets(method: Method) -> list[Budget]:
    fixed = [Budget("ratio", share) for share in BUDGETS]
    return fixed if method.fixed_budget else fixed + [Budget("auto", dial) for dial in DIALS]


def count_risk_passes(methods: int = 1, positions: int = 1) -> int:
    """Passes over all questions that ``calibrate_risk`` makes at most."""
    return 1 + (len(BUDGETS) + len(DIALS)) * methods * positions + 2 * methods


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
