"""What a promise costs on scenes of the demo model: ``python -m benchmarks.bench_promise --journal FILE``.

Scenes that nobody trained on are answered by many ways of reducing; the first of them calibrate, the last ones check. There are
two promises: at most so many answers change, and at most so many turn from right to wrong. Then asking again alone, from 16
tokens of ``trim``; the same promise where relevance has the wrong sign; and the time of a question from picture to answer, arms
taking turns. With the same journal a run that was interrupted goes on. With ``--scorer`` relevance is a fitted scorer's.
Writes ``benchmarks/results/promise.json``.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import trimkit
from benchmarks.cells import percent, table
from benchmarks.promise_scenes import LENGTH, Answers, gathered, right_ways, wrong_ways
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit import get_method
from trimkit.ask import build_inputs
from trimkit.calibration import Outcomes, Promise, Rule, prove, split_pictures
from trimkit.calibration._risk_report import limit_to_plain
from trimkit.demo import load_demo
from trimkit.demo.typed_items import ALL_TYPES, sample_typed_item
from trimkit.eval.question_types import BASIC

RISKS = (0.01, 0.02, 0.05)
CONFIDENCE = 0.95
MOST_AGAIN = 0.25  # of the questions, where asking again stands alone
MEASURES = {"answer": "answers that change", "task-metric": "answers that turn from right to wrong"}
SPLITS = 8  # other draws of which scenes choose and which prove, for the promise of 2 %
TIMED = 900_000  # scenes from here on are timed


def loss_of(answers: Answers, measure: str) -> Outcomes:
    """The outcomes with the loss of a measure."""
    if measure == "answer":
        return answers.outcomes
    return replace(answers.outcomes, loss=((answers.full_hit == 1) & (answers.hit == 0)).astype(np.float64))


def said_of(rule: Rule) -> dict[str, Any]:
    """A rule in JSON."""
    threshold, *later = map(limit_to_plain, rule.thresholds)
    signal = None if rule.signal is None else list(rule.signal)
    budgets = [way.method.budget.to_plain() for way in rule.ways]
    return {
        "method": rule.ways[0].method.name if rule.ways else "none",
        "budgets": budgets,
        "signal": signal,
        "threshold": threshold,
        "thresholds": later if rule.later else [],
        "agreed": list(map(limit_to_plain, rule.agreed)),
    }


def fitted_on(scorer: Path) -> dict[str, Any]:
    """What a fitted scorer learned from, as its report says."""
    report = json.loads((scorer / "fit.json").read_text(encoding="utf-8"))
    return {name: report[name] for name in ("data", "target", "parameters", "guard")}


def _number(limit: float | str) -> float:
    return limit if not isinstance(limit, str) else math.inf if limit == "all" else -math.inf


def promised(answers: Sequence[Answers], count: int, risk: float, measure: str, seed: int) -> dict[str, Any]:
    """A promise that the first ``count`` scenes make, and what it comes to on the others."""
    pool = [loss_of(each, measure) for each in answers]
    try:
        tuned, proving = split_pictures(count, risk, CONFIDENCE, seed)
    except trimkit.InputError as error:
        return {"measure": measure, "risk": risk, "refused": str(error)}
    parts = {each.way: each.of(proving) for each in pool}
    promise = prove([each.of(tuned) for each in pool], parts.__getitem__, risk, CONFIDENCE)
    fresh = {each.way: each.of(np.arange(count, len(pool[0].loss), dtype=np.float64)) for each in pool}
    everything = fresh[pool[0].way]
    found = _step(promise, promise.chosen.rule, fresh, everything) | {"proved_at": promise.chosen.bound}
    fixed = None if promise.fixed is None else _step(promise, promise.fixed.rule, fresh, everything)
    return {
        "measure": measure,
        "risk": risk,
        "chosen": found,
        "smallest_fixed_budget": fixed,
        "choosing": promise.tuned,
        "proving": promise.proving,
        "image_tokens_full": promise.full,
        "share_of_tokens": promise.chosen.tokens / promise.full,
    }


def _step(promise: Promise, rule: Rule, fresh: dict[Any, Outcomes], everything: Outcomes) -> dict[str, Any]:
    step = next(each for each in (promise.chosen, promise.fixed) if each is not None and each.rule == rule)
    read = rule.read(fresh.__getitem__, everything)
    checked = {"n": len(read.loss), "loss": float(read.loss.mean()), "image_tokens": float(read.tokens.mean())}
    seen = {"image_tokens": step.tokens, "asked_again": step.again, "observed": step.observed}
    return {**said_of(rule), **seen, "on_others": {**checked, "asked_again": float(read.again.mean())}}


def asking_again(answers: Answers, count: int) -> dict[str, Any]:
    """``trim`` at 16 tokens with a fallback to all: how much of the lost accuracy comes back on the scenes that chose nothing.

    The signal and threshold that win back most on the first ``count`` scenes while asking again at most ``MOST_AGAIN``.
    """
    first, rest = answers.of(np.arange(count)), answers.of(np.arange(count, len(answers.hit)))

    def read(part: Answers, signal: Any, threshold: float) -> tuple[float, float]:
        again = ~(part.outcomes.confidence[signal] >= threshold)
        return float(np.where(again, part.full_hit, part.hit).mean()), float(again.mean())

    tried = [
        (signal, float(np.quantile(values, share)))
        for signal, values in first.outcomes.confidence.items()
        for share in np.arange(0.01, MOST_AGAIN, 0.01)
    ]
    signal, threshold = max(tried, key=lambda each: (read(first, *each)[0], -read(first, *each)[1]))
    accuracy, again = read(rest, signal, threshold)
    full, few = float(rest.full_hit.mean()), float(rest.hit.mean())
    return {
        **{"n": len(rest.hit), "signal": list(signal), "threshold": threshold, "asked_again": again},
        **{"accuracy_full": full, "accuracy_16": few, "accuracy_with_fallback": accuracy},
        "recovered": (accuracy - few) / (full - few) if full > few else None,
        "image_tokens": 16 + again * 576,
    }


def seconds(
    rules: dict[str, dict[str, Any] | None], scenes: int, seed: int, types: tuple[str, ...], scorer: Path | None
) -> dict[str, Any]:
    """Median seconds of a question from pixels to answer, by arm; arms take turns scene by scene."""
    model, processor = load_demo()
    arms = {name: rule for name, rule in rules.items() if rule is not None}
    took: dict[str, list[float]] = {name: [] for name in arms}
    for number in range(scenes + 2):
        picture, question = sample_typed_item(seed, TIMED + number, types)
        inputs = build_inputs(model, processor, [picture], [question.text], max_new_tokens=LENGTH)
        turn = number % len(arms)
        for name in [*arms][turn:] + [*arms][:turn]:
            with trimkit.reduce(model, processor, query=[question.text], **_options(arms[name], scorer)):
                began = time.perf_counter()
                with torch.no_grad():
                    model.generate(**inputs, max_new_tokens=LENGTH, do_sample=False)
                took[name].append(time.perf_counter() - began)
    return {
        name: {"median": statistics.median(each[2:]), "mean": statistics.fmean(each[2:])} for name, each in took.items()
    }


def _options(rule: dict[str, Any] | None, scorer: Path | None) -> dict[str, Any]:
    if rule is None or not rule["budgets"]:
        return {"method": get_method("none")}
    first, *more = rule["budgets"]
    found: dict[str, Any] = {"method": rule["method"], "budget": first, "scorer": scorer}
    if rule["signal"] is not None and rule["threshold"] != "none":
        measure, tokens = rule["signal"]
        own = tuple(map(_number, rule["thresholds"]))
        first = _number(rule["threshold"])
        found["fallback"] = {"measure": measure, "tokens": tokens, "threshold": first, "ladder": more}
        found["fallback"] |= {"thresholds": own, "agreed": tuple(map(_number, rule["agreed"]))}
    return found


def shown(record: Record) -> str:
    """Promises, and what they come to on other scenes."""
    rows = []
    for name, group in (("", record["results"]["promises"]), (", wrong sign", record["results"]["wrong_sign"])):
        for each in group:
            told = f"{MEASURES[each['measure']]}, at most {100 * each['risk']:g} %{name}"
            if "refused" in each:
                rows.append([told, "too few scenes", "", "", ""])
                continue
            chosen, fixed, n = each["chosen"], each["smallest_fixed_budget"], each["chosen"]["on_others"]["n"]
            tokens = f"{chosen['image_tokens']:.0f} ({percent(each['share_of_tokens'])})"
            alone = "none" if fixed is None else f"{fixed['image_tokens']:.0f}"
            rows.append(
                [told, tokens, percent(chosen["asked_again"]), f"{percent(chosen['on_others']['loss'])} of {n}", alone]
            )
    head = [
        "promise",
        "image tokens, all rungs",
        "asked again",
        "seen on other scenes",
        "smallest fixed budget that is proved",
    ]
    note = f"Demo model, {record['config']['calibrating']} scenes calibrate, {_types(record)}. All image tokens: 576. "
    note += "95 % confidence."
    scorer = record["config"].get("scorer")
    if scorer is not None:
        note += f" Relevance of a scorer that was fitted without labels to {scorer['data']['pictures']} other pictures."
    drawn = record["results"].get("image_tokens_by_split", {})
    for measure, tokens in drawn.items():
        spread = f"{min(tokens):.0f} to {max(tokens):.0f}, {statistics.fmean(tokens):.0f} on average"
        what = MEASURES[measure].capitalize()
        note += f" {what}, at most 2 %, in {len(tokens)} other draws of which scenes choose: {spread}."
    return f"{table(head, rows)}\n\n{note}"


def _types(record: Record) -> str:
    return {"basic": "the first six types of question", "all": "all ten types of question"}[record["config"]["types"]]


def shown_again(record: Record) -> str:
    """Asking again alone, and seconds."""
    again, times = record["results"]["asking_again"], record["results"]["seconds"]
    recovered = "nothing was lost" if again["recovered"] is None else percent(again["recovered"])
    rows = [
        ["right with 576 tokens", percent(again["accuracy_full"])],
        ["right with 16 tokens (`trim`)", percent(again["accuracy_16"])],
        ["right with 16 tokens, asked again where unsure", percent(again["accuracy_with_fallback"])],
        ["of what was lost, recovered", recovered],
        ["questions asked again", percent(again["asked_again"])],
        *([f"seconds of a question, mean: {name}", f"{each['mean']:.2f}"] for name, each in times.items()),
    ]
    return f"{table(['', str(again['n']) + ' scenes'], rows)}\n\n{_types(record)[0].upper()}{_types(record)[1:]}."


SIX = "bench_promise --types basic --out benchmarks/results/promise_six_types.json"
FITTED = "bench_promise --scorer FOLDER --calibrating 5600 --out benchmarks/results/promise_fitted.json"
TABLES = {
    "promise": made_of("promise", shown, "bench_promise"),
    "promise-again": made_of("promise", shown_again, "bench_promise"),
    "promise-six-types": made_of("promise_six_types", shown, SIX),
    "promise-again-six-types": made_of("promise_six_types", shown_again, SIX),
    "promise-fitted": made_of("promise_fitted", shown, FITTED),
    "promise-again-fitted": made_of("promise_fitted", shown_again, FITTED),
}


def main() -> None:
    """Answer, calibrate, check, time, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calibrating", type=int, default=2400, help="scenes that calibrate")
    parser.add_argument("--others", type=int, default=800, help="scenes that check")
    parser.add_argument(
        "--wrong", type=int, default=600, help="scenes that calibrate where relevance has the wrong sign"
    )
    parser.add_argument("--timed", type=int, default=40, help="scenes that are timed")
    parser.add_argument("--seed", type=int, default=190019)
    parser.add_argument(
        "--types", choices=("basic", "all"), default="all", help="of question: the first six, or all ten"
    )
    parser.add_argument("--scorer", type=Path, help="folder that trimkit fit wrote; by default the model's own CLIP")
    parser.add_argument("--journal", type=Path, help="file of finished answers")
    parser.add_argument("--out", type=Path, default=RESULTS / "promise.json")
    given = parser.parse_args()
    count, total = given.calibrating, given.calibrating + given.others
    types = BASIC if given.types == "basic" else ALL_TYPES
    asked: dict[str, Any] = {"types": types, "scorer": given.scorer}
    answers = gathered(
        right_ways(), given.seed, total, given.journal, lambda done: print(f"{done} scenes", flush=True), **asked
    )
    focus, trim = [each for each in answers if each.outcomes.way.method.name == "focus"], answers[-1]
    promises = [promised(focus, count, risk, measure, given.seed) for measure in MEASURES for risk in RISKS]
    wrong = gathered(wrong_ways(given.scorer), given.seed, given.wrong + given.others // 2, given.journal, **asked)
    broken = [promised(wrong, given.wrong, 0.02, measure, given.seed) for measure in MEASURES]
    timed: dict[str, dict[str, Any] | None] = {"all tokens": {"budgets": []}}
    for each in promises:
        if each["risk"] == 0.02 and "refused" not in each:
            name = f"{MEASURES[each['measure']]}, at most 2 %"
            timed |= {name: each["chosen"], f"{name}, smallest fixed budget": each["smallest_fixed_budget"]}
    drawn = {
        measure: [promised(focus, count, 0.02, measure, seed)["chosen"]["image_tokens"] for seed in range(SPLITS)]
        for measure in MEASURES
    }
    results = {
        "promises": promises,
        "image_tokens_by_split": drawn,
        "wrong_sign": broken,
        "asking_again": asking_again(trim, count),
        "seconds": seconds(timed, given.timed, given.seed, types, given.scorer),
    }
    config = {name: getattr(given, name) for name in ("calibrating", "others", "wrong", "timed", "seed", "types")}
    config["scorer"] = None if given.scorer is None else fitted_on(given.scorer)
    record = {"experiment": "promise", "config": config, "provenance": provenance(), "results": results}
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
