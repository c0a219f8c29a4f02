"""What the scenes suite found: accuracy by question type, what is left of the full model's, and who is ahead of whom."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trimkit.errors import ConfigError
from trimkit.eval.statistics import PairedBootstrap, holm
from trimkit.eval.suite import Arm, Outcomes
from trimkit.eval.suite_filter import RESIZE, filtered, not_learnt
from trimkit.eval.tally import whole
from trimkit.io.provenance import versions
from trimkit.methods import get_method

__all__ = ["FULL", "bootstraps", "compare", "main_effects", "summarise"]

FULL = "none"
ALL = "all"


def summarise(
    outcomes: Outcomes,
    *,
    ours: str | None = None,
    grid: Sequence[Mapping[str, Sequence[Any]]] = (),
    resamples: int = 4000,
) -> dict[str, Any]:
    """One JSON-ready dict of a run.

    Args:
        outcomes: what ``trimkit.eval.suite.run`` gave.
        ours: name of the method that is compared with every other one at the same budget.
        grid: options and the values that were tried, see ``main_effects``.
        resamples: of the bootstrap.

    Returns:
        ``arms``, in the order of the plan: ``method``, ``budget``, ``label``, ``options``, ``image_tokens_kept_mean``,
        ``accuracy``, ``ci95``, ``accuracy_by_type``, ``ci95_by_type``, ``relative`` (share of the full model's, where that was
        an arm), ``fallback``, ``asked_again`` (share of questions) and ``seconds_mean`` where an arm has one, and ``hits``
        (``0`` and ``1``, a character a question, so that any two arms can be compared later).
        ``comparisons``: ``ours`` minus every arm with the same budget, over all questions and by type; ``p_holm`` is ``p``
        adjusted for the number of them, those over all questions and those by type each on their own.
        ``not_learnt``: types that the full model does not know. ``filtered``: see ``trimkit.eval.suite_filter``; it is there
        where ``resize`` was an arm.
        ``n``, ``n_by_type``, ``seed`` and what else was run.
    """
    plan = outcomes.plan
    hits = {arm.label: outcomes.hits(arm) for arm in plan.arms}
    boot = bootstraps(hits, outcomes.types, resamples=resamples)
    kinds = [kind for kind in boot if kind != ALL]
    found: dict[str, Any] = {
        "n": plan.n,
        "n_by_type": {kind: outcomes.types.count(kind) for kind in kinds},
        **{
            name: getattr(plan, name)
            for name in ("seed", "shift", "query", "batch_size", "positions", "padding", "model")
        },
        "resamples": resamples,
        "image_tokens_full": whole(outcomes.mean(plan.arms[0], "full")),
        "arms": [_arm(outcomes, arm, boot, kinds, hits) for arm in plan.arms],
        "versions": versions(),
    }
    found |= _beside_full(outcomes, hits, found["arms"])
    if ours is not None:
        found["ours"] = ours
        found["comparisons"] = compare(_pairs(list({arm.label: arm for arm in plan.arms}.values()), ours), boot)
    if grid:
        found["effects"] = main_effects(plan.arms, boot[ALL], grid)
    return found


def bootstraps(
    hits: Mapping[str, Sequence[int]], types: Sequence[str], *, resamples: int = 4000
) -> dict[str, PairedBootstrap]:
    """Over all questions (``ALL``), then over those of each type, in the order in which types first come."""
    boot = {ALL: PairedBootstrap(hits, resamples=resamples)}
    for kind in dict.fromkeys(types):
        mine = {label: [hit for hit, at in zip(row, types, strict=True) if at == kind] for label, row in hits.items()}
        boot[kind] = PairedBootstrap(mine, resamples=resamples)
    return boot


def compare(entries: Sequence[dict[str, Any]], boot: Mapping[str, PairedBootstrap]) -> list[dict[str, Any]]:
    """Each entry with ``ours`` minus ``other``, also by type, and ``p`` adjusted for their number."""
    found: list[dict[str, Any]] = []
    for entry in entries:
        pair = entry["ours"], entry["other"]
        by_type = {kind: each.difference(*pair) for kind, each in boot.items() if kind != ALL}
        found.append({**entry, **boot[ALL].difference(*pair), "by_type": by_type})
    _adjust(found)
    _adjust([each for entry in found for each in entry["by_type"].values()])
    return found


def _adjust(differences: Sequence[dict[str, Any]]) -> None:
    """Give each its ``p_holm``."""
    for entry, p in zip(differences, holm([entry["p"] for entry in differences]), strict=True):
        entry["p_holm"] = p


def _beside_full(
    outcomes: Outcomes, hits: Mapping[str, list[int]], arms: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    """What is said of the full model, where it was an arm."""
    plan = outcomes.plan
    full = next((arm for arm in arms if arm["label"] == FULL), None)
    if full is None:
        return {}
    alone = [arm for arm in plan.arms if arm.fallback is None]  # others may have seen more tokens than their budget
    resized = {arm.asked: hits[arm.label] for arm in alone if arm.name == RESIZE and arm.asked.isdigit()}
    scored = {arm.label: (arm.asked, hits[arm.label]) for arm in alone}
    found: dict[str, Any] = {"not_learnt": not_learnt(full["accuracy_by_type"])}
    if resized:
        found["filtered"] = filtered(hits[FULL], resized, scored, outcomes.types)
    return found


def _arm(
    outcomes: Outcomes,
    arm: Arm,
    boot: Mapping[str, PairedBootstrap],
    kinds: Sequence[str],
    hits: Mapping[str, list[int]],
) -> dict[str, Any]:
    label = arm.label
    entry = {
        "method": arm.name,
        "budget": arm.asked,
        "label": label,
        "options": arm.method.model_dump(mode="json"),
        "image_tokens_kept_mean": outcomes.mean(arm, "kept"),
        "accuracy": boot[ALL].accuracy(label),
        "ci95": boot[ALL].interval(label),
        "accuracy_by_type": {kind: boot[kind].accuracy(label) for kind in kinds},
        "ci95_by_type": {kind: boot[kind].interval(label) for kind in kinds},
    }
    if any(other.label == FULL for other in outcomes.plan.arms):
        entry["relative"] = boot[ALL].ratio(label, FULL)
        entry["relative_by_type"] = {kind: boot[kind].ratio(label, FULL) for kind in kinds}
    if arm.fallback is not None:
        entry |= {"fallback": arm.fallback.model_dump(mode="json"), **outcomes.asked_again(arm)}
    return entry | {"hits": "".join(map(str, hits[label]))}


def _pairs(arms: Sequence[Arm], ours: str) -> list[dict[str, Any]]:
    """Our method and each other one that was asked for the same budget (its own default is no such budget), both with the same
    way back to more tokens, or none.
    """
    return [
        {"budget": mine.asked, "ours": mine.label, "other": other.label}
        for mine in arms
        if mine.method.name == ours and mine.asked != "default"
        for other in arms
        if other.asked == mine.asked and other.method.name != ours and other.fallback == mine.fallback
    ]


def main_effects(
    arms: Sequence[Arm], boot: PairedBootstrap, grid: Sequence[Mapping[str, Sequence[Any]]]
) -> list[dict[str, Any]]:
    """What each option of a grid is worth.

    Args:
        arms: of the run; those of the grid are found by their options.
        boot: over all questions.
        grid: for each grid its ``method`` and the values of its options, the reference first.

    Returns:
        For every value but the first of each option: ``alone``, the difference to the reference with only this option changed,
        and ``on_average`` over all settings of the other options, both with intervals.

    Raises:
        ConfigError: the run lacks an arm of the grid.
    """
    found = []
    for each in grid:
        method = str(each["method"])
        options = {
            name: [_as_held(method, name, value) for value in values]
            for name, values in each.items()
            if name != "method"
        }
        points = list(itertools.product(*(range(len(values)) for values in options.values())))
        labels = {point: _label(arms, method, options, point) for point in points}
        for place, (name, values) in enumerate(options.items()):
            same = [point for point in points if point[place] == 0]
            for number, value in enumerate(values[1:], start=1):
                pairs = [(labels[(*p[:place], number, *p[place + 1 :])], labels[p]) for p in same]
                change = {"method": each["method"], "option": name, "value": value, "reference": values[0]}
                found.append(change | _effect(boot, pairs))
    return found


def _effect(boot: PairedBootstrap, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """Changed minus reference: of the first pair, and on average over all."""
    weights: dict[str, float] = {}
    for changed, reference in pairs:
        weights[changed] = weights.get(changed, 0.0) + 1 / len(pairs)
        weights[reference] = weights.get(reference, 0.0) - 1 / len(pairs)
    return {"alone": boot.difference(*pairs[0]), "on_average": boot.contrast(weights)}


def _as_held(method: str, option: str, value: Any) -> Any:
    """A value as the method's own field holds it: 1 may be 1.0 there."""
    return get_method(method, **{option: value}).model_dump(mode="json")[option]


def _label(arms: Sequence[Arm], method: str, options: Mapping[str, Sequence[Any]], point: Sequence[int]) -> str:
    """Of the arm with these values, by their numbers, and all else as the method has it; another grid's may differ there."""
    chosen = {name: values[number] for (name, values), number in zip(options.items(), point, strict=True)}
    wanted = get_method(method, **chosen).model_dump()
    for arm in arms:
        if arm.method.name == method and arm.method.model_dump() == wanted:
            return arm.label
    raise ConfigError(f"the grid of {method} is not complete: run all of its arms")
