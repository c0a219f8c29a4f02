"""Is a promise kept as often as it says? ``python -m benchmarks.promise_coverage``.

Many draws of calibration pictures, each calibrated by itself; the risk of what is chosen is known, because the losses are
simulated, or because the pictures are drawn with replacement from a pool of scenes that the demo model has answered. A promise
with 95 % confidence may be broken in 5 % of the draws. The second row of every kind leaves the bound out and takes what was
seen for the truth: at every risk it has to fail on one kind, else the check is worth nothing. Writes
``benchmarks/results/promise_coverage.json``.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from benchmarks.cells import percent, table
from benchmarks.promise_scenes import gathered, right_ways, wrong_ways
from benchmarks.records import RESULTS, Record, made_of, save
from benchmarks.run import provenance
from trimkit import get_method
from trimkit.calibration import Outcomes, Way, prove, split_pictures

RISKS = (0.01, 0.02, 0.05)
CONFIDENCE = 0.95
PICTURES = 600
COUNTS = (8, 32, 121)
SIGNAL: Any = ("margin", 1)

Draw = Callable[[Any, int], list[Outcomes]]
"""Outcomes of all ways on pictures that a generator draws."""


def simulated(rates: Sequence[float], informative: float, per_picture: int = 1, graded: bool = False) -> Draw:
    """Losses of three budgets.

    Args:
        rates: of changed answers, from few tokens to many.
        informative: by how many standard deviations confidence is lower where an answer changes.
        per_picture: questions of a picture; all are as hard as it is.
        graded: losses between 0 and 1 instead of 0 or 1.
    """

    def draw(draws: Any, pictures: int) -> list[Outcomes]:
        owner = np.repeat(np.arange(pictures, dtype=np.float64), per_picture)
        hard = np.repeat(draws.random(pictures), per_picture)
        found = []
        for count, rate in zip(COUNTS, rates, strict=True):
            changed = (hard < rate).astype(np.float64)
            loss = changed * draws.beta(2, 2, len(owner)) if graded else changed
            sure = draws.normal(size=len(owner)) - informative * changed
            kept, full = np.full(len(owner), float(count)), np.full(len(owner), 576.0)
            found.append(Outcomes(Way(get_method("trim", budget=count)), owner, loss, kept, full, {SIGNAL: sure}))
        return found

    return draw


KINDS: dict[str, tuple[Draw, int]] = {
    "confidence that knows": (simulated((0.3, 0.1, 0.01), 2.0), 20_000),
    "confidence that knows nothing": (simulated((0.3, 0.1, 0.01), 0.0), 20_000),
    "a risk just above the promised one": (simulated((0.055, 0.022, 0.011), 0.0), 20_000),
    "three questions a picture": (simulated((0.3, 0.1, 0.01), 2.0, per_picture=3), 20_000),
    "losses between 0 and 1": (simulated((0.2, 0.08, 0.02), 1.0, graded=True), 20_000),
}


def scenes(pool: Sequence[Outcomes]) -> Draw:
    """Pictures drawn with replacement from a pool of answered scenes, of which only a few ways are tried."""

    def draw(draws: Any, pictures: int) -> list[Outcomes]:
        total = len(pool[0].loss)
        taken = np.arange(total) if pictures == 0 else draws.integers(0, total, pictures)
        owner = np.arange(len(taken), dtype=np.float64)
        return [
            Outcomes(
                each.way,
                owner,
                each.loss[taken],
                each.kept[taken],
                each.full[taken],
                {signal: values[taken] for signal, values in each.confidence.items() if signal[1] == 1},
                {1: each.said[1][taken]},
            )
            for each in pool
        ]

    return draw


def one_draw(draw: Draw, draws: Any, risk: float, fresh: Sequence[Outcomes]) -> tuple[float, float]:
    """True risk of what one set of pictures chooses, and the share of image tokens that it takes."""
    mine = draw(draws, PICTURES)
    tuned, proving = split_pictures(PICTURES, risk, CONFIDENCE, int(draws.integers(1 << 30)))
    parts = {each.way: each.of(proving) for each in mine}
    promise = prove([each.of(tuned) for each in mine], parts.__getitem__, risk, CONFIDENCE)
    by_way = {each.way: each for each in fresh}
    read = promise.chosen.rule.read(by_way.__getitem__, fresh[0])
    return float(read.by_picture.mean()), float(read.tokens.mean() / fresh[0].full.mean())


def covered(
    name: str, draw: Draw, fresh: int, risk: float, count: int, seed: int, *, bug: bool = False
) -> dict[str, Any]:
    """Draws in which the promise is broken, with the planted ``bug`` or without."""
    draws = np.random.default_rng([seed, int(risk * 1000)])
    others = draw(draws, fresh)
    seen = lambda losses, limit: float(losses.mean() > limit)  # noqa: E731 (what stands for a p-value: 0 or 1)
    with mock.patch("trimkit.calibration._promise.p_value", seen) if bug else mock.MagicMock():
        found = [one_draw(draw, draws, risk, others) for _ in range(count)]
    broken = sum(true > risk for true, _ in found)
    limit = (1 - CONFIDENCE) + 2 * math.sqrt(CONFIDENCE * (1 - CONFIDENCE) / count)
    return {
        "kind": name,
        "bound_left_out": bug,
        "risk": risk,
        "draws": count,
        "broken": broken,
        "share_broken": broken / count,
        "limit": limit,
        "kept": broken / count <= limit,
        "mean_true_risk": float(np.mean([true for true, _ in found])),
        "mean_share_of_tokens": float(np.mean([share for _, share in found])),
    }


def shown(record: Record) -> str:
    """Broken promises by kind of losses and risk."""
    rows = []
    for kind, bug in dict.fromkeys((each["kind"], each["bound_left_out"]) for each in record["results"]):
        mine = [each for each in record["results"] if (each["kind"], each["bound_left_out"]) == (kind, bug)]
        name = f"{kind}, *bound left out*" if bug else kind
        rows.append([name, *(percent(each["share_broken"]) for each in mine)])
    config = record["config"]
    head = ["losses", *(f"promised {risk * 100:g} %" for risk in config["risks"])]
    note = (
        f"Share of {config['draws']} draws of {config['pictures']} pictures in which the true risk is above the promised one; "
        f"at most {percent(record['results'][0]['limit'])} (5 % and two standard errors) are to be. "
        "Without the bound it is a quarter as many draws."
    )
    return f"{table(head, rows)}\n\n{note}"


TABLES = {"promise-coverage": made_of("promise_coverage", shown, "promise_coverage")}


def main() -> None:
    """Draw, calibrate, count, and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--scenes", type=int, default=0, help="answered scenes to draw from, too")
    parser.add_argument("--scenes-seed", type=int, default=190019)
    parser.add_argument("--journal", type=Path, help="finished answers of bench_promise")
    parser.add_argument("--out", type=Path, default=RESULTS / "promise_coverage.json")
    given = parser.parse_args()
    kinds = dict(KINDS)
    if given.scenes:
        answers = gathered(right_ways(), given.scenes_seed, given.scenes, given.journal)
        pool = [each.outcomes for each in answers if each.outcomes.way.method.budget.value in (8, 32, 144)]
        kinds["scenes of the demo model"] = (scenes(pool), 0)
        wrong = gathered(wrong_ways(), given.scenes_seed, given.scenes, given.journal)
        kinds["the same, relevance of the wrong sign"] = (scenes([each.outcomes for each in wrong]), 0)
    config = {"draws": given.draws, "pictures": PICTURES, "risks": RISKS, "confidence": CONFIDENCE, "seed": given.seed}
    config |= {"scenes": given.scenes, "scenes_seed": given.scenes_seed}
    results = []
    for name, (draw, fresh) in kinds.items():
        for bug in (False, True):
            for risk in RISKS:
                count = given.draws // 4 if bug else given.draws
                results.append(covered(name, draw, fresh, risk, count, given.seed, bug=bug))
                print(json.dumps(results[-1]), flush=True)
    record = {"experiment": "promise_coverage", "config": config, "provenance": provenance(), "results": results}
    save(record, given.out)
    print(f"wrote {given.out}")


if __name__ == "__main__":
    main()
