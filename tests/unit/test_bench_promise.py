"""The benchmark of promises: what it reckons from answers that are made up, and that its tables can be written."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benchmarks import bench_promise, promise_coverage
from benchmarks.promise_scenes import SIGNALS, Answers
from trimkit import get_method
from trimkit.calibration import Outcomes, Way

N = 900


def answers(budget: int, wrong: float, method: str = "focus") -> Answers:
    """A model that is always right with all tokens, and wrong with few in a share of the scenes, where it is mostly unsure."""
    draws = np.random.default_rng(budget)
    changed = (draws.random(N) < wrong).astype(np.float64)
    sure = np.where(changed == 1, draws.random(N) * 0.3, 0.2 + 0.8 * draws.random(N))
    confidence: dict[Any, Any] = {signal: sure if signal[0] == "margin" else draws.random(N) for signal in SIGNALS}
    number, kept, full = np.arange(N, dtype=np.float64), np.full(N, float(budget)), np.full(N, 576.0)
    outcomes = Outcomes(Way(get_method(method, budget=budget)), number, changed, kept, full, confidence)
    return Answers(outcomes, 1 - changed.astype(int), np.ones(N, dtype=int))


POOL = [answers(8, 0.2), answers(64, 0.05), answers(144, 0.0)]


@pytest.mark.parametrize("measure", ["answer", "task-metric"])
def test_a_promise_is_cheaper_than_the_budget_that_keeps_it_alone(measure: str) -> None:
    found = bench_promise.promised(POOL, 600, 0.02, measure, 0)
    assert found["smallest_fixed_budget"]["budgets"] == [144]
    assert found["chosen"]["image_tokens"] < 144
    assert found["chosen"]["on_others"]["n"] == N - 600
    assert found["chosen"]["on_others"]["loss"] <= 0.03
    assert bench_promise.promised(POOL, 100, 0.02, measure, 0)["refused"].startswith("100 pictures are too few")


def test_asking_again_wins_back_what_it_can() -> None:
    found = bench_promise.asking_again(answers(16, 0.08, "trim"), 600)
    assert found["asked_again"] <= bench_promise.MOST_AGAIN + 0.05
    assert found["recovered"] > 0.9
    assert found["accuracy_full"] == 1.0


def test_both_tables_can_be_written() -> None:
    promises = [bench_promise.promised(POOL, count, 0.02, "answer", 0) for count in (600, 100)]
    again = bench_promise.asking_again(answers(16, 0.08, "trim"), 600)
    results = {"promises": promises, "wrong_sign": promises, "asking_again": again, "seconds": {"all": {"mean": 1.0}}}
    record = {"config": {"calibrating": 600, "types": "all"}, "results": results}
    assert "too few scenes" in bench_promise.shown(record)
    assert "wrong sign" in bench_promise.shown(record)
    assert "100.0 %" in bench_promise.shown_again(record)


def test_a_broken_promise_is_counted() -> None:
    name, (draw, fresh) = next(iter(promise_coverage.KINDS.items()))
    rows = [promise_coverage.covered(name, draw, fresh, 0.05, 4, 0, bug=bug) for bug in (False, True)]
    record = {"config": {"draws": 4, "pictures": 600, "risks": [0.05]}, "results": rows}
    assert "*bound left out*" in promise_coverage.shown(record)
    assert rows[0]["mean_share_of_tokens"] > rows[1]["mean_share_of_tokens"]
    assert rows[0]["mean_true_risk"] < rows[1]["mean_true_risk"]
